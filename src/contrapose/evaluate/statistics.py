"""avg@k, pass@k and their uncertainty, from the number of right answers to each problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import NamedTuple

Z95 = 1.959963984540054


class Estimate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def average_at_k(right: Sequence[int], samples: int) -> Estimate:
    """The mean share of right samples over problems (avg@k, an unbiased estimate of pass@1).

    The interval treats problems as the independent units, so that samples of one problem do not count twice:
    Wilson's interval at the number of independent draws that the variance between problems amounts to.
    """
    shares = [r / samples for r in right]
    p, n = fmean(shares), len(shares)
    spread = variance(shares) / n if n > 1 else 0.0
    return wilson(p, p * (1 - p) / spread if spread > 0 else n)


def wilson(p: float, n: float) -> Estimate:
    """Wilson's 95 % score interval of a share ``p`` seen in ``n`` independent draws."""
    shrink = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def pass_at_k(right: Sequence[int], samples: int, k: int) -> float:
    """The chance that at least one of ``k`` samples is right, mean over problems (Chen et al. 2021, unbiased)."""
    return fmean(1 - math.comb(samples - r, k) / math.comb(samples, k) for r in right)
