"""Tokens that have become impossible: a log-prob of minus infinity must not turn a finite credit into NaN."""

import math

import pytest
import torch
from objective_cases import CONTRASTS, LINEAR, both

import contrapose
from contrapose.objectives.aggregate import rollout_mean
from contrapose.objectives.contrast import DRO
from contrapose.objectives.score import LogProb

D = torch.float64


def impossible(who):
    """Two right and two wrong rollouts of two tokens; the first token of those in ``who`` has probability 0 now."""
    logp = torch.full((1, 4, 2), -1.0, dtype=D)
    logp[0, 3] -= 0.3
    kw = {"old_logp": logp.clone(), "reference_logp": logp.clone(), "reward": torch.tensor([[1.0, 1.0, 0.0, 0.0]])}
    logp[0, who, 0] = -math.inf
    return logp, kw


@pytest.mark.parametrize(
    "case",
    [
        "rence",
        "rence softmax",
        "conspo",
        "conspo clipped_ratio",
        "rence all pairs",
        "dpo",
        "dpo initial",
        "disco",
        "disco ratio",
    ],
)
def test_an_impossible_negative_is_pushed_no_more(case):
    """Its weight is 0 and the other negative gets all the push. A ratio is held at e^-20, as good as 0."""
    name, arguments = CONTRASTS[case]
    logp, kw = impossible([2])
    J, found = both(name, logp, kw, arguments)
    assert found.isfinite().all() and math.isfinite(J)
    assert found[0, :2].min() > 0 > found[0, 3].max()
    if "ratio" not in case:
        assert (found[0, 2] == 0).all()


def test_where_negatives_are_pushed_alike_an_impossible_one_is_no_exception():
    logp, kw = impossible([2])
    found = contrapose.credit("disco_b", logp, **kw, hinge=0.0)
    assert found[0].sum(-1).tolist() == pytest.approx([0.5, 0.5, -0.5, -0.5], rel=1e-12)


def test_an_impossible_negative_is_pushed_no_more_by_dro():
    """DisCO's contrast by itself: J keeps the impossible one in its mean, the credit does not."""
    logp, kw = impossible([2])
    disco = contrapose.Objective(rollout_mean, LogProb(), None, DRO("correct", 0.5), None)
    found = contrapose.credit(disco, logp, **kw)
    assert found[0].sum(-1).tolist() == pytest.approx([0.5, 0.5, 0.0, -1.0], rel=1e-12)
    assert contrapose.value(disco, logp, **kw).item() == pytest.approx(-1.0 + 1.3 + 0.5 * math.log(2), rel=1e-12)


@pytest.mark.parametrize(
    "case",
    [
        "rence softmax",
        "rence all pairs",
        "dpo",
        "rence",
        "rence random pair",
        "conspo",
    ],
)
def test_against_impossible_negatives_all_is_won(case):
    """P+ = 1: nothing is left to pull or push, except that ReNCE's softmax still spreads over the positives."""
    name, arguments = CONTRASTS[case]
    logp, kw = impossible([2, 3])
    J, found = both(name, logp, kw, arguments)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-15)
    assert pytest.approx(-math.log(2) if case == "rence softmax" else 0.0, abs=1e-12) == J


@pytest.mark.parametrize(("case", "slope"), [("rence", 0.1), ("rence softmax", 0.1), ("conspo", 0.5)])
def test_an_impossible_positive_is_pulled_with_all_there_is(case, slope):
    """1 - P+ = 1; J is minus infinity, the credit is not."""
    name, arguments = CONTRASTS[case]
    logp, kw = impossible([0])
    J, found = both(name, logp, kw, arguments)
    assert found.isfinite().all()
    assert found[0, 0].tolist() == pytest.approx([slope / 2] * 2, rel=1e-12)
    assert -math.inf == J


@pytest.mark.parametrize("case", [*LINEAR, "reinforce"])
@pytest.mark.parametrize("who", [[0], [2], [2, 3]])
def test_an_advantage_does_not_ask_for_the_likelihood(case, who):
    """A token of probability 0 has its clip, its gate or its share of the advantage: its credit is a number."""
    name, arguments = CONTRASTS.get(case, (case, {}))
    logp, kw = impossible(who)
    found = contrapose.credit(name, logp, **kw, **arguments)
    assert found.isfinite().all()
    untouched = [k for k in range(4) if k not in who]
    expected = contrapose.credit(name, kw["old_logp"], **kw, **arguments)
    torch.testing.assert_close(found[0, untouched], expected[0, untouched], rtol=1e-12, atol=0)
    assert expected[0, untouched].abs().max() > 0.01


@pytest.mark.parametrize("name", ["reinforce", "rloo"])
def test_an_impossible_rollout_without_an_advantage_is_worth_nothing(name):
    """Nothing times minus infinity is nothing: the value stays a number."""
    logp, kw = impossible([2, 3])
    kw["reward"] = torch.zeros(1, 4)
    J, found = both(name, logp, kw, {})
    assert J == 0 and (found == 0).all()
