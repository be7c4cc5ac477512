"""Right against wrong: the papers' statements on contrasts as identities on value and credit, in float64."""

import math
from itertools import product

import pytest
import torch
from objective_cases import SCORES, one_token, plan_of
from textbook.contrastive import all_pairs, gate_and_distribution, hardest_negatives, info_nce, mean_difference, softmax
from textbook.step import apart, group, ragged

import contrapose
from contrapose.objectives.advantage import ZScore, centre, leave_one_out, raw
from contrapose.objectives.aggregate import rollout_mean
from contrapose.objectives.contrast import DRO, NCE, AllPairs, Linear, MeanDifference, RandomPair, Softmax
from contrapose.objectives.credit import score_credit_of
from contrapose.objectives.score import LogProb
from contrapose.types import Now

D = torch.float64
POS, NEG = [0, 1, 2], [3, 4, 5, 6, 7]
OF_SCORES = {
    "nce": (NCE("correct", 0.7), lambda s: info_nce(s, POS, NEG, 0.7)),
    "nce, gate and distribution": (
        NCE("best"),
        lambda s: gate_and_distribution(s, POS, NEG),
    ),
    "softmax": (Softmax(), lambda s: softmax(s, POS, NEG)),
    "all pairs": (AllPairs(), lambda s: all_pairs(s, POS, NEG)),
    "dro": (DRO("correct", 0.7), lambda s: hardest_negatives(s, POS, NEG, 0.7)),
    "mean difference": (MeanDifference("correct"), lambda s: mean_difference(s, POS, NEG)),
}
LINEAR = {
    "zscore": Linear(ZScore()),
    "population zscore": Linear(ZScore(0, 0.0), "correct"),
    "centre": Linear(centre),
    "leave one out": Linear(leave_one_out),
}


def of(contrast, Q=1):
    """An objective that is this contrast alone, and a plan of Q groups with the first three of eight right."""
    objective = contrapose.Objective(rollout_mean, LogProb(), None, contrast, None)
    _, step = group([1.0] * 3 + [0.0] * 5)
    step = {key: x.expand(Q, *x.shape[1:]) for key, x in step.items()}
    return objective, plan_of(objective, step, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", OF_SCORES)
def test_the_credit_of_a_score(case):
    """dv/ds, the object of ConSPO's lemmas, is the closed form; it is a group's own, before any mean over groups."""
    contrast, closed_form = OF_SCORES[case]
    for Q in (1, 3):
        objective, plan = of(contrast, Q)
        v, c = closed_form(dict(enumerate(SCORES[0].tolist())))
        found = score_credit_of(objective, SCORES.expand(Q, 8), plan)
        assert found.tolist() == [pytest.approx([c[k] for k in range(8)], rel=1e-12)] * Q
        assert objective.contrast(SCORES.expand(Q, 8), plan).tolist() == pytest.approx([v] * Q, rel=1e-12)
    assert not found.requires_grad


@pytest.mark.parametrize("case", LINEAR)
def test_the_credit_of_a_score_in_a_linear_contrast(case):
    """A_i / K, whatever the scores."""
    objective, plan = of(LINEAR[case])
    p = 3 / 8
    above = {
        "zscore": (1 - p) / (math.sqrt(p * (1 - p) * 8 / 7) + 1e-6),
        "population zscore": math.sqrt((1 - p) / p),
        "centre": 1 - p,
        "leave one out": (1 - p) * 8 / 7,
    }[case]
    expected = [above / 8] * 3 + [-above * p / (1 - p) / 8] * 5
    for scores in (SCORES, -SCORES):
        assert score_credit_of(objective, scores, plan)[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_the_credit_of_a_score_in_a_random_pair():
    """The pair's surprise, up and down; nothing for the others."""
    objective, plan = of(RandomPair())
    drawn = plan.side_QK[0].tolist()
    i, j = drawn.index(1), drawn.index(-1)
    c = all_pairs(dict(enumerate(SCORES[0].tolist())), [i], [j])[1]
    found = score_credit_of(objective, SCORES, plan)[0]
    assert found.tolist() == pytest.approx([c[k] for k in range(8)], rel=1e-12)
    assert (found != 0).sum() == 2


def test_the_credit_of_a_score_holds_the_margin_in_its_scores():
    """ReNCE's credit of a token is beta dv/ds at scores with the margin added."""
    logp, step = apart(ragged(2, Q=3, K=6, absent=0.0, empty=0.0))
    objective = contrapose.objective("rence", trust=None, beta=0.7, alpha=2.0)
    plan = plan_of(objective, step)
    scores = objective.scores(logp, plan) + objective.margin(plan, Now())
    c = score_credit_of(objective, scores, plan)
    found = contrapose.credit(objective, logp, **step)
    torch.testing.assert_close(found, 0.7 * c.unsqueeze(-1) * step["mask"] / 3, rtol=1e-12, atol=1e-16)
    assert not torch.allclose(c, score_credit_of(objective, objective.scores(logp, plan), plan))


@pytest.mark.parametrize("case", [*OF_SCORES, *LINEAR, "random pair"])
def test_only_differences_of_scores_matter(case):
    """A constant on all scores of a group leaves J and credit, and the credits of the group add up to 0."""
    contrast = {**{key: x for key, (x, _) in OF_SCORES.items()}, **LINEAR, "random pair": RandomPair()}[case]
    objective, plan = of(contrast)
    v, c = objective.contrast(SCORES, plan), score_credit_of(objective, SCORES, plan)
    assert c.abs().max() > 0.05
    assert c.sum().abs() < 1e-15
    for shift in (-50.0, 3.0):
        torch.testing.assert_close(objective.contrast(SCORES + shift, plan), v, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(score_credit_of(objective, SCORES + shift, plan), c, rtol=1e-10, atol=0)


def test_without_a_baseline_the_level_of_the_scores_matters():
    """REINFORCE: J moves with the mean reward, the credits add up to it, and stay what they are."""
    objective, plan = of(Linear(raw))
    c = score_credit_of(objective, SCORES, plan)
    assert c[0].tolist() == pytest.approx([1 / 8] * 3 + [0.0] * 5, rel=1e-12)
    risen = objective.contrast(SCORES + 3.0, plan) - objective.contrast(SCORES, plan)
    assert risen.item() == pytest.approx(3.0 * 3 / 8, rel=1e-12)
    assert torch.equal(score_credit_of(objective, SCORES + 3.0, plan), c)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rence", {"trust": None}),
        ("rence", {"trust": None, "contrast": "softmax"}),
        ("rence", {"trust": None, "contrast": "all_pairs"}),
        ("rence", {"trust": None, "contrast": "random_pair"}),
        ("conspo", {"tau": 0.5}),
        ("conspo", {"contrast": "linear"}),
        ("disco", {"tau": 0.5, "hinge": 0.0}),
        ("disco_b", {"hinge": 0.0}),
        ("dpo", {}),
        ("dpo", {"contrast": "random_pair"}),
        ("rloo", {}),
    ],
)
def test_credits_of_a_group_sum_to_zero(name, arguments):
    """Where a score is linear in log-probs: a token's credit is its rollout's, times beta or over the length."""
    logp, step = apart(ragged(3, Q=6, K=8, empty=0.0))
    credit = contrapose.credit(name, logp, **step, **arguments)
    by_length = name in ("conspo", "disco", "disco_b")
    c_QK = credit.sum(-1) / (1 if by_length else step["mask"].sum(-1).clamp(min=1))
    assert c_QK.abs().amax(1).min() > 1e-4
    assert c_QK.sum(1).abs().max() < 1e-15


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conspo", {"tau": 0.5, "margin": None}),
        ("conspo", {"contrast": "linear", "margin": None}),
        ("disco", {"tau": 0.5, "hinge": 0.0}),
        ("disco_b", {"hinge": 0.0}),
    ],
)
def test_only_differences_of_likelihoods_matter(name, arguments):
    logp, step = apart(ragged(4, Q=4, K=6, empty=0.0))
    found = contrapose.credit(name, logp, **step, **arguments)
    torch.testing.assert_close(contrapose.credit(name, logp - 3.0, **step, **arguments), found, rtol=1e-10, atol=0)
    J, shifted_J = (contrapose.value(name, x, **step, **arguments).item() for x in (logp, logp - 3.0))
    assert shifted_J == pytest.approx(J, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "tau"), [({"name": "conspo", "tau": 0.3, "margin": None}, 0.3), ({"margin": None}, 1.0)]
)
def test_conspo_lemma_2(arguments, tau):
    """The credit of a positive is 1 - P+ over N+; of a negative, minus the mean over positives of its P-.

    Hence gates on positives, one softmax over negatives, |c_j| / |c_k| = exp((s_j - s_k) / tau), and a sum of 0.
    """
    J, c = one_token(SCORES, **arguments)
    logits = SCORES[0] / tau
    P = torch.stack([torch.cat([logits[i : i + 1], logits[3:]]).softmax(0) for i in POS])  # a row for each positive
    assert pytest.approx(tau * P[:, 0].log().mean().item(), rel=1e-12) == J
    torch.testing.assert_close(c[:3], (1 - P[:, 0]) / 3, rtol=1e-12, atol=0)
    torch.testing.assert_close(c[3:], -P[:, 1:].mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(c[3:].sum(), -(1 - P[:, 0]).mean(), rtol=1e-12, atol=0)
    for j, k in product(NEG, NEG):
        assert (c[j] / c[k]).item() == pytest.approx(math.exp(logits[j] - logits[k]), rel=1e-12)


@pytest.mark.parametrize("tau", [0.3, 10.0])
def test_the_likelier_of_two_negatives_is_pushed_harder(tau):
    """DisCO shares Lemma 2's ratio of negatives, with every gate open; DisCO-b pushes all alike."""
    _, c = one_token(SCORES, name="disco", tau=tau, hinge=0.0)
    logits = SCORES[0] / tau
    assert c[:3].tolist() == pytest.approx([1 / 3] * 3, rel=1e-12)
    torch.testing.assert_close(c[3:], -logits[3:].softmax(0), rtol=1e-12, atol=0)
    for j, k in product(NEG, NEG):
        assert (c[j] / c[k]).item() == pytest.approx(math.exp(logits[j] - logits[k]), rel=1e-12)
    _, basic = one_token(SCORES, name="disco_b", hinge=0.0)
    assert basic.tolist() == pytest.approx([1 / 3] * 3 + [-1 / 5] * 5, rel=1e-12)


def test_conspo_is_a_gate_on_disco():
    """J = -mean of tau softplus(-D_i / tau + log N- + m / tau), D_i the DisCO contrast of a positive alone."""
    tau, m = 0.7, 0.2
    J, c = one_token(SCORES, name="conspo", tau=tau, M=m, margin="constant")
    gated, gates = 0.0, []
    for i in POS:
        alone = [i, *NEG]
        reward = torch.tensor([[1.0] + [0.0] * 5], dtype=D)
        disco, open_c = one_token(SCORES[:, alone], name="disco", tau=tau, hinge=0.0, reward=reward)
        x = torch.tensor(-disco / tau + math.log(5) + m / tau, dtype=D)
        gated -= tau * torch.nn.functional.softplus(x).item() / 3
        gates.append(x.sigmoid().item())
    assert pytest.approx(gated, rel=1e-12) == J
    assert c[:3].tolist() == pytest.approx([gate / 3 for gate in gates], rel=1e-12)
    assert c[3:].tolist() == pytest.approx([sum(gates) / 3 * x for x in open_c[1:].tolist()], rel=1e-12)


@pytest.mark.parametrize("right", range(1, 8))
def test_the_weight_of_a_group_by_how_many_are_right(right):
    """All that pulls in a group, at theta = old: 1 for DisCO, sqrt(p(1-p)) for GRPO, p(1-p) for Dr. GRPO.

    ConSPO's is N-/(N-+1), nearly 1, at its high temperature.
    """
    reward = (torch.arange(8) < right).to(D).unsqueeze(0)
    length = 5
    logp = torch.full((1, 8, length), -1.0, dtype=D)
    p = right / 8
    expected = {
        "disco": 1.0,
        "disco_b": 1.0,
        "grpo": math.sqrt(p * (1 - p)),
        "dr_grpo": p * (1 - p),
        "conspo": (8 - right) / (9 - right),
    }
    settings = {"grpo": {"std_ddof": 0, "std_eps": 0.0}, "dr_grpo": {"length": length}, "conspo": {"margin": None}}
    for name, weight in expected.items():
        pull = contrapose.credit(name, logp, reward=reward, **settings.get(name, {}))[0, :right].sum()
        assert pull.item() == pytest.approx(weight, rel=1e-12), name


def test_softmax_over_the_group_pushes_a_dominant_positive_down():
    scores = torch.tensor([[4.0, 0.0, 0.0, 0.0]], dtype=D)
    reward = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=D)
    _, competing = one_token(scores, reward=reward, margin=None, contrast="softmax")
    q = scores[0].softmax(0)
    assert competing.tolist() == pytest.approx((reward[0] / 2 - q).tolist(), rel=1e-12)
    assert competing[0] < 0 < competing[1]
    _, contrasted = one_token(scores, reward=reward, margin=None)
    assert (contrasted[:2] > 0).all()
