"""avg@k, pass@k and intervals, against enumeration, known values and simulation."""

import itertools
import math
import random
from statistics import fmean

import pytest

from contrapose.evaluate.statistics import Estimate, average_at_k, pass_at_k, wilson


@pytest.mark.parametrize(
    ("right", "samples", "value"),
    [([4], 4, 1.0), ([0], 4, 0.0), ([1, 3], 4, 0.5), ([1, 0, 0], 2, 1 / 6), ([2, 1, 0, 1], 2, 0.5)],
)
def test_average_at_k_is_the_mean_share_over_problems(right, samples, value):
    assert average_at_k(right, samples).value == pytest.approx(value)


def test_average_at_k_does_not_depend_on_the_order():
    assert average_at_k([0, 1, 4, 2], 4) == average_at_k([4, 2, 1, 0], 4)


@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_pass_at_k_is_unbiased_by_enumeration(k, p):
    samples = 5
    expected = sum(
        pass_at_k([right], samples, k) * math.comb(samples, right) * p**right * (1 - p) ** (samples - right)
        for right in range(samples + 1)
    )
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


@pytest.mark.parametrize(("samples", "k"), [(4, 1), (4, 2), (4, 4), (6, 3)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples, k):
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        share = fmean(any(chosen) for chosen in itertools.combinations(answers, k))
        assert pass_at_k([right], samples, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_is_the_mean_over_problems():
    assert pass_at_k([0, 1, 4], 4, 4) == pytest.approx(2 / 3)
    assert pass_at_k([0, 1, 4], 4, 1) == pytest.approx(average_at_k([0, 1, 4], 4).value)


def test_pass_at_k_is_finite_for_many_samples():
    assert 0 < pass_at_k([1], 5000, 100) < 1
    assert pass_at_k([1], 5000, 100) == pytest.approx(100 / 5000)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 10, 0.0179, 0.4042),
        (81, 263, 0.2553, 0.3662),  # this and the next three: Newcombe 1998, Table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_known_values(hits, n, low, high):
    estimate = wilson(hits / n, n)
    assert estimate.value == hits / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=6e-5)


def test_wilson_is_symmetric_and_narrows():
    for p in (0.0, 0.2, 0.5):
        one, other = wilson(p, 40), wilson(1 - p, 40)
        assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low))
    widths = [wilson(0.3, n).high - wilson(0.3, n).low for n in (10, 100, 1000, 10000)]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("samples", [1, 4])
def test_intervals_of_all_right_and_all_wrong_are_not_empty(n, samples):
    best, worst = average_at_k([samples] * n, samples), average_at_k([0] * n, samples)
    assert (best.value, worst.value) == (1.0, 0.0)
    assert 0 < best.low < best.high == pytest.approx(1)
    assert pytest.approx(0) == worst.low < worst.high < 1
    assert (best.low, best.high) == pytest.approx((1 - worst.high, 1 - worst.low))


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_intervals_without_spread_between_problems_are_not_empty(n):
    estimate = average_at_k([1] * n, 2)
    assert estimate.low < 0.5 < estimate.high


@pytest.mark.parametrize("seed", range(20))
def test_the_value_lies_within_its_interval_and_that_within_zero_and_one(seed):
    rng = random.Random(seed)
    samples = rng.randint(1, 8)
    estimate = average_at_k([rng.randint(0, samples) for _ in range(rng.randint(1, 40))], samples)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_repeating_every_sample_tells_nothing_new():
    once = average_at_k([1, 0, 0, 1, 1, 0, 1], 1)
    thrice = average_at_k([3, 0, 0, 3, 3, 0, 3], 3)
    assert thrice == pytest.approx(once)


@pytest.mark.parametrize(
    ("difficulty", "truth"),
    [
        pytest.param(lambda rng: rng.random(), 0.5, id="uniform"),
        pytest.param(lambda rng: rng.choice((0.02, 0.02, 0.5, 0.98)), 0.38, id="mixed"),
        pytest.param(lambda rng: float(rng.random() < 0.3), 0.3, id="solved_or_not"),
        pytest.param(lambda rng: 0.3, 0.3, id="all_alike"),
        pytest.param(lambda rng: rng.betavariate(0.2, 3.8), 0.05, id="hard"),
    ],
)
def test_the_interval_covers_the_truth(difficulty, truth):
    rng, held, trials = random.Random(0), 0, 600
    for _ in range(trials):  # 200 problems drawn anew, two samples of each
        right = [sum(rng.random() < p for _ in range(2)) for p in (difficulty(rng) for _ in range(200))]
        estimate = average_at_k(right, 2)
        held += estimate.low <= truth <= estimate.high
    assert held / trials >= 0.92


def test_the_interval_is_not_needlessly_wide():
    rng = random.Random(0)
    right = [sum(rng.random() < 0.5 for _ in range(2)) for _ in range(200)]
    estimate = average_at_k(right, 2)
    assert estimate.high - estimate.low < 1.15 * 2 * 1.96 * math.sqrt(0.25 / 400)


def test_an_estimate_reads_well():
    assert str(Estimate(0.34567, 0.3, 0.4)) == "0.346 [0.300, 0.400]"
