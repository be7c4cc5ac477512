"""How far from the old policy: the direction of each KL, its estimator, its coefficient."""

import math

import pytest
import torch
from objective_cases import AT_DEFAULTS

import contrapose
from contrapose.objectives.trust import KLHinge, KLOld, KLReference, k3
from contrapose.types import Now

D = torch.float64
HAVE_TRUST = ["rence", "disco", "disco_b"]


def sequences(theta):
    """Log-probs ``[9, 2]`` of every two-symbol sequence of a tabular policy over three symbols."""
    first, second = theta[0].log_softmax(0), theta[1:].log_softmax(1)
    return torch.stack([torch.stack([first[a], second[a, b]]) for a in range(3) for b in range(3)])


@pytest.mark.parametrize(("aggregate", "share"), [("sequence", 1.0), ("sequence_sum", 1.0), ("token_mean", 0.5)])
def test_the_trust_region_is_kl_from_old_to_new(aggregate, share):
    """Over every sequence of a tiny policy, the estimate and its gradient average to KL(old || new) exactly."""
    g = torch.Generator().manual_seed(0)
    old = sequences(torch.randn(4, 3, generator=g, dtype=D))
    theta = torch.randn(4, 3, generator=g, dtype=D).requires_grad_()
    new = sequences(theta)
    weight = old.sum(1).exp()
    exact = (weight * (old - new).sum(1)).sum()
    kw = {"reward": torch.zeros(1, 1), "kl_coef": 1.0, "kl_aggregate": aggregate}
    value, surrogate = 0.0, 0.0
    for y in range(9):
        arguments = ("rence", new[y].detach().view(1, 1, 2))
        value -= weight[y] * contrapose.value(*arguments, old_logp=old[y].view(1, 1, 2), **kw)
        credit = contrapose.credit(*arguments, old_logp=old[y].view(1, 1, 2), **kw)
        surrogate -= weight[y] * (credit.flatten() * new[y]).sum()
    assert value.item() == pytest.approx(share * exact.item(), rel=1e-10)
    (expected,) = torch.autograd.grad(share * exact, theta, retain_graph=True)
    (found,) = torch.autograd.grad(surrogate, theta)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    reverse = (new.sum(1).exp() * (new - old).sum(1)).sum()
    assert abs(reverse.item() - exact.item()) > 0.01


def test_the_reference_penalty_is_kl_from_new_to_reference():
    """On-policy, averaged over every sequence; a token mean over two tokens is half the sequence's KL."""
    g = torch.Generator().manual_seed(1)
    reference, new = (sequences(torch.randn(4, 3, generator=g, dtype=D)) for _ in range(2))
    weight = new.sum(1).exp()
    value = sum(
        -weight[y]
        * contrapose.value(
            "grpo",
            new[y].view(1, 1, 2),
            reference_logp=reference[y].view(1, 1, 2),
            reward=torch.zeros(1, 1),
            reference_coef=1.0,
        )
        for y in range(9)
    )
    assert value.item() == pytest.approx((weight * (new - reference).sum(1)).sum().item() / 2, rel=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_k3_does_not_cancel(dtype, tolerance):
    d = [sign * x for sign in (-1, 1) for x in (1e-8, 1e-5, 3e-4, 9.99e-4, 1.001e-3, 2e-3, 0.1, 1.0)]
    series = [sum(x**n / math.factorial(n) for n in range(2, 25)) for x in d]
    x = torch.tensor(d, dtype=dtype, requires_grad=True)
    assert k3(x).tolist() == pytest.approx(series, rel=tolerance, abs=0)
    (slope,) = torch.autograd.grad(k3(x).sum(), x)
    assert slope.tolist() == pytest.approx([math.expm1(x) for x in d], rel=tolerance, abs=0)
    assert (k3(torch.linspace(-30, 30, 101, dtype=dtype)) >= 0).all()


@pytest.mark.parametrize("d", [21.0, 300.0, -21.0, -300.0])
def test_k3_goes_on_as_a_straight_line_beyond_twenty_nats(d):
    """It neither overflows nor stops pulling back."""
    x = torch.tensor(d, dtype=D, requires_grad=True)
    edge = math.copysign(20.0, d)
    slope = math.expm1(edge)
    assert k3(x).item() == pytest.approx(slope - edge + slope * (d - edge), rel=1e-12)
    assert torch.autograd.grad(k3(x), x)[0].item() == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize(("moved", "clamped"), [(2.0, 6.0), (5.0, 10.0), (-5.0, -15.0), (-9.0, -20.0)])
def test_a_sequences_log_ratio_is_clamped(moved, clamped):
    """Three tokens that move together, at most 10 nats up and 20 down."""
    logp = torch.full((1, 1, 3), moved, dtype=D)
    kw = {"old_logp": torch.zeros(1, 1, 3), "reward": torch.zeros(1, 1), "kl_coef": 1.0, "kl_aggregate": "sequence"}
    found = contrapose.value("rence", logp, **kw).item()
    assert -found == pytest.approx(math.exp(clamped) - 1 - clamped, rel=1e-12)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.01, 1.0), (0.011, 1.001), (0.009, 0.999), (0.012, 1.002), (10.0, 1.002), (0.0, 0.998), (-1.0, 0.998)],
)
def test_the_controller_seeks_its_target(kl, factor):
    """Above the target the coefficient rises, below it falls, by at most a fifth of rollouts / horizon."""
    before = Now(progress=0.4, kl_coef=0.001)
    seen = {"token_mean": kl, "sequence_sum": 99.0, "sequence": -99.0}
    after = KLOld(target=0.01, horizon=25600.0).adapt(before, seen, rollouts=256)
    assert after.kl_coef == pytest.approx(0.001 * factor, rel=1e-12)
    assert after.progress == 0.4


@pytest.mark.parametrize("aggregate", ["token_mean", "sequence_sum", "sequence"])
def test_the_controller_looks_at_its_own_aggregate(aggregate):
    seen = {"token_mean": 0.0, "sequence_sum": 0.0, "sequence": 0.0, aggregate: 1.0}
    assert KLOld(aggregate=aggregate).adapt(Now(kl_coef=1.0), seen, rollouts=256).kl_coef > 1.0


@pytest.mark.parametrize(
    ("rollouts", "steps", "lowest", "highest"), [(256, 800, 0.202, 4.945), (4096, 50, 0.197, 4.830)]
)
def test_how_far_the_controller_can_go_in_a_run(rollouts, steps, lowest, highest):
    for kl, expected in ((0.0, lowest), (1.0, highest)):
        now = Now(kl_coef=1.0)
        for _ in range(steps):
            now = KLOld().adapt(now, {"token_mean": kl}, rollouts)
        assert now.kl_coef == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("kl", [math.nan, math.inf, -math.inf])
def test_a_kl_that_is_not_finite_leaves_the_coefficient(kl):
    now = Now(kl_coef=0.001)
    assert KLOld().adapt(now, {"token_mean": kl}, rollouts=256) == now


@pytest.mark.parametrize(
    ("start", "kl", "end"),
    [(0.001, 0.0, 1e-6), (0.001, 9.0, 1e3), (0.0, 9.0, 0.0), (1e-9, 0.0, 1e-9), (1e-9, 9.0, 1e3), (5e3, 9.0, 5e3)],
)
def test_the_controller_stays_within_bounds_and_moves_nothing_into_them(start, kl, end):
    """However long it goes one way; a coefficient that somebody set beyond a bound goes no further out."""
    now = Now(kl_coef=start)
    for _ in range(2000):
        now = KLOld(horizon=100.0).adapt(now, {"token_mean": kl}, rollouts=64)
    assert now.kl_coef == pytest.approx(end, rel=1e-12)


def test_a_step_of_more_rollouts_than_the_horizon_can_bear_keeps_the_coefficients_sign():
    assert KLOld(horizon=10.0).adapt(Now(kl_coef=0.5), {"token_mean": 0.0}, rollouts=1000).kl_coef == 1e-6


@pytest.mark.parametrize("trust", [KLReference(0.04), KLHinge()])
def test_only_the_penalty_of_rence_adapts(trust):
    now = Now(kl_coef=0.04)
    assert trust.adapt(now, {"token_mean": 9.0, "sequence_sum": 9.0, "sequence": 9.0}, 256) == now


@pytest.mark.parametrize(
    ("name", "arguments", "coef"),
    [
        ("rence", {}, 0.001),
        ("rence", {"kl_coef": 0.5}, 0.5),
        ("rence", {"trust": None}, 0.0),
        ("conspo", {}, 0.0),
        ("grpo", {}, 0.0),
        ("grpo", {"reference_coef": 0.04}, 0.04),
        ("disco", {}, 1e3),
        ("disco_b", {"hinge": 5.0}, 5.0),
        ("dpo", {"reference": "initial"}, 0.0),
        *[(name, arguments, 0.0) for name, arguments in AT_DEFAULTS.items() if name not in HAVE_TRUST],
    ],
)
def test_where_the_coefficient_starts(name, arguments, coef):
    assert contrapose.objective(name, **arguments).start() == Now(progress=0.0, kl_coef=coef)
