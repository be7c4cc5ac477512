"""Diagnostics against their definitions, by hand."""

import math

import pytest
import torch

import contrapose
from contrapose.objectives.contrast import partition
from contrapose.objectives.credit import score_credit_of
from contrapose.objectives.diagnose import (
    auc,
    effective_negatives,
    gap,
    margin_share,
    mean_logp,
    p_positive,
)
from contrapose.types import Batch

D = torch.float64


def batch(correct, mask=None, T=1, present=None):
    correct = torch.tensor(correct)
    mask = torch.ones(*correct.shape, T, dtype=D) if mask is None else mask
    present = torch.ones_like(correct) if present is None else torch.tensor(present)
    return Batch(torch.zeros_like(mask), mask, correct.to(D), correct.bool(), present.bool())


def likelihood_auc(logp, step):
    return auc(mean_logp(logp, step), partition(step, "correct"))


def column(values):
    """Scores ``[Q, K]`` as log-probs of one token each."""
    return torch.tensor(values, dtype=D).unsqueeze(-1)


def test_the_mean_log_prob_is_of_response_tokens_alone():
    mask = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], dtype=D)
    logp = torch.tensor([[[-1.0, -3.0, math.nan], [-5.0, math.inf, 0.0], [math.nan] * 3]], dtype=D)
    assert mean_logp(logp, batch([[1, 0, 0]], mask)).tolist() == [[-2.0, -5.0, 0.0]]


@pytest.mark.parametrize(
    ("logp", "expected"),
    [
        ([-1.0, -2.0, -3.0, -4.0], 1.0),
        ([-3.0, -4.0, -1.0, -2.0], 0.0),
        ([-1.0, -4.0, -2.0, -3.0], 0.5),
        ([-1.0, -2.0, -2.0, -3.0], 0.875),  # a tie counts half
        ([-1.0, -1.0, -1.0, -1.0], 0.5),
    ],
)
def test_the_auc_counts_pairs(logp, expected):
    assert likelihood_auc(column([logp]), batch([[1, 1, 0, 0]])).tolist() == [expected]


def test_the_auc_is_of_groups_that_have_both():
    """Groups of one kind say nothing; an empty completion and an absent one are no part of a pair."""
    logp = column([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-9.0, -2.0, -3.0]])
    step = batch([[1, 1, 1], [0, 0, 0], [1, 0, 1]], present=[[1, 1, 1], [1, 1, 1], [1, 1, 0]])
    assert likelihood_auc(logp, step).tolist() == [0.0]
    step.mask_QKT[2, 1] = 0.0
    assert likelihood_auc(logp, step).tolist() == []


def test_the_auc_judges_by_truth_and_not_by_the_shaped_reward():
    step = batch([[1, 0, 0]])
    step.reward_QK[:] = torch.tensor([0.5, 0.9, 0.1])
    assert likelihood_auc(column([[-1.0, -2.0, -3.0]]), step).tolist() == [1.0]


def test_the_gap_is_a_mean_against_a_mean():
    side = torch.tensor([[1, 1, -1, -1, 0], [1, 1, 1, 1, 1]])
    x = torch.tensor([[1.0, 2.0, -1.0, -4.0, 99.0], [1.0] * 5], dtype=D)
    assert gap(x, side).tolist() == [4.0]


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_p_positive_sets_each_positive_against_all_negatives(tau):
    scores = torch.tensor([[0.3, -0.2, 0.5, -1.0]], dtype=D)
    plan = contrapose.objective("conspo", tau=tau).plan(batch([[1, 1, 0, 0]]))
    e = (scores[0] / tau).exp()
    expected = [float(e[i] / (e[i] + e[2] + e[3])) for i in (0, 1)]
    assert p_positive(scores, plan, tau)[0].tolist() == pytest.approx(
        [*expected, math.nan, math.nan], rel=1e-12, nan_ok=True
    )
    dead = contrapose.objective("conspo").plan(batch([[1, 1, 1, 1], [0, 0, 0, 0]]))
    assert p_positive(scores.expand(2, 4), dead, tau).isnan().all()


def credits(name, scores, correct, **arguments):
    built = contrapose.objective(name, **arguments)
    plan = built.plan(batch(correct))
    return score_credit_of(built, torch.tensor(scores, dtype=D), plan), plan


@pytest.mark.parametrize("name", ["grpo", "disco_b", "rloo"])
def test_a_linear_contrast_pushes_all_negatives_alike(name):
    credit, plan = credits(name, [[0.9, -5.0, 3.0, 0.0, 1.0]], [[1, 1, 0, 0, 0]])
    assert effective_negatives(credit, plan).tolist() == pytest.approx([3.0], rel=1e-12)


def test_effective_negatives_are_the_exponential_of_an_entropy():
    scores = [[0.9, -5.0, 3.0, 0.0, 1.0]]
    credit, plan = credits("disco", scores, [[1, 1, 0, 0, 0]], tau=1.0)
    pi = torch.tensor(scores[0][2:], dtype=D).softmax(0)
    expected = math.exp(-float((pi * pi.log()).sum()))
    assert effective_negatives(credit, plan).tolist() == pytest.approx([expected], rel=1e-12)
    assert 1.0 < expected < 2.0


def test_one_hard_negative_is_one_effective_negative():
    credit, plan = credits("conspo", [[0.0, 900.0, 0.0], [0.0, 0.0, 0.0]], [[1, 0, 0], [0, 0, 0]], tau=1.0)
    assert effective_negatives(credit, plan).tolist() == [1.0]


def test_the_margins_share_of_the_credit():
    built = contrapose.objective("rence", alpha=2.0)
    plan = built.plan(batch([[1, 0]]))
    score = torch.zeros(1, 2, dtype=D)
    assert built.margin is not None
    margin = built.margin(plan, built.start())
    with_margin, without = score_credit_of(built, score + margin, plan), score_credit_of(built, score, plan)
    gate = 1 / (1 + math.exp(-2.0))
    assert margin_share(with_margin, without) == pytest.approx((gate - 0.5) / gate, rel=1e-12)
    assert margin_share(without, without) == 0.0
    assert margin_share(torch.zeros(1, 2), torch.zeros(1, 2)) == 0.0


@pytest.mark.parametrize(
    ("name", "arguments", "tau"),
    [
        ("rence", {}, 1.0),
        ("conspo", {}, 10.0),
        ("conspo", {"contrast": "linear"}, None),
        ("disco", {}, 10.0),
        ("disco", {"score": "ratio"}, 1.0),
        ("disco_b", {}, None),
        ("dpo", {}, 1.0),
        ("grpo", {}, None),
    ],
)
def test_the_temperature_at_which_scores_compete(name, arguments, tau):
    assert contrapose.objective(name, **arguments).contrast.temperature == tau
