"""Groups at the edge, numbers at the edge."""

import math

import pytest
import textbook
import torch
from objective_cases import (
    CONTRASTS,
    EVERY_KIND,
    LINEAR,
    OVER_ALL_TOKENS,
    RANDOM,
    SIDED,
    both,
    plan_of,
    seeded,
)
from textbook.step import group, without

import contrapose
from contrapose.objectives.advantage import ZScore, centre, leave_one_out, raw

D = torch.float64


@pytest.mark.parametrize("case", CONTRASTS)
@pytest.mark.parametrize("same", [1.0, 0.1, 0.0])
def test_a_group_of_equal_rewards_has_no_contrast(case, same):
    """All correct, all boxed but wrong, all wrong."""
    name, arguments = CONTRASTS[case]
    J, credit = both(name, *group([same] * 4), arguments)
    assert (credit == 0).all()
    assert J == 0


@pytest.mark.parametrize("same", [1.0, 0.1, 0.0])
def test_reinforce_pulls_a_group_of_equal_rewards_as_one(same):
    """It contrasts nothing: every token gets the reward over the rollouts of the step."""
    logp, step = group([same] * 4, length=[1, 2, 3, 0])
    J, credit = both("reinforce", logp, step, {})
    assert torch.equal(credit, step["mask"] * same / 4)
    assert pytest.approx(same / 4 * logp[step["mask"] == 1].sum().item(), rel=1e-12) == J


@pytest.mark.parametrize("same", [1.0, 0.0])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rence", {"kl_coef": 0.5}),
        ("grpo", {"reference_coef": 0.5}),
        ("disco", {"hinge": 0.5}),
        ("disco_b", {"hinge": 0.5}),
    ],
)
def test_the_trust_region_acts_on_dead_groups(name, arguments, same):
    logp, step = group([same] * 4)
    mask = step["mask"] == 1
    found = contrapose.credit(name, logp, **step, **arguments)
    if name == "rence":
        expected = -0.5 * torch.expm1(logp - step["old_logp"]) / mask.sum()
    elif name == "grpo":
        expected = -0.5 * (1 - (step["reference_logp"] - logp).exp()) / step["mask"].sum(-1, keepdim=True) / 4
    else:
        kl = (step["old_logp"] - logp)[mask].mean()
        expected = (0.5 * (kl - 1e-4) / mask.sum()).expand_as(logp)
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-10, atol=0)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("case", [*CONTRASTS, "reinforce"])
def test_a_dead_group_still_counts(case):
    """Beside a dead group, a live one gets half of its credit, the step having two prompts and twice the rollouts.

    Where all tokens are the denominator, the dead group's are among them. For REINFORCE a group is dead at reward 0.
    """
    name, arguments = CONTRASTS.get(case, (case, {}))
    logp, step = group([1.0, 0.0, 0.0, 1.0])
    dead_logp, dead = group([0.0] * 4, length=[3, 2, 1, 1], seed=1)
    together = {key: torch.cat([step[key], dead[key]]) for key in step}
    alone = contrapose.credit(name, logp, **step, **arguments, **seeded(case))
    beside = contrapose.credit(name, torch.cat([logp, dead_logp]), **together, **arguments, **seeded(case))
    share = float(step["mask"].sum() / together["mask"].sum()) if case in OVER_ALL_TOKENS else 1 / 2
    torch.testing.assert_close(beside[:1], alone * share, rtol=1e-12, atol=0)
    assert share != 1 / 2 or case not in OVER_ALL_TOKENS
    assert alone.abs().max() > 1e-3 and (beside[1] == 0).all()


@pytest.mark.parametrize("right", [1, 7])
@pytest.mark.parametrize("case", CONTRASTS)
def test_one_against_many(case, right):
    """A single positive is pulled and a single negative pushed as hard as all the others together."""
    name, arguments = CONTRASTS[case]
    logp, step = group([1.0] * right + [0.0] * (8 - right))
    step["mask"] = torch.ones_like(step["mask"])
    logp = step["reference_logp"] = logp.nan_to_num(-1.0)
    per_rollout = contrapose.credit(name, logp, **without(step, "old_logp"), **arguments).sum(-1)[0]
    assert (per_rollout[:right] >= 0).all() and (per_rollout[right:] <= 0).all()
    alone, rest = (per_rollout[:1], per_rollout[1:]) if right == 1 else (per_rollout[-1:], per_rollout[:-1])
    assert alone.abs().item() == pytest.approx(rest.abs().sum().item(), rel=1e-10)
    assert alone.abs() > 0.01


def test_the_advantage_of_one_in_eight():
    """A+ = sqrt((1-p)/p), A- = -sqrt(p/(1-p))."""
    _, step = group([1.0] + [0.0] * 7)
    plan = plan_of(contrapose.objective("grpo", std_ddof=0, std_eps=0.0), step)
    assert plan.advantage_QK[0].tolist() == pytest.approx([math.sqrt(7)] + [-math.sqrt(1 / 7)] * 7, rel=1e-12)


def test_ties_at_the_best_are_all_positive():
    """Within 1e-6 of the best reward is best; 1e-5 below is not."""
    _, step = group([1.0, 1.0 - 5e-7, 1.0 - 1e-5, 0.1])
    assert plan_of(contrapose.objective("rence"), step).side_QK[0].tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("rewards", [[0.3, 0.1 + 0.2], [0.5, 0.5 + 9e-7], [1e-9, 0.0]])
def test_rounding_noise_makes_no_advantage(rewards):
    logp, step = group(rewards)
    zscored = [
        (name, {"std_eps": eps}) for name in ("grpo", "dapo", "gspo", "gmpo", "cispo", "sapo") for eps in (0.0, 1e-8)
    ]
    for name, arguments in (*zscored, ("dr_grpo", {"length": 3.0}), ("rloo", {}), ("rence", {"trust": None})):
        assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()


@pytest.mark.parametrize("positives", ["best", "correct"])
def test_a_group_whose_best_is_boxed_but_wrong(positives):
    """``best`` trains the box, ``correct`` trains nothing; advantages are of the shaped reward."""
    logp, step = group([0.1, 0.0, 0.0, 0.1])
    found = contrapose.credit("rence", logp, **step, positives=positives, trust=None)[0].sum(-1)
    if positives == "correct":
        assert (found == 0).all()
    else:
        assert found[[0, 3]].min() > 0 > found[[1, 2]].max()
    for case in (case for case in SIDED if not case.startswith("rence")):
        name, arguments = CONTRASTS[case]
        assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()
    for case in LINEAR:
        name, arguments = CONTRASTS[case]
        if name == "conspo":  # its advantages are of correctness
            assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()
            continue
        on_policy = contrapose.credit(name, logp, **without(step, "old_logp"), **arguments)[0].sum(-1)
        assert on_policy[[0, 3]].min() > 0.01 and on_policy[[1, 2]].max() < -0.01


def test_the_format_alone_pulls_almost_as_hard():
    """With ``best``, a 0.1 among zeros gets 0.4316 where a 1 among 0.1 and 0 gets 0.4531."""
    logp = torch.zeros(1, 8, 1, dtype=D)
    found = contrapose.credit("rence", logp, reward=torch.tensor([[0.1] * 2 + [0.0] * 6]), beta=1.0, trust=None)
    assert found[0, 0].item() == pytest.approx(0.4316, abs=5e-5)


@pytest.mark.parametrize("case", CONTRASTS)
@pytest.mark.parametrize("reward", [1.0, 0.0])
def test_a_rollout_that_is_alone_has_nothing_to_compare_with(case, reward):
    """K = 1: no advantage, whatever ddof, and no contrast."""
    name, arguments = CONTRASTS[case]
    logp, step = group([reward])
    for kw in (arguments, {**arguments, "std_ddof": 0}) if name in ("grpo", "gspo", "cispo") else (arguments,):
        J, credit = both(name, logp, step, kw)
        assert (credit == 0).all()
        assert J == 0


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        (raw, [1.0, 0.0, 0.4]),
        (centre, [8 / 15, -7 / 15, -1 / 15]),
        (leave_one_out, [4 / 5, -7 / 10, -1 / 10]),
        (ZScore(0, 0.0), [8 / math.sqrt(38), -7 / math.sqrt(38), -1 / math.sqrt(38)]),
    ],
)
def test_an_absent_rollout_has_no_advantage_and_takes_no_part(advantage, expected):
    """Whatever its reward says; and a group of none has none."""
    reward = torch.tensor([[1.0, math.nan, 0.0, 0.4, 9.0], [math.nan, 9.0, 9.0, 9.0, 9.0]], dtype=D)
    present = torch.tensor([[True, False, True, True, False], [False] * 5])
    found = advantage(reward, present)
    assert found[present].tolist() == pytest.approx(expected, rel=1e-12)
    assert (found[~present] == 0).all()


@pytest.mark.parametrize("case", [*CONTRASTS, "reinforce"])
def test_an_empty_completion_has_no_score(case):
    """It is pushed nowhere. Contrasts of two sides leave it out; advantages and the count of rollouts keep it."""
    name, arguments = CONTRASTS.get(case, (case, {}))
    logp, step = group([1.0, 0.0, 0.1, 1.0, 0.0], length=[2, 3, 1, 2, 0])
    J, found = both(name, logp, step, {**arguments, **seeded(case, 3)})
    assert (found[0, 4] == 0).all()
    dropped = {key: x[:, :4] for key, x in step.items()}
    if case not in SIDED:
        expected_J, expected = getattr(textbook, name)({"logp": logp, **step}, **arguments)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=D), rtol=1e-10, atol=0)
        assert pytest.approx(expected_J, rel=1e-10) == J
        assert not torch.allclose(found[:, :4], contrapose.credit(name, logp[:, :4], **dropped, **arguments))
    elif case not in RANDOM:  # the lots fall differently
        expected_J, expected = both(name, logp[:, :4], dropped, arguments)
        torch.testing.assert_close(found[:, :4], expected, rtol=1e-12, atol=0)
        assert pytest.approx(expected_J, rel=1e-12) == J


@pytest.mark.parametrize("case", CONTRASTS)
def test_an_empty_completion_scores_nothing_and_not_one(case):
    """Ratios of no tokens are no ratio of 1: an empty rollout's score is 0."""
    name, arguments = CONTRASTS[case]
    logp, step = group([1.0, 0.0, 0.0], length=[2, 0, 3])
    objective = contrapose.objective(name, **arguments)
    scores = objective.scores(logp, plan_of(objective, step, generator=torch.Generator().manual_seed(0)))
    assert scores[0, 1] == 0 and (scores[0, [0, 2]] != 0).all()


@pytest.mark.parametrize("case", SIDED)
@pytest.mark.parametrize("length", [[0, 3, 3], [3, 0, 0]])
def test_a_side_of_empty_completions_is_no_side(case, length):
    name, arguments = CONTRASTS[case]
    J, credit = both(name, *group([1.0, 0.0, 0.0], length=length), arguments)
    assert (credit == 0).all()
    assert J == 0


@pytest.mark.parametrize("case", EVERY_KIND)
def test_a_step_of_nothing_but_empty_completions(case):
    name, arguments = EVERY_KIND[case]
    J, credit = both(name, *group([1.0, 0.0, 0.1], length=[0, 0, 0]), arguments)
    assert (credit == 0).all()
    assert J == 0


@pytest.mark.parametrize("case", EVERY_KIND)
def test_a_step_of_absent_rollouts(case):
    name, arguments = EVERY_KIND[case]
    logp, step = group([1.0, 0.0, 0.1])
    step["present"] = torch.zeros(1, 3, dtype=torch.bool)
    J, credit = both(name, logp, step, arguments)
    assert (credit == 0).all()
    assert J == 0
