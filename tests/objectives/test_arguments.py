"""What the public functions take, and what they say of what they cannot take."""

import inspect
import math
import subprocess
import sys

import pytest
import torch
from objective_cases import AT_DEFAULTS, EVERY_KIND
from textbook.step import apart, group, ragged, without

import contrapose

D = torch.float64


def test_credit_leaves_no_trace():
    """The result is detached, works without grad, and its arguments are as they were."""
    logp, step = group([1.0, 0.0, 0.1])
    logp.requires_grad_()
    before = {key: x.clone() for key, x in step.items()}
    with torch.no_grad():
        found = contrapose.credit("rence", logp, **step)
    assert not found.requires_grad and found.abs().max() > 0
    assert not contrapose.value("rence", logp, **step).requires_grad
    assert logp.grad is None
    for key, x in before.items():
        torch.testing.assert_close(step[key], x, rtol=0, atol=0, equal_nan=True)


def test_token_weights_scale_the_credit_alone():
    logp, step = group([1.0, 0.0, 0.1])
    weight = torch.rand(logp.shape, generator=torch.Generator().manual_seed(0), dtype=D)
    found = contrapose.credit("rence", logp, **step, token_weight=weight)
    assert torch.equal(found, weight * contrapose.credit("rence", logp, **step))
    weighted = contrapose.value("rence", logp, **step, token_weight=weight)
    assert weighted == contrapose.value("rence", logp, **step)


def test_arguments_that_may_be_left_out():
    """``correct`` is reward >= 1, ``reward`` is ``correct``, everything is masked in; bool and int will do."""
    logp = -torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=D)
    right = torch.tensor([[True, False, True], [False, False, True]])
    full = {"reward": right.to(D), "correct": right, "mask": torch.ones_like(logp)}
    for name, arguments in AT_DEFAULTS.items():
        expected = contrapose.credit(name, logp, **full, **arguments)
        assert expected.abs().max() > 1e-3
        for kw in (
            {"correct": right},
            {"reward": right.to(D)},
            {"reward": right.int()},
            {"correct": right, "mask": torch.ones(2, 3, 4, dtype=torch.bool)},
            {"correct": right.int(), "present": torch.ones(2, 3, dtype=torch.int)},
        ):
            assert torch.equal(contrapose.credit(name, logp, **kw, **arguments), expected)
    boxed = torch.where(right, 1.0, 0.1)
    for name in ("conspo", "disco", "disco_b", "dpo"):
        assert torch.equal(contrapose.credit(name, logp, reward=boxed), contrapose.credit(name, logp, **full))


def test_a_reward_is_needed():
    with pytest.raises(TypeError, match="reward"):
        contrapose.credit("rence", torch.zeros(1, 2, 3))


NEEDS_REFERENCE = [("grpo", {"reference_coef": 0.1}), ("dpo", {"reference": "initial"})]


@pytest.mark.parametrize(("name", "arguments"), NEEDS_REFERENCE)
def test_a_reference_is_needed(name, arguments):
    logp, step = group([1.0, 0.0])
    assert contrapose.objective(name, **arguments).reads_reference
    with pytest.raises(ValueError, match="reference_logp"):
        contrapose.credit(name, logp, **without(step, "reference_logp"), **arguments)
    found = contrapose.credit(name, logp, **step, **arguments)
    elsewhere = {**step, "reference_logp": step["reference_logp"] * 1.3}
    assert not torch.allclose(contrapose.credit(name, logp, **elsewhere, **arguments), found)


def test_no_other_objective_reads_the_reference():
    logp, step = apart(ragged(60, Q=3, K=5))
    cases = [*EVERY_KIND.values(), *AT_DEFAULTS.items()]
    for name, arguments in cases:
        if "reference_coef" in arguments or "reference" in arguments:
            continue
        objective = contrapose.objective(name, **without(arguments, "progress"))
        assert not objective.reads_reference
        credits = (contrapose.credit(objective, logp, **kw) for kw in (step, without(step, "reference_logp")))
        assert torch.equal(*credits)


def test_dpo_from_the_initial_policy_does_not_read_the_old_one():
    logp, step = apart(ragged(61, Q=3, K=5))
    credits = (
        contrapose.credit("dpo", logp, **kw, reference="initial") for kw in (step, {**step, "old_logp": logp * 3})
    )
    assert torch.equal(*credits)


@pytest.mark.parametrize("name", AT_DEFAULTS)
@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("mask", (3, 3, 2)),
        ("mask", (3, 3)),
        ("old_logp", (2, 3, 3)),
        ("old_logp", (3, 3)),
        ("reward", (3, 2)),
        ("reward", (3, 3, 3)),
        ("correct", (3,)),
        ("correct", (3, 3, 3)),
        ("present", (2, 3)),
        ("present", (3, 3, 3)),
        ("reference_logp", (3, 3)),
    ],
)
def test_shapes_are_checked(name, key, shape):
    """Q = K = T = 3, so that a tensor of the wrong rank would broadcast into nonsense."""
    logp = torch.full((3, 3, 3), -1.0)
    kw = {"reward": torch.eye(3), key: torch.ones(shape)}
    with pytest.raises(ValueError, match="expected"):
        contrapose.credit(name, logp, **kw, **AT_DEFAULTS[name])


def test_log_probs_have_three_dimensions():
    with pytest.raises(ValueError, match="expected"):
        contrapose.credit("rence", torch.zeros(2, 3), reward=torch.ones(3))


def test_the_catalogue_is_also_the_package():
    assert inspect.ismodule(contrapose.objectives)
    assert contrapose.objectives.credit.credit is contrapose.credit


def test_the_public_names():
    assert set(contrapose.__all__) <= set(dir(contrapose))
    for name in contrapose.__all__:
        assert getattr(contrapose, name) is not None
    with pytest.raises(AttributeError, match="credits"):
        _ = contrapose.credits


def test_importing_contrapose_does_not_import_torch():
    code = "import sys, contrapose; dir(contrapose); print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_coefficient_is_for_a_trust_region():
    """It takes the place of the schedule's; without a trust region it is refused."""
    logp, step = apart(ragged(63))
    for name, at_start in (("rence", "kl_coef"), ("disco", "hinge"), ("disco_b", "hinge")):
        found = contrapose.credit(name, logp, **step, **{"kl_coef": 0.7})
        expected = contrapose.credit(name, logp, **step, **{at_start: 0.7})
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        assert not torch.allclose(found, contrapose.credit(name, logp, **step), atol=1e-6)
    for name, arguments in AT_DEFAULTS.items():
        if name not in ("rence", "disco", "disco_b"):
            with pytest.raises(ValueError, match="kl_coef"):
                contrapose.credit(name, logp, **step, **arguments, kl_coef=0.5)


def test_half_precision_is_warned_of_and_widened_inside():
    """The credit of bfloat16 log-probs is that of the same numbers in float32, rounded once."""
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(2, 4, 1500, generator=generator).to(torch.bfloat16)
    reward = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    with pytest.warns(UserWarning, match=r"logp is torch\.bfloat16"):
        found = contrapose.credit("conspo", logp, reward=reward, tau=0.1)
    exact = contrapose.credit("conspo", logp.float(), reward=reward, tau=0.1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.to(torch.bfloat16), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ({"mask": torch.full((2, 3, 4), 0.5)}, "mask"),
        ({"mask": -torch.ones(2, 3, 4)}, "mask"),
        ({"mask": 2 * torch.ones(2, 3, 4)}, "mask"),
        ({"reward": torch.tensor([[1.0, math.nan, 0.0]] * 2)}, "reward"),
        ({"reward": torch.tensor([[1.0, math.inf, 0.0]] * 2)}, "reward"),
        ({"correct": torch.tensor([[1.0, 0.5, 0.0]] * 2)}, "correct"),
        ({"present": torch.tensor([[1, 2, 0]] * 2)}, "present"),
        ({"token_weight": torch.ones(2, 3)}, "token_weight"),
        ({"progress": -0.1}, "progress"),
        ({"progress": 1.1}, "progress"),
        ({"kl_coef": -0.1}, "kl_coef"),
        ({"totals": contrapose.Totals(prompts=2, rollouts=6, tokens=23)}, "totals"),
        ({"totals": contrapose.Totals(prompts=2, rollouts=5, tokens=24)}, "totals"),
        ({"totals": contrapose.Totals(prompts=1, rollouts=6, tokens=24)}, "totals"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(arguments, culprit):
    kw = {"reward": torch.tensor([[1.0, 0.0, 0.0]] * 2), **arguments}
    with pytest.raises(ValueError, match=culprit):
        contrapose.credit("rence", torch.zeros(2, 3, 4), **kw)


def test_a_reward_that_is_no_number_may_stand_where_nobody_is():
    reward, present = torch.tensor([[1.0, 0.0, math.nan]]), torch.tensor([[True, True, False]])
    for name, arguments in AT_DEFAULTS.items():
        found = contrapose.credit(name, torch.zeros(1, 3, 2), reward=reward, present=present, **arguments)
        expected = contrapose.credit(name, torch.zeros(1, 2, 2), reward=reward[:, :2], **arguments)
        assert torch.equal(found[:, :2], expected) and (found[:, 2] == 0).all()
