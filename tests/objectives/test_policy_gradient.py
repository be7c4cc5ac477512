"""Advantage times score: what GRPO and its kin have in common, and where each goes its own way."""

import math
from statistics import fmean

import pytest
import torch
from objective_cases import SCORES, batch_of, one_token
from textbook.contrastive import mean_clipped_ratio
from textbook.step import apart, groups, ragged, step_of, without

import contrapose
from contrapose.objectives.advantage import ZScore
from contrapose.objectives.aggregate import rollout_mean
from contrapose.objectives.contrast import Linear
from contrapose.objectives.score import CappedLogProb

D = torch.float64
FAMILY = {"grpo": {}, "dapo": {}, "dr_grpo": {"length": 4.0}, "gspo": {}, "gmpo": {}, "cispo": {}, "sapo": {}}
ONE_RATIO_A_TOKEN = ["grpo", "dapo", "dr_grpo"]
CLIPPED = [*ONE_RATIO_A_TOKEN, "gspo", "gmpo"]


def on_policy(seed, **kw):
    """A ragged step at theta = old."""
    logp, step = apart(ragged(seed, **kw))
    return logp, without(step, "old_logp")


def two(d, reward, T=1):
    """Two rollouts of T tokens, the first of them with log-ratio d on its first token: ``(logp, the rest)``."""
    logp = torch.zeros(1, 2, T, dtype=D)
    logp[0, 0, 0] = d
    return logp, {"old_logp": torch.zeros(1, 2, T), "reward": torch.tensor([[float(reward), 1.0 - reward]])}


@pytest.mark.parametrize("seed", range(4))
def test_conspo_proposition_1(seed):
    """GRPO's J is W (E+[s+] - E-[s-]), expectations weighted by |A|, W = mean |A| / 2, for any rewards."""
    step = ragged(seed, Q=1, K=6)
    reward = torch.where(step["present"], torch.rand(1, 6, generator=torch.Generator().manual_seed(seed), dtype=D), 7.0)
    step["reward"] = reward
    r = reward[step["present"]]
    A = (r - r.mean()) / r.std(correction=0)
    here = step["present"][0].nonzero().flatten().tolist()
    pull = {k: float(a) for k, a in zip(here, A, strict=True) if a > 0}
    push = {k: -float(a) for k, a in zip(here, A, strict=True) if a < 0}

    def expected_score(weights, side):
        score = {k: sum(s for _, s, _ in mean_clipped_ratio(0.2)(step, 0, k, side)) for k in weights}
        return sum(weights[k] * score[k] for k in weights) / sum(weights.values())

    W = fmean(A.abs().tolist()) / 2
    expected = W * (expected_score(pull, +1) - expected_score(push, -1))
    logp, step = apart(step)
    found = contrapose.value("grpo", logp, **step, std_ddof=0, std_eps=0.0)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("right", range(1, 8))
def test_conspo_proposition_1_with_binary_rewards(right):
    """Then J is sqrt(p (1 - p)) (mean of the positives' s+ - mean of the negatives' s-)."""
    length = torch.tensor([[1, 2, 3, 4, 4, 3, 2, 1]])
    reward = (torch.arange(8) < right).to(D).unsqueeze(0)
    step = step_of(length, reward, torch.ones(1, 8, dtype=torch.bool), seed=right, T=4)
    score = [sum(s for _, s, _ in mean_clipped_ratio(0.2)(step, 0, k, 1 if k < right else -1)) for k in range(8)]
    p = right / 8
    expected = math.sqrt(p * (1 - p)) * (fmean(score[:right]) - fmean(score[right:]))
    logp, step = apart(step)
    found = contrapose.value("grpo", logp, **step, std_ddof=0, std_eps=0.0)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    linear = contrapose.value("conspo", logp, **step, contrast="linear", score="clipped_ratio")
    assert linear.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("right", range(1, 8))
@pytest.mark.parametrize(
    ("name", "arguments"), [("grpo", {"std_ddof": 0, "std_eps": 0.0}), ("conspo", {"contrast": "linear"})]
)
def test_conspo_lemma_1(name, arguments, right):
    """Binary rewards: every positive receives sqrt(p(1-p))/N+, every negative -sqrt(p(1-p))/N-, whatever its score."""
    length = torch.tensor([[1, 2, 3, 4, 4, 3, 2, 1]])
    reward = (torch.arange(8) < right).to(D).unsqueeze(0)
    step = step_of(length, reward, torch.ones(1, 8, dtype=torch.bool), seed=2, T=4)
    found = contrapose.credit(name, step["logp"], mask=step["mask"], reward=reward, **arguments).sum(-1)[0]
    p = right / 8
    spread = math.sqrt(p * (1 - p))
    assert found.tolist() == pytest.approx([spread / right] * right + [-spread / (8 - right)] * (8 - right), rel=1e-10)


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "dr_grpo"])
def test_bessel_shrinks_every_advantage_alike(name):
    """ddof 1 by sqrt((K-1)/K); eps by std / (std + eps)."""
    _, population = one_token(SCORES, name=name, std_ddof=0, std_eps=0.0)
    _, sample = one_token(SCORES, name=name, std_ddof=1, std_eps=0.0)
    assert (sample / population).tolist() == pytest.approx([math.sqrt(7 / 8)] * 8, rel=1e-10)
    _, softened = one_token(SCORES, name=name, std_ddof=0, std_eps=0.5)
    std = math.sqrt(3 / 8 * 5 / 8)
    assert (softened / population).tolist() == pytest.approx([std / (std + 0.5)] * 8, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_at_the_old_policy_the_leashes_are_all_one(seed):
    """theta = old, any lengths: GRPO = SAPO = GSPO = GMPO = CISPO with a mean per rollout; DAPO = CISPO."""
    logp, step = on_policy(30 + seed, Q=4, K=6)
    grpo = contrapose.credit("grpo", logp, **step)
    assert grpo.abs().max() > 0.01
    mean_per_rollout = contrapose.Objective(rollout_mean, CappedLogProb(), None, Linear(ZScore()), None)
    for other in ("sapo", "gspo", "gmpo", mean_per_rollout):
        torch.testing.assert_close(contrapose.credit(other, logp, **step), grpo, rtol=1e-12, atol=1e-16)
    dapo = contrapose.credit("dapo", logp, **step)
    torch.testing.assert_close(contrapose.credit("cispo", logp, **step), dapo, rtol=1e-12, atol=1e-16)
    assert not torch.allclose(dapo, grpo)


def test_dr_grpo_is_rloo_over_the_constant():
    """At theta = old Dr. GRPO's credit is RLOO's times (K-1)/(K length), K the size of each group."""
    logp, step = on_policy(34, Q=5, K=6, absent=0.25)
    K_Q11 = step["present"].sum(1).view(-1, 1, 1)
    assert len(K_Q11.unique()) > 2
    dr_grpo = contrapose.credit("dr_grpo", logp, **step, length=7.0)
    rloo = contrapose.credit("rloo", logp, **step)
    assert rloo.abs().max() > 0.01
    torch.testing.assert_close(dr_grpo, rloo * (K_Q11 - 1) / (K_Q11 * 7.0), rtol=1e-12, atol=1e-16)


def test_rloo_is_reinforce_with_the_others_as_baseline():
    """Every token of a rollout gets its reward above the mean of the others', over the rollouts of the step."""
    logp, step = apart(ragged(35, Q=3, K=5))
    reinforce, rloo = (contrapose.credit(name, logp, **step) for name in ("reinforce", "rloo"))
    N = int(step["present"].sum())
    for q, here in groups(step):
        for k in here:
            others = [float(step["reward"][q, i]) for i in here if i != k]
            r = float(step["reward"][q, k])
            torch.testing.assert_close(reinforce[q, k], step["mask"][q, k] * r / N)
            torch.testing.assert_close(rloo[q, k], step["mask"][q, k] * (r - fmean(others)) / N)


@pytest.mark.parametrize("clip", [(0.05, 0.08), (3e-4, 4e-4)])
def test_gspo_is_gspo_token(clip):
    """The ratio with a gradient through one token, sg(g) e^{l - sg(l)}, clipped token by token: the same gradient."""
    low, high = clip
    logp, step = apart(ragged(36, Q=4, K=6, std=0.2))
    mask = step["mask"]
    live = logp.masked_fill(mask == 0, 0.0).requires_grad_()
    length = mask.sum(-1, keepdim=True).clamp(min=1)
    d = (live - step["old_logp"]).masked_fill(mask == 0, 0.0)
    g = (d.sum(-1, keepdim=True) / length).exp()
    ratio = g.detach() * (live - live.detach()).exp()
    A = contrapose.objective("gspo").plan(batch_of({**step, "logp": logp})).advantage_QK.unsqueeze(-1)
    term = torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A)
    (term * mask / length / step["present"].sum()).sum().backward()
    found = contrapose.credit("gspo", logp, **step, clip_low=low, clip_high=high)
    torch.testing.assert_close(found, live.grad, rtol=1e-12, atol=1e-16)
    alive = (found != 0).any(-1)
    assert alive.any() and ((A.squeeze(-1) != 0) & (mask.sum(-1) > 0) & ~alive).any()


def test_gspo_clips_a_rollout_as_a_whole():
    """Far tokens that cancel are let through; a little too much on average stops every token at once."""
    kw = {"clip_low": 0.1, "clip_high": 0.1}
    logp, step = two(3.0, 1, T=3)
    logp[0, 0, 1:] = -1.5
    found = contrapose.credit("gspo", logp, **step, **kw)
    A = 1 / (math.sqrt(0.5) + 1e-6) / 2
    assert found[0, 0].tolist() == pytest.approx([A / 2 / 3] * 3, rel=1e-12)
    logp[0, 0, 2] += 0.4
    assert (contrapose.credit("gspo", logp, **step, **kw)[0, 0] == 0).all()


@pytest.mark.parametrize(("reward", "sign"), [(1, +1), (0, -1)])
def test_a_token_clipped_by_gmpo_still_shapes_the_mean(reward, sign):
    """It has no credit itself; the rest of its rollout has that of the mean with the clipped token in it."""
    logp, step = two(sign * 5.0, reward, T=2)
    logp[0, 0, 1] = sign * 0.1
    found = contrapose.credit("gmpo", logp, **step, clip_low=0.3, clip_high=0.6)
    A = sign / 2 / (math.sqrt(0.5) + 1e-6)
    edge = 0.6 if reward else -0.3
    mean = math.exp((edge + sign * 0.1) / 2)
    assert found[0, 0].tolist() == pytest.approx([0.0, A * mean / 2 / 2], rel=1e-12)
    # the clip is of one side: the way back is open
    logp[0, 0, 0] = -sign * 5.0
    found = contrapose.credit("gmpo", logp, **step, clip_low=0.3, clip_high=0.6)
    mean = math.exp((-sign * 5.0 + sign * 0.1) / 2)
    assert found[0, 0].tolist() == pytest.approx([A * mean / 2 / 2] * 2, rel=1e-12)


def test_no_token_of_cispo_loses_its_credit():
    """m A min(rho, cap) over all tokens, capped above alone; and that is not the derivative of its J."""
    logp, step = apart(ragged(37, Q=3, K=5, std=0.6))
    mask, cap = step["mask"], 1.2
    A = contrapose.objective("cispo").plan(batch_of({**step, "logp": logp})).advantage_QK.unsqueeze(-1)
    found = contrapose.credit("cispo", logp, **step, cap=cap)
    ratio = (logp - step["old_logp"]).exp().masked_fill(mask == 0, 0.0)
    torch.testing.assert_close(found, A * ratio.clamp(max=cap) / mask.sum(), rtol=1e-12, atol=1e-16)
    assert ((ratio > cap) & (A != 0)).any() and ((ratio < 0.5) & (mask == 1) & (A != 0)).any()
    assert ((found != 0) == ((mask == 1) & (A != 0))).all()
    full = (A / mask.sum() * (ratio.clamp(max=cap) + logp * ratio * (ratio < cap))).masked_fill(mask == 0, 0.0)
    at = tuple(((ratio < cap) & (mask == 1) & (A.abs() > 0.3)).nonzero()[0].tolist())
    up, down = logp.clone(), logp.clone()
    up[at] += 1e-6
    down[at] -= 1e-6
    rise = contrapose.value("cispo", up, **step, cap=cap) - contrapose.value("cispo", down, **step, cap=cap)
    assert rise.item() / 2e-6 == pytest.approx(full[at].item(), rel=1e-5)
    assert abs(full[at] - found[at]) > 1e-4


@pytest.mark.parametrize(("reward", "tau"), [(1, 2.0), (0, 3.0)])
@pytest.mark.parametrize("d", [-0.7, 0.0, 0.4])
def test_the_gate_of_sapo(d, reward, tau):
    """A rho sech^2(tau (rho - 1) / 2): whole at rho = 1, fading on both sides, at the temperature of its side."""
    logp, step = two(d, reward)
    found = contrapose.credit("sapo", logp, **step, tau_positive=2.0, tau_negative=3.0)[0, 0, 0].item()
    A = (2 * reward - 1) / 2 / (math.sqrt(0.5) + 1e-6)
    assert found == pytest.approx(A * math.exp(d) / math.cosh(tau * (math.exp(d) - 1) / 2) ** 2 / 2, rel=1e-12)
    assert (d == 0) == (abs(found) == pytest.approx(abs(A) / 2, rel=1e-12))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *[(name, {"clip_low": 0.0, "clip_high": 0.0}) for name in CLIPPED],
        *[(name, {"dual_clip": 1.0}) for name in ONE_RATIO_A_TOKEN],
        *[(name, {}) for name in CLIPPED],
    ],
)
def test_at_a_clip_boundary_the_gradient_flows(name, arguments):
    """At theta = old the ratio is exactly 1: a clip at 1 still lets the first step through."""
    logp, step = on_policy(10)
    expected = contrapose.credit(name, logp, **step, **{"clip_low": 0.5, "clip_high": 0.5, **FAMILY[name]})
    found = contrapose.credit(name, logp, **step, **FAMILY[name], **arguments)
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 0.01


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize(("d", "reward", "flows"), [(0.5, 1, False), (0.5, 0, True), (-0.5, 1, True), (-0.5, 0, False)])
def test_a_clip_stops_what_has_gone_far_enough(name, d, reward, flows):
    """A positive is not pulled further up, a negative not further down; the way back is open."""
    logp, step = two(d, reward)
    found = contrapose.credit(name, logp, **step, **FAMILY[name])
    assert (found[0, 0, 0] != 0) == flows


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "gspo"])
@pytest.mark.parametrize("reward", [0, 1])
def test_the_clip_below_is_for_negatives_and_the_one_above_for_positives(name, reward):
    """1 - low = 0.7, 1 + high = 1.1, so that each ratio tells which of the two bit, and where J stays."""
    kw = {**FAMILY[name], "clip_low": 0.3, "clip_high": 0.1}
    for ratio, held in ((0.65, 1.1 if reward else 0.7), (0.8, None), (1.05, None), (1.2, 1.1 if reward else 0.7)):
        bites = ratio > held if reward and held else ratio < held if held else False
        logp, step = two(math.log(ratio), reward)
        found = contrapose.credit(name, logp, **step, **kw)[0, 0, 0].item()
        assert (found == 0) == bites
        beside = contrapose.value(name, logp * 0, **step, **kw)
        moved = contrapose.value(name, logp, **step, **kw) - beside
        A = contrapose.credit(name, logp * 0, **step, **kw)[0, 0, 0]
        assert moved.item() == pytest.approx(A.item() * ((held if bites else ratio) - 1), rel=1e-6)


@pytest.mark.parametrize("name", ONE_RATIO_A_TOKEN)
@pytest.mark.parametrize(
    ("ratio", "reward", "held"), [(1.9, 0, None), (2.5, 0, 2.0), (1.9, 1, None), (2.5, 1, None), (0.4, 0, 0.8)]
)
def test_the_dual_clip_holds_negatives_that_have_risen(name, ratio, reward, held):
    """A negative above the ratio of 2 counts as 2 and is pushed no more; positives and lower ratios are as ever."""
    kw = {**FAMILY[name], "clip_high": 9.0, "dual_clip": 2.0}
    logp, step = two(math.log(ratio), reward)
    A = contrapose.credit(name, logp * 0, **step, **kw)[0, 0, 0].item()
    found = contrapose.credit(name, logp, **step, **kw)[0, 0, 0].item()
    assert found == pytest.approx(0.0 if held else A * ratio, rel=1e-12)
    moved = contrapose.value(name, logp, **step, **kw) - contrapose.value(name, logp * 0, **step, **kw)
    assert moved.item() == pytest.approx(A * ((held or ratio) - 1), rel=1e-6)
