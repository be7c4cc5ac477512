"""What would give a wrong credit gives none: one clear error that names the argument."""

import math

import pytest
import torch
from objective_cases import AT_DEFAULTS
from textbook.step import apart, ragged, without

import contrapose
from contrapose.objectives.credit import log_ratio_sum
from contrapose.objectives.plan import Totals
from contrapose.types import Batch

LOGP = torch.full((2, 3, 4), -1.0)
REWARD = torch.tensor([[1.0, 0.0, 0.1], [0.0, 1.0, 0.0]])
ABSENT = torch.tensor([[True, True, False], [True, True, True]])


def mask_with(value):
    mask = torch.ones_like(LOGP)
    mask[1, 2, 3] = value
    return mask


WRONG = {
    "a mask of halves": ({"mask": mask_with(0.5)}, "mask"),
    "a mask of weights": ({"mask": mask_with(3.0)}, "mask"),
    "a mask below zero": ({"mask": mask_with(-1.0)}, "mask"),
    "a mask that is no number": ({"mask": mask_with(math.nan)}, "mask"),
    "correctness as signs": ({"correct": REWARD * 2 - 1}, "correct"),
    "correctness as rewards": ({"correct": REWARD}, "correct"),
    "presence as counts": ({"present": torch.full((2, 3), 2)}, "present"),
    "a reward that is no number": ({"reward": REWARD.masked_fill(REWARD == 0.1, math.nan)}, "reward"),
    "an endless reward": ({"reward": REWARD.masked_fill(REWARD == 0.1, math.inf)}, "reward"),
    "progress in per cent": ({"progress": 50.0}, "progress"),
    "progress below zero": ({"progress": -0.1}, "progress"),
    "a step smaller than its part": ({"totals": Totals(prompts=1, rollouts=9, tokens=99)}, "totals"),
    "a step of fewer rollouts": ({"totals": Totals(prompts=2, rollouts=5, tokens=99)}, "totals"),
    "a step of fewer tokens": ({"totals": Totals(prompts=2, rollouts=6, tokens=23)}, "totals"),
    "token weights of another shape": ({"token_weight": torch.ones(3, 4)}, "token_weight"),
    "token weights of another rank": ({"token_weight": torch.ones(2, 1, 3, 4)}, "token_weight"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", AT_DEFAULTS)
def test_a_wrong_argument_is_named(name, case):
    wrong, key = WRONG[case]
    with pytest.raises(ValueError, match=f"^{key}"):
        contrapose.credit(name, LOGP, **{"reward": REWARD, **wrong}, **AT_DEFAULTS[name])


def test_a_negative_coefficient_is_refused():
    with pytest.raises(ValueError, match="kl_coef"):
        contrapose.credit("rence", LOGP, reward=REWARD, kl_coef=-0.1)


def test_what_absent_rollouts_hold_is_nobodys_business():
    reward = REWARD.masked_fill(~ABSENT, math.nan)
    for name, arguments in AT_DEFAULTS.items():
        found = contrapose.credit(name, LOGP, reward=reward, correct=REWARD == 1, present=ABSENT, **arguments)
        assert found.isfinite().all()


def test_token_weights_may_be_anything_under_a_zero_mask():
    mask, weight = mask_with(0.0), torch.ones_like(LOGP)
    weight[1, 2, 3] = math.nan
    found = contrapose.credit("grpo", LOGP, reward=REWARD, mask=mask, token_weight=weight)
    assert torch.equal(found, contrapose.credit("grpo", LOGP, reward=REWARD, mask=mask))


@pytest.mark.parametrize("name", ["disco", "disco_b"])
def test_a_hinge_over_the_step_needs_the_steps_sum(name):
    """A part that took itself for the whole would pull with another force; that is refused, not guessed."""
    logp, step = apart(ragged(5, Q=4, K=4))
    step = without(step, "reference_logp")
    plan = contrapose.objective(name).plan(
        Batch(*(step[key] for key in ("old_logp", "mask", "reward", "correct", "present")))
    )
    part = {key: x[:2] for key, x in step.items()}
    with pytest.raises(ValueError, match=r"totals\.log_ratio"):
        contrapose.credit(name, logp[:2], **part, totals=plan.totals)
    counts = {"prompts": plan.totals.prompts, "rollouts": plan.totals.rollouts, "tokens": plan.totals.tokens}
    known = Totals(**counts, log_ratio=log_ratio_sum(logp, plan))
    whole = contrapose.credit(name, logp, **step, delta=0.0)
    found = contrapose.credit(name, logp[:2], **part, totals=known, delta=0.0)
    torch.testing.assert_close(found, whole[:2], rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(contrapose.credit(name, logp, **step, totals=plan.totals, delta=0.0), whole)
