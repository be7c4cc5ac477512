"""Random steps with everything that can go wrong in one, and how a step is read by the transcriptions."""

import math

import torch

D = torch.float64
SAME = 1e-6
LIMIT = 20.0
DRIFT = 0.1


def ragged(seed, Q=3, K=4, T=5, std=0.35, absent=0.15, empty=0.1):
    """A random step: ragged lengths, some of them 0, holes in the mask, tied rewards, dead and absent rows."""
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(1, T + 1, (Q, K), generator=g)
    length[torch.rand(Q, K, generator=g) < empty] = 0
    reward = torch.tensor([0.0, 0.1, 1.0], dtype=D)[torch.randint(3, (Q, K), generator=g)]
    return step_of(length, reward, torch.rand(Q, K, generator=g) >= absent, seed, T, std)


def step_of(length, reward, present, seed, T, std=0.35):
    """A step with random log-probs; masked positions hold NaN, absent rollouts an absurd reward.

    The policy has sunk on its samples by ``DRIFT`` nats a token, so that the mean of -d is mostly above 0.
    """
    g = torch.Generator().manual_seed(seed + 1)
    shape = (*length.shape, T)
    inside = torch.arange(T) < length.unsqueeze(-1)
    first = torch.arange(T) == 0
    mask = inside & (first | (torch.rand(shape, generator=g) < 0.85)) & present.unsqueeze(-1)
    old = -2 * torch.rand(shape, generator=g, dtype=D)
    moved, apart = std * torch.randn(2, *shape, generator=g, dtype=D) - DRIFT
    new = old + torch.where(moved.abs() < 0.02, 0.0, moved)  # some tokens did not move at all
    return {
        "logp": new.masked_fill(~mask, math.nan),
        "old_logp": old.masked_fill(~mask, math.nan),
        "reference_logp": (new + torch.where(apart.abs() < 0.02, 0.0, apart)).masked_fill(~mask, math.nan),
        "mask": mask.double(),
        "reward": torch.where(present, reward, 7.0),
        "correct": torch.where(present, reward == 1.0, True),
        "present": present,
    }


def group(reward, length=None, T=3, seed=0, dtype=D):
    """One whole group: ``(logp, the rest)``."""
    reward = torch.tensor([reward], dtype=dtype)
    length = torch.full(reward.shape, T) if length is None else torch.tensor([length])
    step = step_of(length, reward, torch.ones_like(reward, dtype=torch.bool), seed, T)
    return apart({key: x.to(dtype) if x.is_floating_point() else x for key, x in step.items()})


def apart(step):
    """A step as the arguments of ``contrapose.credit``: ``(logp, the rest)``."""
    return step["logp"], without(step, "logp")


def without(step, *keys):
    return {key: x for key, x in step.items() if key not in keys}


def groups(step):
    """``(q, its present rollouts)`` for each group that has any."""
    for q in range(len(step["reward"])):
        here = [k for k in range(step["reward"].shape[1]) if step["present"][q, k]]
        if here:
            yield q, here


def sides(step, q, here, positives):
    """Positives and negatives of group ``q``; empty completions are neither."""
    r_max = max(reward(step, q, k) for k in here)
    scored = [k for k in here if moves(step, q, k)]
    if positives == "best":
        pos = [k for k in scored if reward(step, q, k) >= r_max - SAME]
    else:
        pos = [k for k in scored if step["correct"][q, k]]
    return pos, [k for k in scored if k not in pos]


def moves(step, q, k, since="old_logp"):
    """``(t, d)`` of each response token; ``since`` another policy, d is the log-ratio to that one."""
    T = step["mask"].shape[2]
    return [(t, float(step["logp"][q, k, t] - step[since][q, k, t])) for t in range(T) if step["mask"][q, k, t]]


def logps(step, q, k):
    """``l`` of each response token."""
    return [float(step["logp"][q, k, t]) for t, _ in moves(step, q, k)]


def reward(step, q, k):
    return float(step["reward"][q, k])


def prompts(step):
    return sum(1 for _ in groups(step))


def rollouts(step):
    return sum(len(here) for _, here in groups(step))


def tokens(step):
    return sum(len(moves(step, q, k)) for q, here in groups(step) for k in here)


def zeros(step):
    Q, K, T = step["mask"].shape
    return [[[0.0] * T for _ in range(K)] for _ in range(Q)]


def exp_of(d):
    """``(e^d, its derivative)`` with d held within 20 nats, where it no longer moves."""
    held = min(max(d, -LIMIT), LIMIT)
    return math.exp(held), math.exp(held) if held == d else 0.0


def k3_of(d):
    """``(e^d - 1 - d, its derivative)``, a straight line beyond 20 nats."""
    held = min(max(d, -LIMIT), LIMIT)
    return math.expm1(held) - held + math.expm1(held) * (d - held), math.expm1(held)
