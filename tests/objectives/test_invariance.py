"""What holds for every objective: credit is the derivative of J, and depends on nothing that is not in the equation."""

import math

import pytest
import torch
from objective_cases import (
    CONTRASTS,
    EVERY_KIND,
    PER_ROLLOUT,
    WITH_HINGE,
    both,
    plan_of,
    totals_of,
)
from textbook.step import apart, ragged, without

import contrapose
from contrapose.objectives.advantage import ZScore
from contrapose.objectives.aggregate import rollout_mean, token_mean, token_sum
from contrapose.objectives.contrast import DRO, Linear
from contrapose.objectives.credit import credit_of
from contrapose.objectives.score import ClippedRatio, LogProb, LogRatio
from contrapose.objectives.trust import KLHinge, KLOld

D = torch.float64


BY_HAND = {
    "sequence KL alone": contrapose.Objective(
        token_sum, LogRatio(0.1), None, Linear(ZScore()), KLOld(coef=0.5, aggregate="sequence")
    ),
    "clips under a hinge": contrapose.Objective(
        token_mean, ClippedRatio(0.5, 0.5), None, Linear(ZScore()), KLHinge(0.0, 3.0)
    ),
    "hardest negatives alone": contrapose.Objective(rollout_mean, LogProb(), None, DRO("correct", 0.5), None),
}
"""Factors that no named objective has together, or has without a wider one beside them."""


def test_every_objective_is_here():
    named = set(contrapose.objectives())
    assert {name for name, _ in EVERY_KIND.values()} == named
    assert {name for name, _ in CONTRASTS.values()} == named - {"reinforce"}


def objective_of(case):
    """The objective of a case, at the start of a run; or one that has no name."""
    if case in BY_HAND:
        return BY_HAND[case]
    name, arguments = EVERY_KIND[case]
    return contrapose.objective(name, **without(arguments, "progress"))


@pytest.mark.parametrize("case", [case for case in EVERY_KIND if case != "cispo"])
def test_credit_is_the_derivative_of_the_value(case):
    """CISPO's is not, by design: see ``test_policy_gradient``."""
    name, arguments = EVERY_KIND[case]
    logp, step = apart(ragged(1, Q=2, K=4, T=3))
    found = contrapose.credit(name, logp, **step, **arguments)
    assert found.abs().max() > 0.01
    for at in (step["mask"] == 1).nonzero().tolist():
        up, down = logp.clone(), logp.clone()
        up[tuple(at)] += 1e-6
        down[tuple(at)] -= 1e-6
        rise = contrapose.value(name, up, **step, **arguments) - contrapose.value(name, down, **step, **arguments)
        assert found[tuple(at)].item() == pytest.approx(rise.item() / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", EVERY_KIND)
def test_the_order_of_groups_and_rollouts_is_nothing(case):
    name, arguments = EVERY_KIND[case]
    logp, step = apart(ragged(6, Q=3, K=5))
    g = torch.Generator().manual_seed(0)
    groups, rollouts = torch.randperm(3, generator=g), torch.randperm(5, generator=g)
    mixed = {key: x[groups][:, rollouts] for key, x in step.items()}
    J, found = both(name, logp, step, arguments)
    other_J, other = both(name, logp[groups][:, rollouts], mixed, arguments)
    torch.testing.assert_close(other, found[groups][:, rollouts], rtol=1e-12, atol=1e-15)
    assert other_J == pytest.approx(J, rel=1e-12)


@pytest.mark.parametrize("case", EVERY_KIND)
def test_padding_is_nothing(case):
    """Longer rows, absent rollouts and absent groups change no credit."""
    name, arguments = EVERY_KIND[case]
    logp, step = apart(ragged(7, Q=3, K=4))

    def grow(x, fill):
        size = (1, 2, 3) if x.dim() == 3 else (1, 2)
        grown = x.new_full([n + more for n, more in zip(x.shape, size, strict=True)], fill)
        grown[tuple(slice(n) for n in x.shape)] = x
        return grown

    fills = {"mask": 1.0, "reward": 9.0, "correct": True, "present": False}
    wide = {key: grow(x, fills.get(key, math.nan)) for key, x in step.items()}
    wide["mask"][..., 5:] = 0.0
    J, found = both(name, logp, step, arguments)
    other_J, other = both(name, grow(logp, math.nan), wide, arguments)
    torch.testing.assert_close(other, grow(found, 0.0), rtol=1e-12, atol=1e-15)
    assert other_J == pytest.approx(J, rel=1e-12)


@pytest.mark.parametrize("case", EVERY_KIND)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_what_lies_under_a_zero_mask_does_not_matter(case, junk):
    name, arguments = EVERY_KIND[case]
    step = ragged(20, Q=3, K=5)
    hidden = step["mask"] == 0
    policies = ("old_logp", "reference_logp", "logp")
    J, clean = both(name, *apart({**step, **{key: step[key].nan_to_num(-1.0) for key in policies}}), arguments)
    junked_J, found = both(
        name, *apart({**step, **{key: step[key].masked_fill(hidden, junk) for key in policies}}), arguments
    )
    assert torch.equal(found, clean)
    assert (found[hidden] == 0).all()
    assert junked_J == J


@pytest.mark.parametrize("case", EVERY_KIND)
def test_dtypes_are_kept(case):
    name, arguments = EVERY_KIND[case]
    logp, step = apart(ragged(21, Q=3, K=5))
    exact = contrapose.credit(name, logp, **step, **arguments)
    single = contrapose.credit(name, logp.float(), **step, **arguments)
    assert (exact.dtype, single.dtype) == (torch.float64, torch.float32)
    assert contrapose.value(name, logp.float(), **step, **arguments).dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", EVERY_KIND)
def test_chunks_change_nothing(case, monkeypatch):
    name, arguments = EVERY_KIND[case]
    logp, step = apart(ragged(22, Q=5, K=4))
    J, whole = both(name, logp, step, arguments)
    monkeypatch.setattr("contrapose.objectives.credit.CHUNK_ELEMENTS", 1)
    cut_J, cut = both(name, logp, step, arguments)
    torch.testing.assert_close(cut, whole, rtol=1e-13, atol=1e-16)
    assert cut_J == pytest.approx(J, rel=1e-12)


@pytest.mark.parametrize("cut", [1, 3, 4])
@pytest.mark.parametrize("case", EVERY_KIND)
def test_parts_with_the_totals_of_the_whole_add_up(case, cut):
    name, arguments = EVERY_KIND[case]
    step = ragged(23, Q=5, K=4)
    told = {**arguments, "totals": totals_of(step)}
    logp, step = apart(step)
    parts = [(logp[at], {key: x[at] for key, x in step.items()}) for at in (slice(cut), slice(cut, None))]
    values, credits = zip(*(both(name, x, part, told) for x, part in parts), strict=True)
    J, whole = both(name, logp, step, arguments)
    torch.testing.assert_close(torch.cat(credits), whole, rtol=1e-12, atol=1e-16)
    assert sum(values) == pytest.approx(J, rel=1e-12)
    alone = contrapose.credit(name, parts[0][0], **parts[0][1], **arguments)
    assert not torch.allclose(alone, whole[:cut])


@pytest.mark.parametrize("case", WITH_HINGE)
def test_the_hinge_was_active(case):
    """In the random steps above; otherwise they prove nothing of it."""
    delta = EVERY_KIND[case][1]["delta"]
    for seed, size in (
        (1, (2, 4, 3)),
        (6, (3, 5)),
        (7, (3, 4)),
        (20, (3, 5)),
        (21, (3, 5)),
        (22, (5, 4)),
        (23, (5, 4)),
    ):
        step = ragged(seed, *size)
        told = totals_of(step)
        assert -told.log_ratio / told.tokens > delta + 0.02


@pytest.mark.parametrize("case", [*PER_ROLLOUT, "sequence KL alone"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_single_rollouts_give_the_credit_of_the_whole(case, size):
    """Where no factor couples a group, its rollouts may be cut apart, shuffled and shortened to their length."""
    objective, step = objective_of(case), ragged(24, Q=4, K=5, absent=0.0)
    logp = step["logp"].nan_to_num(0.0)
    plan = plan_of(objective, step)
    whole, J = credit_of(objective, logp, plan, objective.start())
    found, total = torch.zeros_like(logp).flatten(0, 1), 0.0
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for rows in order.split(size):
        used = (step["mask"].flatten(0, 1)[rows] == 1).any(0).nonzero()
        width = int(used.max()) + 1 if len(used) else 1
        live = logp.flatten(0, 1)[rows, :width].unsqueeze(1)
        part, part_J = credit_of(objective, live, plan.rollouts(rows, width), objective.start())
        found[rows, :width] = part.squeeze(1)
        total += part_J
    torch.testing.assert_close(found.view_as(whole), whole, rtol=1e-12, atol=1e-16)
    assert whole.abs().max() > 1e-3
    assert total.item() == pytest.approx(J.item(), rel=1e-12)


COUPLINGS = {
    **dict.fromkeys(EVERY_KIND, "group"),
    **dict.fromkeys(WITH_HINGE, "step"),
    **dict.fromkeys(PER_ROLLOUT, "token"),
    **dict.fromkeys(["gspo", "gmpo", "sequence KL alone"], "rollout"),
    "hardest negatives alone": "group",
    "clips under a hinge": "step",
}


@pytest.mark.parametrize("case", COUPLINGS)
def test_coupling_is_how_far_a_log_prob_reaches(case):
    """Move one token: credit changes within the declared scope, and for the wider ones up to its edge."""
    objective, coupling = objective_of(case), COUPLINGS[case]
    logp, step = apart(ragged(12, Q=3, K=4, T=4, std=0.05, absent=0.0, empty=0.0))
    step["mask"] = torch.ones_like(step["mask"])
    logp = logp.nan_to_num(-1.0)
    step = {key: x.nan_to_num(-0.9) for key, x in step.items()}
    step["reward"] = torch.tensor([[1.0, 0.0, 0.0, 1.0]] * 3, dtype=D)
    step["correct"] = step["reward"] == 1
    moved = logp.clone()
    moved[1, 2, 3] += 0.02
    before, after = (contrapose.credit(objective, x, **step) for x in (logp, moved))
    changed = (before - after).abs() > 1e-12
    scope = {"token": (1, 2, 3), "rollout": (1, 2), "group": (1,), "step": ()}[coupling]
    outside = changed.clone()
    outside[scope] = False
    assert objective.coupling == coupling
    assert not outside.any()
    if coupling != "token":
        inner = {"rollout": (1, 2, 3), "group": (1, 2), "step": (1,)}[coupling]
        changed[inner] = False
        assert changed[scope].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", EVERY_KIND)
@pytest.mark.parametrize(
    "moved",
    [[700.0, -700.0, 700.0, -700.0], [-700.0, 700.0, -700.0, 700.0], [-700.0, -700.0, -700.0, 700.0], [-700.0] * 4],
)
def test_extreme_log_ratios_stay_finite(case, dtype, moved):
    name, arguments = EVERY_KIND[case]
    old = torch.full((1, 4, 3), -1.0, dtype=dtype)
    logp = old + torch.tensor(moved, dtype=dtype).view(1, 4, 1)
    kw = {"old_logp": old, "reference_logp": old, "reward": torch.tensor([[1.0, 1.0, 0.0, 0.1]])}
    assert contrapose.credit(name, logp, **kw, **arguments).isfinite().all()
    assert contrapose.value(name, logp, **kw, **arguments).isfinite()


def test_omitting_old_log_probs_means_on_policy():
    logp, step = apart(ragged(11))
    for name, arguments in EVERY_KIND.values():
        without_old, with_old = ({**without(step, "old_logp"), **old} for old in ({}, {"old_logp": logp}))
        assert torch.equal(
            contrapose.credit(name, logp, **without_old, **arguments),
            contrapose.credit(name, logp, **with_old, **arguments),
        )


@pytest.mark.parametrize("case", EVERY_KIND)
def test_masked_positions_get_exactly_nothing(case):
    """Holes within a rollout, its padding, empty completions and absent rollouts."""
    name, arguments = EVERY_KIND[case]
    logp, step = apart(ragged(25, Q=4, K=6))
    found = contrapose.credit(name, logp, **step, **arguments)
    assert (found[step["mask"] == 0] == 0).all()
    assert (step["mask"] == 0).any() and (found != 0).sum() > 5
