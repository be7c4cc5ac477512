"""What is written of the groups that were trained on."""

import math

import pytest
import torch

import contrapose
from contrapose.objectives.diagnose import scored
from contrapose.train.collate import Minibatch
from contrapose.train.record import DETAILED, Detail, detailed, trained_rows
from contrapose.train.update import Pushed
from contrapose.types import Batch, Now
from train_scripted import group

LATE = Now(progress=1.0)


def groups(count, right=(True, False)):
    return [group(f"p{i}", right) for i in range(count)]


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (32, 1), (128, 1), (129, 2), (512, 4)])
def test_one_group_in_128_is_written_in_detail_and_at_least_one(count, expected):
    assert DETAILED == 128
    found = detailed(3, groups(count))
    assert len(found) == expected and found <= {f"p{i}" for i in range(count)}


def test_the_lot_is_the_same_again_and_another_in_every_step():
    assert detailed(3, groups(512)) == detailed(3, groups(512)[::-1])
    drawn = [detailed(step, groups(100)) for step in range(50)]
    assert len(set(drawn)) > 25


def test_groups_whose_rewards_differ_come_first():
    same = [group(f"same{i}", (True, True)) for i in range(400)]
    (found,) = detailed(1, [*same[:100], *groups(1)])
    assert found == "p0"
    assert len(detailed(1, [*same, *groups(2)]) & {"p0", "p1"}) == 2


def written(name, right=((True, False, False), (False, False, False))):
    """Two groups at pi_old, the second without a right answer: the objective, its plan, what was pushed, the rows."""
    objective = contrapose.objective(name)
    logp = -torch.rand(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    correct, present = torch.tensor(right), torch.ones(2, 3, dtype=torch.bool)
    batch = Batch(logp, torch.ones_like(logp), correct.double(), correct, present)
    credit = contrapose.credit(objective, logp, reward=correct.double(), correct=correct, progress=1.0)
    plan, pushed = objective.plan(batch), Pushed(logp, credit, 0.0, logp)
    minibatch = Minibatch(tuple(group(f"p{i}", row) for i, row in enumerate(right)), (), batch)
    others = {"rloo": contrapose.objective("rloo")}
    detail = Detail(frozenset({"p0"}), others, lambda tokens: [f"<{t}>" for t in tokens])
    found = scored(objective, logp, plan, LATE)
    return objective, plan, pushed, list(trained_rows(1, minibatch, plan, pushed, found, LATE, detail))


def test_p_positive_is_that_of_the_equation_with_the_margin():
    objective, plan, pushed, rows = written("conspo")
    score = objective.scores(pushed.logp_QKT, plan) + objective.margin(plan, LATE)
    e = (score[0] / objective.contrast.temperature).exp()
    first, *rest = [r["p_positive"] for r in rows[0]["rollouts"]]
    assert first == pytest.approx(float(e[0] / e.sum()), rel=1e-12)
    assert rest == [None, None]
    assert [r["p_positive"] for r in rows[1]["rollouts"]] == [None] * 3


def test_scores_that_do_not_compete_have_no_p_positive():
    *_, rows = written("grpo")
    assert [r["p_positive"] for row in rows for r in row["rollouts"]] == [None] * 6
    assert all(math.isfinite(r["score"]) and math.isfinite(r["credit"]) for row in rows for r in row["rollouts"])


def test_only_the_chosen_groups_have_their_tokens():
    _, _, pushed, rows = written("conspo")
    assert "token_credit" in rows[0] and "token_credit" not in rows[1]
    assert rows[0]["pieces"] == [["<5>", "<6>", "<1>"]] * 3
    assert rows[0]["token_credit"] == pushed.credit_QKT[0].tolist()


def test_other_objectives_see_the_whole_step():
    """What RLOO would have given a group is its part of what it would give the batch."""
    _, plan, pushed, rows = written("conspo")
    batch = plan.batch
    whole = contrapose.credit("rloo", pushed.logp_QKT, reward=batch.reward_QK, correct=batch.correct_QK)
    assert rows[0]["others"]["rloo"] == [pytest.approx(x, rel=1e-12) for x in whole[0].tolist()]
