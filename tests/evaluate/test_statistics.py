"""avg@k, pass@k and intervals, against enumeration, known values and simulation."""

import itertools
import math
import random
import subprocess
import sys
from statistics import fmean

import numpy as np
import pytest

from contrapose.evaluate import statistics
from contrapose.evaluate.statistics import Estimate, estimate, mean_of_sets, pass_at_k, sampling_error


def average(right, samples):
    return estimate(pass_at_k(right, samples, 1), sampling_error(right, samples))


@pytest.mark.parametrize(
    ("right", "samples", "value"),
    [([4], 4, 1.0), ([0], 4, 0.0), ([1, 3], 4, 0.5), ([1, 0, 0], 2, 1 / 6), ([2, 1, 0, 1], 2, 0.5)],
)
def test_pass_at_1_is_the_mean_share_over_problems(right, samples, value):
    assert average(right, samples).value == pytest.approx(value)


@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_pass_at_k_is_unbiased_by_enumeration(k, p):
    samples = 5
    expected = sum(
        chance * score for chance, (score,) in ((binomial(samples, r, p), pass_at_k([r], samples, k)) for r in range(6))
    )
    assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


@pytest.mark.parametrize(("samples", "k"), [(4, 1), (4, 2), (4, 4), (6, 3)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples, k):
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        share = fmean(any(chosen) for chosen in itertools.combinations(answers, k))
        assert pass_at_k([right], samples, k) == [pytest.approx(share, abs=1e-12)]


def test_pass_at_k_is_finite_for_many_samples():
    assert pass_at_k([1], 5000, 100) == [pytest.approx(100 / 5000)]


@pytest.mark.parametrize(("samples", "k"), [(2, 1), (5, 1), (4, 2), (6, 2), (7, 3)])
@pytest.mark.parametrize("p", [0.05, 0.4, 0.9])
def test_the_squared_sampling_error_is_unbiased_by_enumeration(samples, k, p):
    chances = [binomial(samples, r, p) for r in range(samples + 1)]
    scores = [pass_at_k([r], samples, k)[0] for r in range(samples + 1)]
    spread = sum(c * s**2 for c, s in zip(chances, scores, strict=True)) - (1 - (1 - p) ** k) ** 2
    expected = sum(c * sampling_error([r], samples, k) ** 2 for r, c in enumerate(chances))
    assert expected == pytest.approx(spread, abs=1e-12)


def test_the_sampling_error_of_an_average_is_the_known_formula():
    right, n = [0, 1, 2, 4], 4
    known = math.sqrt(sum(r / n * (1 - r / n) for r in right) / (n - 1)) / len(right)
    assert average(right, n).se == pytest.approx(known)


def test_too_few_samples_tell_no_sampling_error():
    assert sampling_error([0, 1, 1], 1) is None
    assert sampling_error([0, 1, 3], 3, 2) is None
    assert sampling_error([0, 1, 4], 4, 2) is not None


def binomial(n, r, p):
    return math.comb(n, r) * p**r * (1 - p) ** (n - r)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_with_one_sample_the_interval_is_that_of_a_beta_posterior():
    """Quantiles of Beta(3 + 0.8, 37 + 0.8), by integrating its density, and spread out for 40 problems."""
    grid = (np.arange(200_000) + 0.5) / 200_000
    mass = np.cumsum(grid ** (3 + 0.8 - 1) * (1 - grid) ** (37 + 0.8 - 1))
    low, high = (grid[np.searchsorted(mass, q * mass[-1])] for q in (0.025, 0.975))
    wider = math.sqrt(1 + 1 / 40) * (1 + (1.96**2 + 1) / 160)
    found = average([1] * 3 + [0] * 37, 1)
    assert found.low == pytest.approx(3 / 40 + (low - 3 / 40) * wider, abs=0.002)
    assert found.high == pytest.approx(3 / 40 + (high - 3 / 40) * wider, abs=0.004)


def test_for_many_problems_it_is_the_normal_interval():
    rng = random.Random(0)
    scores = [rng.randint(0, 8) / 8 for _ in range(4000)]
    half = 1.96 * math.sqrt(np.var(scores) / 4000)
    found = estimate(scores)
    assert (found.value - found.low, found.high - found.value) == (pytest.approx(half, rel=0.05),) * 2


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("samples", [1, 4])
def test_intervals_of_all_right_and_all_wrong_are_not_empty(n, samples):
    best, worst = average([samples] * n, samples), average([0] * n, samples)
    assert (best.value, best.high, worst.value, worst.low) == (1.0, 1.0, 0.0, 0.0)
    assert 2 / (n + 2) < 1 - best.low < 4 / n
    assert worst.high == pytest.approx(1 - best.low, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("score", [0.0, 0.25, 0.5, 1.0])
def test_an_interval_is_never_a_point(n, score):
    found = estimate([score] * n)
    assert found.high - found.low > 0.5 / n
    same = estimate([0.0] * n, signed=True)
    assert same.low < -0.2 / n < 0.2 / n < same.high


@pytest.mark.parametrize("seed", range(20))
def test_the_value_lies_within_its_interval_and_that_within_what_is_possible(seed):
    rng = random.Random(seed)
    samples = rng.randint(1, 8)
    scores = [rng.randint(0, samples) / samples for _ in range(rng.randint(1, 40))]
    found = estimate(scores)
    assert 0 <= found.low <= found.value <= found.high <= 1
    signed = estimate([s - rng.random() for s in scores], signed=True)
    assert -1 <= signed.low <= signed.value <= signed.high <= 1


def test_the_order_of_problems_does_not_matter_and_nothing_is_left_to_chance():
    scores = [0.0, 0.25, 1.0, 0.5, 0.5]
    assert estimate(scores) == estimate(scores[::-1]) == estimate(scores)
    code = "from contrapose.evaluate.statistics import estimate; print(estimate([0.0, 0.25, 1.0, 0.5, 0.5]))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == str(estimate(scores))


def test_two_data_sets_alike_are_two():
    """The mean of two is surer than either, also where their scores are the same."""
    scores = [0.0, 1.0, 0.5, 0.5, 1.0, 0.0, 1.0, 0.0] * 4
    one, both = estimate(scores), mean_of_sets([scores, scores], 0.01)
    assert both.value == one.value
    assert both.se == 0.01
    assert (both.high - both.low) / (one.high - one.low) == pytest.approx(math.sqrt(0.5), rel=0.05)


def test_the_mean_of_one_data_set_is_that_of_its_problems():
    scores = [0.0, 0.25, 1.0, 0.5]
    assert mean_of_sets([scores]) == estimate(scores)


def test_data_sets_count_the_same_whatever_their_size():
    assert mean_of_sets([[1.0], [0.0] * 9]).value == 0.5


def test_an_estimate_reads_well():
    assert str(Estimate(0.34567, 0.3, 0.4)) == "0.346 [0.300, 0.400]"


# --- coverage: benchmarks/coverage.py has the whole grid --------------------------------------------------------------

TRIALS = 1000
POPULATIONS = {
    "u_shaped": (lambda rng, n: rng.beta(0.3, 0.3, n), 0.5),
    "uniform": (lambda rng, n: rng.random(n), 0.5),
    "near_0.05": (lambda rng, n: rng.beta(1, 19, n), 0.05),
    "near_0.95": (lambda rng, n: rng.beta(19, 1, n), 0.95),
    "few_solvable": (lambda rng, n: rng.beta(0.2, 3.8, n), 0.05),
}
NOISE = 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def held(truth, score, *problems, signed=False):
    """How often, with so many problems in each of the data sets, the interval of their mean has ``truth``."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        found = mean_of_sets([list(score(rng, n)) for n in problems], signed=signed)
        hits += found.low <= truth <= found.high
    return hits / TRIALS


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 300)


@pytest.mark.parametrize(
    ("population", "samples"),
    [("u_shaped", 4), ("uniform", 1), ("near_0.05", 1), ("near_0.95", 4), ("few_solvable", 4)],
)
def test_the_interval_holds_the_truth_of_100_problems(few_draws, population, samples):
    rates, truth = POPULATIONS[population]
    share = held(truth, lambda rng, n: rng.binomial(samples, rates(rng, n)) / samples, 100)
    assert 0.93 - NOISE <= share <= 0.97 + NOISE


@pytest.mark.parametrize("population", ["near_0.95", "few_solvable"])
def test_and_of_30_problems_nine_times_in_ten(few_draws, population):
    rates, truth = POPULATIONS[population]
    assert held(truth, lambda rng, n: rng.binomial(4, rates(rng, n)) / 4, 30) >= 0.90


@pytest.mark.parametrize("population", ["near_0.95", "few_solvable"])
def test_so_does_that_of_a_mean_over_data_sets(few_draws, population):
    """What is not seen leans every set to the same side, and must not add up."""
    rates, truth = POPULATIONS[population]
    share = held(truth, lambda rng, n: rng.binomial(32, rates(rng, n)) / 32, 30, 30, 30, 30, 83)
    assert 0.93 - NOISE <= share <= 0.97 + NOISE


def test_few_problems_that_nearly_agree_show_little(few_draws):
    """With two, any interval of what they have shown would be far too short."""
    rates, truth = POPULATIONS["u_shaped"]
    for problems in (2, 5):
        assert held(truth, lambda rng, n: rng.binomial(4, rates(rng, n)) / 4, problems) >= 0.95


def test_so_does_that_of_pass_at_k(few_draws):
    truth = 1 - 2 / 6  # 1 - E (1 - p)^2 for p uniform is 2 / 3
    share = held(truth, lambda rng, n: pass_at_k(rng.binomial(4, rng.random(n)).tolist(), 4, 2), 100)
    assert 0.93 - NOISE <= share <= 0.97 + NOISE


def test_and_that_of_a_paired_difference(few_draws):
    def difference(rng, n):
        rates = rng.beta(0.3, 0.3, n)
        return (rng.binomial(4, 0.9 * rates + 0.1) - rng.binomial(4, rates)) / 4

    assert 0.93 - NOISE <= held(0.05, difference, 100, signed=True) <= 0.97 + NOISE
