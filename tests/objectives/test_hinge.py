"""DisCO's hinge on the KL of the whole step."""

from dataclasses import replace

import pytest
import torch
from objective_cases import batch_of, totals_of
from textbook.step import apart, group, ragged, without

import contrapose
from contrapose.objectives.credit import credit_of, with_sums

D = torch.float64
CASES = [("disco", "log_prob"), ("disco", "ratio"), ("disco_b", "log_prob"), ("disco_b", "ratio")]


def sunk(by, T=3):
    """One group at theta = old, then every token ``by`` nats less likely, so that the mean of -d is ``by``."""
    logp, step = group([1.0, 0.0, 0.0, 1.0], length=[1, 2, T, T])
    step["old_logp"] = logp + by
    return logp, step


@pytest.mark.parametrize(("name", "score"), CASES)
@pytest.mark.parametrize("kl", [0.0999, 0.1, -0.3, 0.0])
def test_below_delta_the_hinge_is_not_there(name, score, kl):
    logp, step = sunk(kl)
    kw = {**step, "score": score}
    if kl == 0.1:  # exactly at delta, whatever the rounding of a mean
        kw["totals"] = contrapose.Totals(1, 4, int(step["mask"].sum()), -0.1 * int(step["mask"].sum()))
    found = contrapose.credit(name, logp, **kw, delta=0.1, hinge=1e6)
    assert torch.equal(found, contrapose.credit(name, logp, **kw, delta=0.1, hinge=0.0))
    J, without_hinge = (contrapose.value(name, logp, **kw, delta=0.1, hinge=hinge) for hinge in (1e6, 0.0))
    assert without_hinge == J


@pytest.mark.parametrize(("name", "score"), CASES)
def test_above_delta_every_token_is_held_up(name, score):
    """hinge [KL - delta]_+ over all tokens, on top of the contrast; J falls by half of hinge [KL - delta]_+^2."""
    logp, step = sunk(0.13)
    kw = {**step, "score": score, "delta": 0.1}
    bare, bare_J = (f(name, logp, **kw, hinge=0.0) for f in (contrapose.credit, contrapose.value))
    held, held_J = (f(name, logp, **kw, hinge=700.0) for f in (contrapose.credit, contrapose.value))
    torch.testing.assert_close(held - bare, step["mask"] * 700.0 * 0.03 / 9, rtol=1e-10, atol=0)
    assert (bare_J - held_J).item() == pytest.approx(700.0 / 2 * 0.03**2, rel=1e-10)


def test_the_hinge_acts_on_dead_groups_too():
    logp, step = sunk(0.2)
    step["reward"], step["correct"] = torch.zeros(1, 4, dtype=D), torch.zeros(1, 4, dtype=torch.bool)
    for name in ("disco", "disco_b"):
        found = contrapose.credit(name, logp, **step, delta=0.0, hinge=9.0)
        torch.testing.assert_close(found, step["mask"] * 9.0 * 0.2 / 9, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["disco", "disco_b"])
def test_one_number_couples_the_step(name):
    """A group that moves changes the credit of another, of every token alike; a hinge that sleeps couples nothing."""
    logp, step = apart(ragged(50, Q=3, K=5))
    moved = logp.clone()
    moved[2] -= 0.2
    for hinge, expected in ((0.0, 0.0), (4.0, 4.0 * 0.2 * float(step["mask"][2].sum() / step["mask"].sum() ** 2))):
        before, after = (contrapose.credit(name, x, **step, hinge=hinge) for x in (logp, moved))
        torch.testing.assert_close((after - before)[:2], expected * step["mask"][:2], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("name", "score"), CASES)
def test_value_and_credit_are_those_of_the_whole_steps_formula(name, score):
    """The equation on the dense step, squared hinge and all, left to autograd."""
    tau, delta, hinge = 0.5, 0.02, 6.0
    logp, step = apart(ragged(51, Q=4, K=6))
    mask, here = step["mask"], step["present"] & (step["mask"].sum(-1) > 0)
    live = logp.masked_fill(mask == 0, 0.0).requires_grad_()
    d = (live - step["old_logp"]).masked_fill(mask == 0, 0.0)
    s = ((live if score == "log_prob" else d.exp()) * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    J = -hinge / 2 * (-d.sum() / mask.sum() - delta).relu() ** 2
    for q in range(4):
        pos, neg = here[q] & step["correct"][q], here[q] & ~step["correct"][q]
        if pos.any() and neg.any():
            pushed = s[q, neg].mean() if name == "disco_b" else tau * (s[q, neg] / tau).exp().mean().log()
            J = J + (s[q, pos].mean() - pushed) / step["present"].any(1).sum()
    J.backward()
    kw = {"score": score, "delta": delta, "hinge": hinge, **({"tau": tau} if name == "disco" else {})}
    torch.testing.assert_close(contrapose.credit(name, logp, **step, **kw), live.grad, rtol=1e-10, atol=1e-15)
    assert contrapose.value(name, logp, **step, **kw).item() == pytest.approx(J.item(), rel=1e-12)
    bare = contrapose.credit(name, logp, **step, **{**kw, "hinge": 0.0})
    assert not torch.allclose(bare, live.grad, rtol=0.1)


def test_a_part_is_told_the_sum_of_the_step():
    """Without it a part would know only of its own tokens; it says so instead."""
    step = ragged(52, Q=4, K=5)
    told = totals_of(step)
    logp, rest = apart(step)
    here = {key: x[:2] for key, x in rest.items()}
    kw = {"delta": 0.0, "hinge": 2.0}
    found = contrapose.credit("disco_b", logp[:2], **here, **kw, totals=told)
    torch.testing.assert_close(found, contrapose.credit("disco_b", logp, **rest, **kw)[:2], rtol=1e-12, atol=0)
    untold = replace(told, log_ratio=None)
    with pytest.raises(ValueError, match="log_ratio"):
        contrapose.credit("disco_b", logp[:2], **here, **kw, totals=untold)
    whole = contrapose.credit("disco_b", logp, **rest, **kw, totals=untold)
    torch.testing.assert_close(whole[:2], found, rtol=1e-12, atol=0)
    grpo = contrapose.credit("grpo", logp[:2], **here, totals=untold)
    torch.testing.assert_close(grpo, contrapose.credit("grpo", logp, **rest)[:2], rtol=1e-12, atol=0)


def test_the_sum_is_taken_where_it_is_needed_and_missing():
    """Over response tokens alone; never for an objective that couples less, and never over what a caller said."""
    step = ragged(53, Q=4, K=5)
    logp, told = step["logp"], totals_of(step)
    disco, grpo = contrapose.objective("disco"), contrapose.objective("grpo")
    plan = disco.plan(batch_of(step))
    assert plan.totals.log_ratio is None
    assert with_sums(disco, logp, plan).totals.log_ratio == pytest.approx(told.log_ratio, rel=1e-12)
    assert with_sums(grpo, logp, plan) is plan
    said = disco.plan(batch_of(step), contrapose.Totals(4, 20, 30, log_ratio=-7.0))
    assert with_sums(disco, logp, said) is said
    assert credit_of(disco, logp, said, disco.start())[1] < credit_of(disco, logp, plan, disco.start())[1]


@pytest.mark.parametrize("name", ["disco", "disco_b"])
def test_an_empty_step_has_no_kl(name):
    logp, step = group([1.0, 0.0], length=[0, 0])
    assert (contrapose.credit(name, logp, **step) == 0).all()
    assert contrapose.value(name, logp, **without(step, "old_logp")) == 0


def halves(*symbols):
    """Log-probs of three symbols: a half for the first named, a quarter for the others."""
    return torch.tensor([0.5 if symbol == symbols[0] else 0.25 for symbol in range(3)], dtype=D).log()


@pytest.mark.parametrize("name", ["disco", "disco_b"])
def test_the_hinge_holds_kl_from_old_to_new(name):
    """A step of sixteen sequences in which each appears as often as the old policy would have it.

    Then the mean of -d is KL(old || new) over two tokens exactly, and the credits add up to the hinge's gradient.
    """
    first, second = halves(1), [halves(2), halves(0), halves(1)]
    theta = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=D).requires_grad_()
    new_first, new_second = theta[0].log_softmax(0), theta[1:].log_softmax(1)
    pairs = [(a, b) for a in range(3) for b in range(3)]
    old = torch.stack([torch.stack([first[a], second[a][b]]) for a, b in pairs])
    new = torch.stack([torch.stack([new_first[a], new_second[a, b]]) for a, b in pairs])
    weight = old.sum(1).exp()
    exact = (weight * (old - new).sum(1)).sum() / 2
    reverse = (new.sum(1).exp() * (new - old).sum(1)).sum() / 2
    assert abs(exact.item() - reverse.item()) > 0.01
    often = (weight * 16).round().long()
    assert often.sum() == 16
    drawn_new, drawn_old = (x.repeat_interleave(often, 0).unsqueeze(0) for x in (new, old))
    kw = {"old_logp": drawn_old, "reward": torch.zeros(1, 16), "delta": 0.01, "hinge": 3.0}
    J = contrapose.value(name, drawn_new.detach(), **kw)
    expected = -3.0 / 2 * (exact - 0.01) ** 2
    assert J.item() == pytest.approx(expected.item(), rel=1e-10)
    credit = contrapose.credit(name, drawn_new.detach(), **kw)
    (found,) = torch.autograd.grad((credit * drawn_new).sum(), theta, retain_graph=True)
    (slope,) = torch.autograd.grad(expected, theta)
    torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-12)
    assert slope.abs().max() > 0.01
