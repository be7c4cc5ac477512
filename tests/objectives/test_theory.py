"""The papers' statements as identities on value and credit, in float64."""

import math
from itertools import product
from statistics import fmean

import pytest
import textbook
import torch
from textbook import EVERY_KIND

import contrapose
from contrapose.objectives.advantage import ZScore
from contrapose.objectives.aggregate import token_sum
from contrapose.objectives.contrast import Linear
from contrapose.objectives.score import LogRatio
from contrapose.objectives.trust import KLOld, KLReference, k3
from contrapose.types import Now

D = torch.float64
POSITIVES_FIRST = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=D)
SCORES = torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=D)


def ragged(seed, **kw):
    """A random step without padding traps: ``(logp, the rest)``."""
    step = textbook.ragged(seed, **kw)
    return step.pop("logp"), step


def one_token(scores, **kw):
    """Credits of rollouts of one token whose log-ratio or log-likelihood is the score itself."""
    name = kw.pop("name", "rence")
    if name == "rence":
        kw = {"beta": 1.0, "trust": None, "old_logp": torch.zeros_like(scores).unsqueeze(-1), **kw}
    kw.setdefault("reward", POSITIVES_FIRST)
    arguments = (name, scores.unsqueeze(-1))
    return contrapose.value(*arguments, **kw).item(), contrapose.credit(*arguments, **kw).squeeze(-1)[0]


def rollout_credits(credit_QKT, mask_QKT, mean=False):
    """dJ/ds of each rollout, from token credits that add up to it (or, with ``mean``, that each equal it)."""
    total_QK = credit_QKT.sum(-1)
    return total_QK / mask_QKT.sum(-1).clamp(min=1) if mean else total_QK


@pytest.mark.parametrize("case", EVERY_KIND)
def test_credit_is_the_derivative_of_the_value(case):
    name, arguments = EVERY_KIND[case]
    logp, step = ragged(1, Q=2, K=4, T=3)
    found = contrapose.credit(name, logp, **step, **arguments)
    for at in (step["mask"] == 1).nonzero().tolist():
        up, down = logp.clone(), logp.clone()
        up[tuple(at)] += 1e-6
        down[tuple(at)] -= 1e-6
        rise = contrapose.value(name, up, **step, **arguments) - contrapose.value(name, down, **step, **arguments)
        assert found[tuple(at)].item() == pytest.approx(rise.item() / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_conspo_proposition_1(seed):
    """GRPO's J is W (E+[s+] - E-[s-]), expectations weighted by |A|, for any rewards."""
    step = textbook.ragged(seed, Q=1, K=6)
    reward = torch.where(step["present"], torch.rand(1, 6, generator=torch.Generator().manual_seed(seed), dtype=D), 7.0)
    step["reward"] = reward
    r = reward[step["present"]]
    A = (r - r.mean()) / r.std(correction=0)
    here = step["present"][0].nonzero().flatten().tolist()
    pull = {k: float(a) for k, a in zip(here, A, strict=True) if a > 0}
    push = {k: -float(a) for k, a in zip(here, A, strict=True) if a < 0}

    def expected_score(weights, side):
        score = {k: sum(s for _, s, _ in textbook.score_terms(step, 0, k, "clipped_ratio", 0.2, side)) for k in weights}
        return sum(weights[k] * score[k] for k in weights) / sum(weights.values())

    W = fmean(A.abs().tolist()) / 2
    expected = W * (expected_score(pull, +1) - expected_score(push, -1))
    found = contrapose.value("grpo", step.pop("logp"), **step, std_ddof=0, std_eps=0.0)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("right", range(1, 8))
@pytest.mark.parametrize(
    ("name", "arguments"), [("grpo", {"std_ddof": 0, "std_eps": 0.0}), ("conspo", {"contrast": "linear"})]
)
def test_conspo_lemma_1(name, arguments, right):
    """Binary rewards: every positive receives sqrt(p(1-p))/N+, every negative -sqrt(p(1-p))/N-, whatever its score."""
    length = torch.tensor([[1, 2, 3, 4, 4, 3, 2, 1]])
    reward = (torch.arange(8) < right).to(D).unsqueeze(0)
    step = textbook.step_of(length, reward, torch.ones(1, 8, dtype=torch.bool), seed=2, T=4)
    logp, mask = step["logp"], step["mask"]
    found = rollout_credits(contrapose.credit(name, logp, mask=mask, reward=reward, **arguments), mask)[0]
    p = right / 8
    spread = math.sqrt(p * (1 - p))
    assert found.tolist() == pytest.approx([spread / right] * right + [-spread / (8 - right)] * (8 - right), rel=1e-10)


def test_grpo_bessel_shrinks_every_advantage_alike():
    _, population = one_token(SCORES, name="grpo", std_ddof=0, std_eps=0.0)
    _, sample = one_token(SCORES, name="grpo", std_ddof=1, std_eps=0.0)
    assert (sample / population).tolist() == pytest.approx([math.sqrt(7 / 8)] * 8, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "tau"), [({"name": "conspo", "tau": 0.3, "margin": None}, 0.3), ({"margin": None}, 1.0)]
)
def test_conspo_lemma_2(arguments, tau):
    """Gates on positives, one softmax over negatives: |c_j| / |c_k| = exp((s_j - s_k) / tau), and all add up to 0."""
    J, c = one_token(SCORES, **arguments)
    logits = SCORES[0] / tau
    Z = logits[3:].logsumexp(0)
    gates = torch.sigmoid(Z - logits[:3])
    assert pytest.approx(-tau * torch.nn.functional.softplus(Z - logits[:3]).mean().item(), rel=1e-12) == J
    torch.testing.assert_close(c[:3], gates / 3, rtol=1e-12, atol=0)
    torch.testing.assert_close(c[3:].sum(), -gates.mean(), rtol=1e-12, atol=0)
    for j, k in product(range(3, 8), range(3, 8)):
        assert (c[j] / c[k]).item() == pytest.approx(math.exp(logits[j] - logits[k]), rel=1e-12)


def test_the_reward_gap_decides_between_negatives_of_equal_score():
    """|c_j| / |c_k| = exp(alpha (r_k - r_j))."""
    reward = torch.tensor([[1.0, 0.1, 0.0]], dtype=D)
    _, c = one_token(torch.zeros(1, 3, dtype=D), reward=reward, alpha=2.0)
    assert (c[2] / c[1]).item() == pytest.approx(math.exp(2.0 * 0.1), rel=1e-12)


def test_the_reward_gap_is_for_negatives_only():
    """A correct rollout below the best reward is still a positive, and has no margin."""
    reward = torch.tensor([[1.0, 0.6, 0.0]], dtype=D)
    J, c = one_token(SCORES[:, :3], reward=reward, correct=reward > 0.5, positives="correct", alpha=2.0)
    s = SCORES[0, :3]
    gates = torch.sigmoid(s[2] + 2.0 - s[:2])
    assert c.tolist() == pytest.approx([gates[0].item() / 2, gates[1].item() / 2, -gates.mean().item()], rel=1e-12)
    assert pytest.approx((1 - gates).log().mean().item(), rel=1e-12) == J


def test_conspo_is_a_gate_on_disco():
    """J = -mean of tau softplus(-D_i / tau + log N- + m / tau), D_i the DisCO contrast of a positive."""
    tau, m = 0.7, 0.2
    J, _ = one_token(SCORES, name="conspo", tau=tau, M=m, margin="constant")
    disco = SCORES[0, :3] - tau * (SCORES[0, 3:] / tau).exp().mean().log()
    gated = -tau * torch.nn.functional.softplus(-disco / tau + math.log(5) + m / tau).mean()
    assert pytest.approx(gated.item(), rel=1e-12) == J


@pytest.mark.parametrize(
    ("name", "arguments", "mean"),
    [
        ("rence", {"trust": None}, True),
        ("rence", {"trust": None, "contrast": "softmax"}, True),
        ("rence", {"trust": None, "contrast": "all_pairs"}, True),
        ("rence", {"trust": None, "contrast": "random_pair"}, True),
        ("conspo", {"tau": 0.5}, False),
        ("conspo", {"contrast": "linear"}, False),
    ],
)
def test_credits_of_a_group_sum_to_zero(name, arguments, mean):
    logp, step = ragged(3, Q=6, K=8, empty=0.0)
    c_QK = rollout_credits(contrapose.credit(name, logp, **step, **arguments), step["mask"], mean)
    assert c_QK.abs().amax(1).min() > 1e-4
    assert c_QK.sum(1).abs().max() < 1e-15


@pytest.mark.parametrize("contrast", ["nce", "softmax", "all_pairs"])
@pytest.mark.parametrize("shift", [-50.0, 3.0])
def test_only_differences_of_scores_matter(contrast, shift):
    J, c = one_token(SCORES, contrast=contrast)
    shifted_J, shifted_c = one_token(SCORES + shift, contrast=contrast)
    assert shifted_J == pytest.approx(J, rel=1e-10)
    torch.testing.assert_close(shifted_c, c, rtol=1e-10, atol=0)


@pytest.mark.parametrize("contrast", ["nce", "linear"])
def test_conspo_only_differences_of_likelihoods_matter(contrast):
    logp, step = ragged(4, Q=4, K=6, empty=0.0)
    arguments = {"tau": 0.5, "contrast": contrast, "margin": None}
    found = contrapose.credit("conspo", logp, **step, **arguments)
    shifted = contrapose.credit("conspo", logp - 3.0, **step, **arguments)
    torch.testing.assert_close(shifted, found, rtol=1e-10, atol=0)
    J, shifted_J = (contrapose.value("conspo", x, **step, **arguments).item() for x in (logp, logp - 3.0))
    assert shifted_J == pytest.approx(J, rel=1e-10)


@pytest.mark.parametrize("case", EVERY_KIND)
def test_the_order_of_groups_and_rollouts_is_nothing(case):
    name, arguments = EVERY_KIND[case]
    logp, step = ragged(6, Q=3, K=5)
    g = torch.Generator().manual_seed(0)
    groups, rollouts = torch.randperm(3, generator=g), torch.randperm(5, generator=g)
    mixed = {key: x[groups][:, rollouts] for key, x in step.items()}
    found = contrapose.credit(name, logp, **step, **arguments)
    other = contrapose.credit(name, logp[groups][:, rollouts], **mixed, **arguments)
    torch.testing.assert_close(other, found[groups][:, rollouts], rtol=1e-12, atol=1e-15)
    J = contrapose.value(name, logp, **step, **arguments).item()
    assert contrapose.value(name, logp[groups][:, rollouts], **mixed, **arguments).item() == pytest.approx(J, rel=1e-12)


@pytest.mark.parametrize("case", EVERY_KIND)
def test_padding_is_nothing(case):
    """Longer rows, absent rollouts and absent groups change no credit."""
    name, arguments = EVERY_KIND[case]
    logp, step = ragged(7, Q=3, K=4)

    def grow(x, fill):
        size = (1, 2, 3) if x.dim() == 3 else (1, 2)
        grown = x.new_full([n + more for n, more in zip(x.shape, size, strict=True)], fill)
        grown[tuple(slice(n) for n in x.shape)] = x
        return grown

    fills = {"mask": 1.0, "reward": 9.0, "correct": True, "present": False}
    wide = {key: grow(x, fills.get(key, math.nan)) for key, x in step.items()}
    wide["mask"][..., 5:] = 0.0
    found = contrapose.credit(name, logp, **step, **arguments)
    other = contrapose.credit(name, grow(logp, math.nan), **wide, **arguments)
    torch.testing.assert_close(other, grow(found, 0.0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "arguments",
    [
        {"alpha": 0.0},
        {"margin": None},
        {"margin": None, "contrast": "all_pairs"},
        {"margin": None, "contrast": "softmax"},
        {"margin": None, "contrast": "random_pair"},
    ],
)
def test_one_against_one_is_dpo(arguments):
    """nP = nN = 1 without a margin: log sigmoid(beta D_i - beta D_j), pi_ref = pi_old."""
    logp, old = -torch.rand(2, 1, 2, 3, generator=torch.Generator().manual_seed(8), dtype=D)
    beta, reward = 0.3, torch.tensor([[1.0, 0.0]])
    kw = {"old_logp": old, "reward": reward, "beta": beta, "trust": None}
    gap = beta * ((logp - old)[0, 0].sum() - (logp - old)[0, 1].sum())
    surprise = beta * torch.sigmoid(-gap)
    J = contrapose.value("rence", logp, **kw, **arguments)
    assert J.item() == pytest.approx(torch.nn.functional.logsigmoid(gap).item(), rel=1e-12)
    found = contrapose.credit("rence", logp, **kw, **arguments)
    torch.testing.assert_close(found, surprise * torch.tensor([[[1.0] * 3, [-1.0] * 3]], dtype=D), rtol=1e-12, atol=0)


def test_a_high_temperature_sees_no_scores():
    """tau -> infinity: N- / (N- + 1) times (1/N+, -1/N-)."""
    _, c = one_token(SCORES, name="conspo", tau=1e7, margin=None)
    assert c.tolist() == pytest.approx([5 / 6 / 3] * 3 + [-5 / 6 / 5] * 5, rel=1e-6)


def test_a_low_temperature_sees_the_hardest_negative():
    """tau -> 0: only the likeliest negative is pushed, by the positives that it beats."""
    scores = torch.tensor([[-0.5, -2.0, -3.0, -1.0, -1.5, -4.0, -2.5, -6.0]], dtype=D)
    _, c = one_token(scores, name="conspo", tau=1e-3, margin=None)
    assert c.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, -2 / 3, 0.0, 0.0, 0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "height"),
    [(0.0, 0.0), (0.1, (1 - math.cos(math.pi / 4)) / 2), (0.2, 0.5), (0.4, 1.0), (0.7, 1.0), (1.0, 1.0)],
)
def test_the_margin_rises_over_the_warm_up(progress, height):
    """m(0) = 0, m(warmup/2) = M/2, m = M from the end of the warm-up on."""
    M = 0.8
    found = one_token(SCORES, name="conspo", tau=0.5, M=M, warmup=0.4, progress=progress)
    expected = one_token(SCORES, name="conspo", tau=0.5, M=M * height, margin="constant")
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=0)


def test_without_a_warm_up_the_margin_is_whole_at_once():
    found = one_token(SCORES, name="conspo", M=0.8, warmup=0.0, progress=0.0)
    assert found[0] == one_token(SCORES, name="conspo", M=0.8, margin="constant")[0]


@pytest.mark.parametrize("margin", ["cosine", "constant", None])
def test_a_margin_does_nothing_to_a_linear_contrast(margin):
    _, c = one_token(SCORES, name="conspo", contrast="linear", margin=margin, M=5.0, progress=1.0)
    assert torch.equal(c, one_token(SCORES, name="conspo", contrast="linear", margin=None)[1])


def test_a_margin_opens_the_gates():
    _, without = one_token(SCORES, margin=None)
    _, with_margin = one_token(SCORES, margin="constant", alpha=1.0)
    assert (with_margin[:3] > without[:3]).all()


def test_softmax_over_the_group_pushes_a_dominant_positive_down():
    scores = torch.tensor([[4.0, 0.0, 0.0, 0.0]], dtype=D)
    reward = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=D)
    _, competing = one_token(scores, reward=reward, margin=None, contrast="softmax")
    q = scores[0].softmax(0)
    assert competing.tolist() == pytest.approx((reward[0] / 2 - q).tolist(), rel=1e-12)
    assert competing[0] < 0 < competing[1]
    _, contrasted = one_token(scores, reward=reward, margin=None)
    assert (contrasted[:2] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "positive", "negative"),
    [
        ({}, 0.4531, [-0.1472, -0.1548]),
        ({"margin": None}, 0.4286, [-0.1429, -0.1429]),
        ({"margin": "constant"}, 0.4541, [-0.1514, -0.1514]),
    ],
)
def test_the_first_step_of_rence(arguments, positive, negative):
    """At theta = old the credit does not vanish, margin or not."""
    reward = torch.tensor([[1.0, 1.0, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0]], dtype=D)
    _, c = one_token(torch.zeros(1, 8, dtype=D), reward=reward, **arguments)
    assert c.tolist() == pytest.approx([positive] * 2 + [negative[0]] * 3 + [negative[1]] * 3, abs=5e-5)


def test_a_random_pair_is_contrasted_alone_and_drawn_uniformly():
    Q = 6000
    scores, reward = SCORES[:, 1:6].expand(Q, 5), POSITIVES_FIRST[:, 1:6].expand(Q, 5)
    credit = contrapose.credit(
        "rence",
        scores.unsqueeze(-1),
        old_logp=torch.zeros(Q, 5, 1, dtype=D),
        reward=reward,
        beta=1.0,
        trust=None,
        margin=None,
        contrast="random_pair",
        generator=torch.Generator().manual_seed(0),
    )
    c = credit.squeeze(-1) * Q
    assert ((c != 0).sum(1) == 2).all()
    i, j = c.argmax(1), c.argmin(1)
    assert (reward.gather(1, i.unsqueeze(1)) == 1).all() and (reward.gather(1, j.unsqueeze(1)) == 0).all()
    surprise = torch.sigmoid(scores.gather(1, j.unsqueeze(1)) - scores.gather(1, i.unsqueeze(1))).squeeze(1)
    torch.testing.assert_close(c.amax(1), surprise, rtol=1e-10, atol=0)
    torch.testing.assert_close(c.amin(1), -surprise, rtol=1e-10, atol=0)
    seen = torch.bincount(i * 5 + j, minlength=25)
    seen = seen[seen > 0].double()
    assert len(seen) == 6
    assert ((seen - Q / 6).square() / (Q / 6)).sum() < 20.5  # chi-square, 5 degrees, p = 0.001


def test_a_generator_draws_the_same_pairs_in_every_dtype():
    kw = {"reward": POSITIVES_FIRST.expand(20, 8), "trust": None, "contrast": "random_pair"}
    logp = -torch.rand(20, 8, 2, dtype=D, generator=torch.Generator().manual_seed(1))
    drawn = [
        contrapose.credit("rence", x, **kw, generator=torch.Generator().manual_seed(5)) != 0
        for x in (logp, logp.float())
    ]
    assert torch.equal(*drawn)


def test_unclipped_grpo_is_the_importance_weighted_policy_gradient():
    logp, step = ragged(9, Q=4, K=6)
    found = contrapose.credit("grpo", logp, **step, clip_low=1.0, clip_high=1e9)
    advantage = contrapose.objective("grpo").plan(batch_of(step)).advantage_QK.unsqueeze(-1)
    ratio = (logp - step["old_logp"]).exp().masked_fill(step["mask"] == 0, 0.0)
    share = step["mask"].sum(-1, keepdim=True).clamp(min=1) * step["present"].sum()
    torch.testing.assert_close(found, advantage * ratio / share, rtol=1e-10, atol=1e-15)


def batch_of(step):
    return contrapose.Batch(step["old_logp"], step["mask"], step["reward"], step["correct"], step["present"])


@pytest.mark.parametrize("arguments", [{}, {"clip_low": 0.0, "clip_high": 0.0}, {"dual_clip": 1.0}])
def test_at_a_clip_boundary_the_gradient_flows(arguments):
    """At theta = old the ratio is exactly 1: a clip at 1 still lets the first step through."""
    logp, step = ragged(10)
    mask, reward = step["mask"], torch.where(step["present"], step["reward"], 0.0)
    found = contrapose.credit("grpo", logp, mask=mask, reward=reward, **arguments)
    torch.testing.assert_close(found, contrapose.credit("grpo", logp, mask=mask, reward=reward))
    assert found.abs().max() > 0.01


@pytest.mark.parametrize(("d", "reward", "flows"), [(0.5, 1, False), (0.5, 0, True), (-0.5, 1, True), (-0.5, 0, False)])
def test_a_clip_stops_what_has_gone_far_enough(d, reward, flows):
    """A positive is not pulled further up, a negative not further down; the way back is open."""
    logp = torch.zeros(1, 2, 1, dtype=D)
    logp[0, 0, 0] = d
    found = contrapose.credit("grpo", logp, old_logp=torch.zeros(1, 2, 1), reward=torch.tensor([[reward, 1 - reward]]))
    assert (found[0, 0, 0] != 0) == flows


def test_omitting_old_log_probs_means_on_policy():
    logp, step = ragged(11)
    kw = {"mask": step["mask"], "reward": step["reward"], "present": step["present"]}
    for name in ("rence", "conspo", "grpo"):
        assert torch.equal(contrapose.credit(name, logp, **kw), contrapose.credit(name, logp, old_logp=logp, **kw))


def sequences(theta):
    """Log-probs ``[9, 2]`` of every two-symbol sequence of a tabular policy over three symbols."""
    first, second = theta[0].log_softmax(0), theta[1:].log_softmax(1)
    return torch.stack([torch.stack([first[a], second[a, b]]) for a in range(3) for b in range(3)])


@pytest.mark.parametrize(("aggregate", "share"), [("sequence", 1.0), ("sequence_sum", 1.0), ("token_mean", 0.5)])
def test_the_trust_region_is_kl_from_old_to_new(aggregate, share):
    """Over every sequence of a tiny policy, the estimate and its gradient average to KL(old || new) exactly."""
    g = torch.Generator().manual_seed(0)
    old = sequences(torch.randn(4, 3, generator=g, dtype=D))
    theta = torch.randn(4, 3, generator=g, dtype=D).requires_grad_()
    new = sequences(theta)
    weight = old.sum(1).exp()
    exact = (weight * (old - new).sum(1)).sum()
    kw = {"reward": torch.zeros(1, 1), "kl_coef": 1.0, "kl_aggregate": aggregate}
    value, surrogate = 0.0, 0.0
    for y in range(9):
        arguments = ("rence", new[y].detach().view(1, 1, 2))
        value -= weight[y] * contrapose.value(*arguments, old_logp=old[y].view(1, 1, 2), **kw)
        credit = contrapose.credit(*arguments, old_logp=old[y].view(1, 1, 2), **kw)
        surrogate -= weight[y] * (credit.flatten() * new[y]).sum()
    assert value.item() == pytest.approx(share * exact.item(), rel=1e-10)
    (expected,) = torch.autograd.grad(share * exact, theta, retain_graph=True)
    (found,) = torch.autograd.grad(surrogate, theta)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    reverse = (new.sum(1).exp() * (new - old).sum(1)).sum()
    assert abs(reverse.item() - exact.item()) > 0.01


def test_the_reference_penalty_is_kl_from_new_to_reference():
    """On-policy, averaged over every sequence; a token mean over two tokens is half the sequence's KL."""
    g = torch.Generator().manual_seed(1)
    reference, new = (sequences(torch.randn(4, 3, generator=g, dtype=D)) for _ in range(2))
    weight = new.sum(1).exp()
    value = sum(
        -weight[y]
        * contrapose.value(
            "grpo",
            new[y].view(1, 1, 2),
            reference_logp=reference[y].view(1, 1, 2),
            reward=torch.zeros(1, 1),
            reference_coef=1.0,
        )
        for y in range(9)
    )
    assert value.item() == pytest.approx((weight * (new - reference).sum(1)).sum().item() / 2, rel=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_k3_does_not_cancel(dtype, tolerance):
    d = [sign * x for sign in (-1, 1) for x in (1e-8, 1e-5, 3e-4, 9.99e-4, 1.001e-3, 2e-3, 0.1, 1.0)]
    series = [sum(x**n / math.factorial(n) for n in range(2, 25)) for x in d]
    x = torch.tensor(d, dtype=dtype, requires_grad=True)
    assert k3(x).tolist() == pytest.approx(series, rel=tolerance, abs=0)
    (slope,) = torch.autograd.grad(k3(x).sum(), x)
    assert slope.tolist() == pytest.approx([math.expm1(x) for x in d], rel=tolerance, abs=0)
    assert (k3(torch.linspace(-30, 30, 101, dtype=dtype)) >= 0).all()


@pytest.mark.parametrize(("moved", "clamped"), [(2.0, 6.0), (5.0, 10.0), (-5.0, -15.0), (-9.0, -20.0)])
def test_a_sequences_log_ratio_is_clamped(moved, clamped):
    """Three tokens that move together, at most 10 nats up and 20 down."""
    logp = torch.full((1, 1, 3), moved, dtype=D)
    kw = {"old_logp": torch.zeros(1, 1, 3), "reward": torch.zeros(1, 1), "kl_coef": 1.0, "kl_aggregate": "sequence"}
    found = contrapose.value("rence", logp, **kw).item()
    assert -found == pytest.approx(math.exp(clamped) - 1 - clamped, rel=1e-12)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.01, 1.0), (0.011, 1.001), (0.009, 0.999), (0.012, 1.002), (10.0, 1.002), (0.0, 0.998), (-1.0, 0.998)],
)
def test_the_controller_seeks_its_target(kl, factor):
    """Above the target the coefficient rises, below it falls, by at most a fifth of rollouts / horizon."""
    before = Now(progress=0.4, kl_coef=0.001)
    seen = {"token_mean": kl, "sequence_sum": 99.0, "sequence": -99.0}
    after = KLOld(target=0.01, horizon=25600.0).adapt(before, seen, rollouts=256)
    assert after.kl_coef == pytest.approx(0.001 * factor, rel=1e-12)
    assert after.progress == 0.4


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_sum", "sequence"])
def test_the_controller_looks_at_its_own_aggregate(aggregate):
    seen = {"token_mean": 0.0, "sequence_sum": 0.0, "sequence": 0.0, aggregate: 1.0}
    assert KLOld(aggregate=aggregate).adapt(Now(kl_coef=1.0), seen, rollouts=256).kl_coef > 1.0


@pytest.mark.parametrize(
    ("rollouts", "steps", "lowest", "highest"), [(256, 800, 0.202, 4.945), (4096, 50, 0.197, 4.830)]
)
def test_how_far_the_controller_can_go_in_a_run(rollouts, steps, lowest, highest):
    for kl, expected in ((0.0, lowest), (1.0, highest)):
        now = Now(kl_coef=1.0)
        for _ in range(steps):
            now = KLOld().adapt(now, {"token_mean": kl}, rollouts)
        assert now.kl_coef == pytest.approx(expected, abs=5e-4)


def test_a_reference_penalty_never_adapts():
    now = Now(kl_coef=0.04)
    assert KLReference(0.04).adapt(now, {"token_mean": 9.0}, 256) == now


@pytest.mark.parametrize(
    ("name", "arguments", "coef"),
    [
        ("rence", {}, 0.001),
        ("rence", {"kl_coef": 0.5}, 0.5),
        ("rence", {"trust": None}, 0.0),
        ("conspo", {}, 0.0),
        ("grpo", {}, 0.0),
        ("grpo", {"reference_coef": 0.04}, 0.04),
    ],
)
def test_where_the_coefficient_starts(name, arguments, coef):
    assert contrapose.objective(name, **arguments).start() == Now(progress=0.0, kl_coef=coef)


def by_hand():
    return contrapose.Objective(token_sum, LogRatio(0.1), None, Linear(ZScore()), KLOld(coef=0.5, aggregate="sequence"))


@pytest.mark.parametrize(
    ("objective", "coupling"),
    [
        (contrapose.objective("rence"), "group"),
        (contrapose.objective("rence", kl_aggregate="sequence"), "group"),
        (contrapose.objective("rence", trust=None, contrast="all_pairs"), "group"),
        (contrapose.objective("rence", trust=None, contrast="softmax"), "group"),
        (contrapose.objective("conspo", tau=0.5), "group"),
        (contrapose.objective("conspo", tau=0.5, score="clipped_ratio"), "group"),
        (contrapose.objective("conspo", contrast="linear"), "token"),
        (contrapose.objective("conspo", contrast="linear", score="clipped_ratio"), "token"),
        (contrapose.objective("grpo"), "token"),
        (contrapose.objective("grpo", reference_coef=0.5, dual_clip=2.0), "token"),
        (by_hand(), "rollout"),
    ],
)
def test_coupling_is_how_far_a_log_prob_reaches(objective, coupling):
    """Move one token: credit changes within the declared scope, and for the wider ones up to its edge."""
    logp, step = ragged(12, Q=3, K=4, T=4, std=0.05, absent=0.0, empty=0.0)
    step["mask"] = torch.ones_like(step["mask"])
    logp, step = logp.nan_to_num(-1.0), {key: x.nan_to_num(-1.02) for key, x in step.items()}
    step["reward"] = torch.tensor([[1.0, 0.0, 0.0, 1.0]] * 3, dtype=D)
    step["correct"] = step["reward"] == 1
    moved = logp.clone()
    moved[1, 2, 3] += 0.02
    before, after = (contrapose.credit(objective, x, **step) for x in (logp, moved))
    changed = (before - after).abs() > 1e-12
    scope = {"token": (1, 2, 3), "rollout": (1, 2), "group": (1,)}[coupling]
    outside = changed.clone()
    outside[scope] = False
    assert objective.coupling == coupling
    assert not outside.any()
    if coupling != "token":
        changed[(1, 2, 3) if coupling == "rollout" else (1, 2)] = False
        assert changed[scope].any()
