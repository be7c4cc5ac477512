"""How often the 95 % interval holds the truth: problems drawn from known populations, samples from known rates.

    python benchmarks/coverage.py                  # the tables of docs/benchmarks.md, some minutes on one core
    python benchmarks/coverage.py --trials 10000   # less noise

A row is a population of solve rates, a column a number of problems, or those of the data sets of a mean; a cell is the
share of trials, in %, whose interval held the population's mean. Of 1,000 trials its own standard error is 0.7 where
the coverage is 95.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from contrapose.evaluate import statistics
from contrapose.evaluate.statistics import mean_of_sets, pass_at_k

Sizes = tuple[int, ...]
PROBLEMS: dict[str, Sizes] = {str(n): (n,) for n in (10, 30, 100, 300, 500)}
MEANS: dict[str, Sizes] = {
    "4 x 30": (30, 30, 30, 30),
    "+ 83": (30, 30, 30, 30, 83),
    "6 sets": (500, 30, 30, 83, 272, 675),
}
Rates = Callable[[np.random.Generator, int], np.ndarray]
Cells = list[tuple[int, float, float]]


def beta(a: float, b: float) -> Rates:
    return lambda rng, size: rng.beta(a, b, size)


POPULATIONS: dict[str, Rates] = {
    "U-shaped, Beta(0.3, 0.3)": beta(0.3, 0.3),
    "uniform": beta(1, 1),
    "near 0.05, Beta(1, 19)": beta(1, 19),
    "few solvable, Beta(0.2, 3.8)": beta(0.2, 3.8),
    "near 0.95, Beta(19, 1)": beta(19, 1),
    "all alike, 0.3": lambda rng, size: np.full(size, 0.3),
}


def majority(rng: np.random.Generator, rates: np.ndarray, samples: int) -> list[float]:
    """maj@n where a wrong answer is one of two, the first twice as likely; ties count by their share."""
    wrong = (1 - rates)[:, None]
    votes = rng.multinomial(samples, np.hstack([1 - wrong, wrong * 2 / 3, wrong / 3]))
    most = votes.max(1)
    return ((votes[:, 0] == most) / (votes == most[:, None]).sum(1)).tolist()


def average(rng: np.random.Generator, rates: np.ndarray, samples: int) -> list[float]:
    """avg@n."""
    return pass_at_k(rng.binomial(samples, rates).tolist(), samples, 1)


def passing(k: int) -> Callable[[np.random.Generator, np.ndarray, int], list[float]]:
    """pass@k."""
    return lambda rng, rates, samples: pass_at_k(rng.binomial(samples, rates).tolist(), samples, k)


def paired(rng: np.random.Generator, rates: np.ndarray, samples: int) -> list[float]:
    """Differences of avg@n on the same problems, of which the other model solves a fifth of what is left besides."""
    first, second = average(rng, rates, samples), average(rng, rates + 0.2 * (1 - rates), samples)
    return [b - a for a, b in zip(first, second, strict=True)]


@cache
def interval(sets: tuple[tuple[tuple[float, int], ...], ...], signed: bool) -> tuple[float, float]:
    """The ends of the interval. With one sample a problem the same scores come again and again."""
    found = mean_of_sets([[s for s, count in counts for _ in range(count)] for counts in sets], signed=signed)
    return found.low, found.high


def coverage(score, rates: Rates, samples: int, sizes: Sizes, truth: float, trials: int, *, signed: bool) -> float:
    """The share of ``trials`` whose interval holds ``truth``."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(trials):
        sets = (Counter(score(rng, rates(rng, problems), samples)) for problems in sizes)
        low, high = interval(tuple(tuple(sorted(scores.items())) for scores in sets), signed)
        held += low <= truth <= high
    return held / trials


def table(
    name: str,
    score,
    samples: int,
    trials: int,
    columns: Mapping[str, Sizes] = PROBLEMS,
    *,
    draws: int = 10_000,
    signed: bool = False,
) -> Cells:
    """Print the coverages of a statistic; return each with its number of problems and the population's mean."""
    statistics.DRAWS = draws
    print(f"\n{name:30}{'mean':>7}" + "".join(f"{column:>7}" for column in columns))
    cells = []
    for population, rates in POPULATIONS.items():
        rng = np.random.default_rng(1)
        truth = float(np.mean(score(rng, rates(rng, 1_000_000), samples)))
        row = [coverage(score, rates, samples, sizes, truth, trials, signed=signed) for sizes in columns.values()]
        print(f"{population:30}{truth:7.3f}" + "".join(f"{c:7.1%}" for c in row), flush=True)
        cells += [(sum(sizes), truth, c) for sizes, c in zip(columns.values(), row, strict=True)]
    return cells


def summary(cells: Cells) -> None:
    """Print the least and the greatest coverage, apart for few problems and for means that are nearly 0 or 1."""
    for size, least, most in (("10 problems", 1, 10), ("30 problems", 11, 30), ("100 problems and more", 31, 10_000)):
        for where, middle in (("means from 2 to 98 %", True), ("nearer to 0 or 1", False)):
            kept = [c for n, truth, c in cells if least <= n <= most and (0.02 <= truth <= 0.98) is middle]
            within = sum(0.93 <= c <= 0.97 for c in kept)
            print(f"{size}, {where}: {min(kept):.1%} to {max(kept):.1%}, {within} of {len(kept)} within 93 to 97 %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    few = {"draws": 1_000}  # noise in the ends averages out where hardly two trials have the same scores
    cells = table("avg@1", average, 1, trials) + table("avg@4", average, 4, trials, **few)
    cells += table("avg@32", average, 32, trials, **few) + table("maj@32", majority, 32, trials)
    cells += table("pass@2 of 4", passing(2), 4, trials, **few) + table("pass@4 of 4", passing(4), 4, trials, **few)
    cells += table("pass@16 of 32", passing(16), 32, trials, **few) + table("pass@32 of 32", passing(32), 32, trials)
    cells += table("difference, avg@1", paired, 1, trials, signed=True)
    cells += table("difference, avg@4", paired, 4, trials, signed=True, **few)
    print()
    summary(cells)
    means = table("mean of sets, avg@4", average, 4, trials, MEANS, **few)
    means += table("mean of sets, avg@32", average, 32, trials, MEANS, **few)
    means += table("mean of differences, avg@4", paired, 4, trials, MEANS, signed=True, **few)
    print(f"\nmeans of sets: {min(c for *_, c in means):.1%} to {max(c for *_, c in means):.1%} in {len(means)} cells")
