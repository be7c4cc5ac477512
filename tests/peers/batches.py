"""Random steps that other libraries can read: groups of ragged rollouts, far enough from pi_old for clips to bite.

A *step* is a dict of the arguments of ``contrapose.credit``, in float64. What lies under the mask's zeros is arbitrary,
but finite, for others multiply by the mask.
"""

import torch

import contrapose

EXACT = {"rtol": 1e-12, "atol": 1e-15}
"""Between two orders of summation in float64; credits are about 1e-2."""


def step(seed, Q=6, K=5, T=9, std=0.35, holes=True, absent=0.0):
    """The last group's rewards are equal. With ``holes``, the mask has some and one rollout is all hole."""
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(1, T + 1, (Q, K), generator=g)
    length[0, 0] = T
    mask = torch.arange(T) < length.unsqueeze(-1)
    if holes:
        mask &= (torch.arange(T) == 0) | (torch.rand(Q, K, T, generator=g) < 0.85)
        mask[1, 1] = False
    present = torch.rand(Q, K, generator=g) >= absent
    present[:2] = True
    reward = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)[torch.randint(4, (Q, K), generator=g)]
    reward[-1] = 1.0
    old = -2 * torch.rand(Q, K, T, generator=g, dtype=torch.float64)
    moved, apart = std * torch.randn(2, Q, K, T, generator=g, dtype=torch.float64)
    return {
        "logp": old + moved,
        "old_logp": old,
        "reference_logp": old + moved + apart,
        "mask": (mask & present.unsqueeze(-1)).double(),
        "reward": reward,
        "present": present,
    }


def ours(name, step, **hyperparameters):
    """Our credit, ``[Q, K, T]``."""
    given = dict(step)
    return contrapose.credit(name, given.pop("logp"), **given, **hyperparameters)


def advantage(step, eps):
    """``(r - mean r) / (std r + eps)`` of each group, without our test for equal rewards."""
    A = torch.zeros_like(step["reward"])
    for q, present in enumerate(step["present"]):
        r = step["reward"][q, present]
        A[q, present] = (r - r.mean()) / (r.std() + eps)
    return A


EQUAL_GROUPS, UNEQUAL_GROUPS = step(1), step(3, absent=0.2)
NEARLY_EQUAL_REWARDS = EQUAL_GROUPS | {"reward": 0.1 + 1e-8 * torch.arange(5.0, dtype=torch.float64).expand(6, 5)}
"""Equal but for rounding."""


def move(step, tokens, d):
    """A copy whose log-ratios are ``d`` at some tokens of group 0's worst rollout, and their address."""
    logp, at = step["logp"].clone(), (0, int(step["reward"][0].argmin()), tokens)
    logp[at] = step["old_logp"][at] + d
    return step | {"logp": logp}, at


def clip(low, high):
    return {"clip_low": low, "clip_high": high}


def log_ratio(step):
    return (step["logp"] - step["old_logp"]) * step["mask"]


def length(step):
    """``[Q, K, 1]``, at least 1."""
    return step["mask"].sum(-1, keepdim=True).clamp(min=1)


def same(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, **{**EXACT, **tolerance})


def differ(found, expected):
    """By more than any rounding: at least 1 in 1000 of the whole."""
    assert (found - expected).norm() > 1e-3 * expected.norm()
