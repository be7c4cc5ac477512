"""Which token counts how much: the denominators, and what they make of lengths and of groups of unequal size."""

import pytest
import torch
from textbook.step import apart, group, ragged, step_of, without

import contrapose

D = torch.float64


def test_for_equal_lengths_dapo_is_grpo():
    """At theta = old, and away from it with the same clip: the tokens of the step are N times those of a rollout."""
    step = ragged(33, Q=3, K=5, absent=0.0, empty=0.0)
    logp, step = apart({key: x.nan_to_num(-1.0) for key, x in step.items()})
    step["mask"] = torch.ones_like(logp)
    for kw in (without(step, "old_logp"), {**step, "clip_high": 0.2}):
        grpo = contrapose.credit("grpo", logp, **kw)
        for aggregate in ("token_mean", "token_mean_group"):
            found = contrapose.credit("dapo", logp, **kw, aggregate=aggregate)
            torch.testing.assert_close(found, grpo, rtol=1e-12, atol=1e-16)


def test_what_dapo_divides_by():
    """All tokens of the step, or each group's, meaned over groups: another weight for long groups, and no other."""
    logp, step = apart(ragged(38, Q=4, K=6, absent=0.2))
    whole = contrapose.credit("dapo", logp, **step)
    by_group = contrapose.credit("dapo", logp, **step, aggregate="token_mean_group")
    tokens_Q11 = step["mask"].sum((1, 2), keepdim=True)
    assert len(tokens_Q11.unique()) == 4
    torch.testing.assert_close(by_group * tokens_Q11, whole * step["mask"].sum() / 4, rtol=1e-12, atol=1e-16)
    assert (whole != 0).any((1, 2)).sum() > 2


def test_groups_of_equal_tokens_weigh_alike_in_both_of_dapos_means():
    """However the tokens are spread over their rollouts, and however many rollouts there are."""
    length = torch.tensor([[1, 2, 3, 4], [4, 4, 1, 1], [5, 5, 0, 0]])
    present = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    reward = torch.tensor([[1.0, 0.0, 0.1, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=D)
    step = step_of(length, reward, present, seed=3, T=5)
    step["mask"] = (torch.arange(5) < length.unsqueeze(-1)).double()
    logp, step = apart({key: x.nan_to_num(-1.0) for key, x in step.items()})
    whole, by_group = (
        contrapose.credit("dapo", logp, **step, aggregate=aggregate) for aggregate in ("token_mean", "token_mean_group")
    )
    torch.testing.assert_close(by_group, whole, rtol=1e-12, atol=1e-16)
    assert (whole != 0).any((1, 2)).all()


def test_the_constant_of_dr_grpo_is_no_length():
    """Twice the constant, half the credit; a token of a long rollout gets as much as one of a short."""
    logp, step = group([1.0, 0.0, 1.0, 0.0], length=[1, 2, 3, 3])
    step = without(step, "old_logp")
    found = contrapose.credit("dr_grpo", logp, **step, length=2.0)
    assert found[step["mask"] == 1].abs().tolist() == pytest.approx([0.5 / 2 / 4] * int(step["mask"].sum()), rel=1e-12)
    torch.testing.assert_close(contrapose.credit("dr_grpo", logp, **step, length=4.0) * 2, found)


@pytest.mark.parametrize("case", ["token_sum", "rollout_mean", "token_mean", "token_mean_group", "constant"])
def test_the_weights_of_tokens(case):
    """Two groups, of three and of two rollouts, twelve tokens: J is the mean of weighted sums over the five."""
    name, arguments, denominators = {
        "token_sum": ("rloo", {}, [[1, 1, 1], [1, 1, 1]]),
        "rollout_mean": ("grpo", {}, [[1, 2, 4], [3, 2, 1]]),
        "token_mean": ("dapo", {}, [[12 / 5] * 3] * 2),
        "token_mean_group": ("dapo", {"aggregate": "token_mean_group"}, [[7 * 2 / 5] * 3, [5 * 2 / 5] * 3]),
        "constant": ("dr_grpo", {"length": 9.0}, [[9.0] * 3] * 2),
    }[case]
    length, present = torch.tensor([[1, 2, 4], [3, 2, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    mask = (torch.arange(4) < length.unsqueeze(-1)).double()
    reward = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=D)
    batch = contrapose.Batch(mask * 0, mask, reward, reward == 1, present)
    plan = contrapose.objective(name, **arguments).plan(batch)
    assert (plan.totals.prompts, plan.totals.rollouts, plan.totals.tokens) == (2, 5, 12)
    expected = mask / torch.tensor(denominators, dtype=D).unsqueeze(-1)
    torch.testing.assert_close(plan.weight_QKT, expected, rtol=1e-14, atol=0)


def test_rollouts_weigh_alike_whatever_the_size_of_their_group():
    """A linear contrast is a mean over the rollouts of the step; one of two sides is a mean over groups."""
    reward = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=D)
    present = torch.tensor([[True] * 4, [True, True, False, False]])
    logp = torch.zeros(2, 4, 1, dtype=D)
    kw = {"reward": reward, "present": present}
    linear = contrapose.credit("grpo", logp, **kw, std_ddof=0, std_eps=0.0).squeeze(-1)
    assert linear.abs()[present].tolist() == pytest.approx([1 / 6] * 6, rel=1e-12)
    sided = contrapose.credit("disco_b", logp, **kw).squeeze(-1)
    assert sided.abs()[present].tolist() == pytest.approx([1 / 4] * 4 + [1 / 2] * 2, rel=1e-12)
