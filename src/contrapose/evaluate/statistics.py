"""avg@n, pass@k and how sure they are. A score is what one problem is worth, such as the share of its right samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

if TYPE_CHECKING:
    from numpy import float64
    from numpy.random import RandomState
    from numpy.typing import NDArray

Z95 = 1.959963984540054

FEW = 30
"""Fewer problems tell too little of their own spread for an interval to hold the truth as often as it says."""

DRAWS = 10_000
"""Of a bootstrap. The ends of an interval are then known to about 1 % of its width."""

UNSEEN, BEYOND, REACH = 0.8, 2.0, 2.0
"""What no problem has shown yet: scores twice as far from the mean as the farthest, on either side, counted 0.8
times; and with n problems at least 2 / sqrt(n) of the whole range away, since few that agree show little. Chosen by
simulation (``benchmarks/coverage.py``): with less, intervals are too short where few answers are right, or few are
wrong; with more, they are needlessly long where all problems are about equally hard."""


class Estimate(NamedTuple):
    """A mean over problems with its 95 % interval. ``se`` is the standard error from sampling alone: how far the value
    would move if the same problems were asked again; None where the samples cannot tell."""

    value: float
    low: float
    high: float
    se: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def pass_at_k(right: Sequence[int], samples: int, k: int) -> list[float]:
    """For each problem, the chance that at least one of ``k`` samples is right (Chen et al. 2021, unbiased).

    ``right`` counts the right ones of ``samples``. For ``k`` = 1 it is their share, whose mean is avg@n.
    """
    ways = math.comb(samples, k)
    return [(ways - math.comb(samples - r, k)) / ways for r in right]


def sampling_error(right: Sequence[int], samples: int, k: int = 1) -> float | None:
    """The standard error of pass@k on these problems, from sampling alone; None where ``samples`` < 2 ``k``.

    Its square is unbiased: where f_k is the share of k samples that are all wrong, f_k^2 - f_2k estimates the variance
    of pass@k of a problem. For ``k`` = 1, avg@n, that is p (1 - p) / (n - 1).
    """
    if samples < 2 * k:
        return None
    some, all_of_them = pass_at_k(right, samples, k), pass_at_k(right, samples, 2 * k)
    spread = sum((1 - one) ** 2 - (1 - two) for one, two in zip(some, all_of_them, strict=True))
    return math.sqrt(max(0.0, spread)) / len(right)


def estimate(scores: Sequence[float], se: float | None = None, *, signed: bool = False) -> Estimate:
    """The mean of ``scores`` between 0 and 1 (``signed``: between -1 and 1, differences of scores).

    The interval is for problems drawn anew from where these came from, and its width is never zero.
    """
    return mean_of_sets([scores], se, signed=signed)


def mean_of_sets(sets: Sequence[Sequence[float]], se: float | None = None, *, signed: bool = False) -> Estimate:
    """The plain mean of the means of several data sets, each with problems of its own (the papers' "Avg").

    What was not seen leans the draws of a set to one side. Over sets such leanings would add up, while the spread of a
    mean shrinks with the square root of their number: the leaning of the mean is made to shrink as its spread does.
    """
    import numpy as np

    seed = crc32(repr([sorted(map(float, scores)) for scores in sets]).encode())
    generator = np.random.RandomState(seed)  # its stream is frozen for good, a Generator's is not
    value = fmean(fmean(scores) for scores in sets)
    shifts = np.mean([_shifts(scores, signed, generator) for scores in sets], axis=0)
    shifts += shifts.mean() * (1 / math.sqrt(len(sets)) - 1)
    # sums of floating-point numbers differ in their last digits between machines
    low, high = (round(value + float(end), 6) for end in np.quantile(shifts, (0.025, 0.975)))
    return Estimate(value, min(value, max(-1.0 if signed else 0.0, low)), max(value, min(1.0, high)), se)


def _shifts(scores: Sequence[float], signed: bool, generator: RandomState) -> NDArray[float64]:
    """How far the mean of ``scores`` shifts under ``DRAWS`` redrawings of the problems.

    Rubin's Bayesian bootstrap: each problem weighs what Gamma(1) draws. A bootstrap of what was seen alone is too short
    where scores are skewed, and a single point where they are all the same: two scores beyond the seen ones
    (``UNSEEN``), or at the ends of what is possible, see to that. With one sample a problem this is the posterior of a
    share under Beta(0.8, 0.8). Draws are spread out as Student's t is beside the normal distribution: few problems
    tell little of their own spread.
    """
    import numpy as np

    n, value, counts = len(scores), fmean(scores), Counter[float](scores)
    least = -1.0 if signed else 0.0
    down, up = value - min(counts), max(counts) - value
    if signed:
        down = up = max(down, up)
    far = (1 - least) * (REACH / math.sqrt(n) if len(counts) > 1 else 1)
    ends = value - max(BEYOND * down, far), value + max(BEYOND * up, far)
    seen = np.array([*sorted(counts.items()), *((min(1.0, max(least, end)), UNSEEN) for end in ends)])
    weights = generator.standard_gamma(seen[:, 1], (DRAWS, len(seen)))
    means = (weights * seen[:, 0]).sum(1) / weights.sum(1)
    wider = math.sqrt(1 + 1 / n) * (1 + (Z95**2 + 1) / (4 * n))
    shifts: NDArray[float64] = (means - value) * wider
    return shifts
