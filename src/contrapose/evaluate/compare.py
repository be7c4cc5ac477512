"""Two evaluations of the same problems, side by side: is one model better, or is it noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from contrapose.evaluate import records
from contrapose.evaluate.evaluate import Answered
from contrapose.evaluate.records import Kept
from contrapose.evaluate.statistics import FEW, Z95, Estimate, estimate, mean_of_sets, sampling_error
from contrapose.types import ContraposeError

SHOWS = (Z95 + 0.8416212335729143) / Z95
"""How many half-widths of its interval a difference must be, so that zero is left out in four repetitions of five."""

MODEL = ("weights", "config", "tokenizer", "eos")
"""Settings that tell models apart."""

Set = Mapping[str, Kept]
"""The problems of a data set by their prompts' ids."""


@dataclass(frozen=True)
class Comparison:
    """Paired differences on the ``problems`` of a data set that both evaluations have: the second minus the first.

    ``first`` and ``second`` are the accuracies on these problems. ``same``: one model was asked twice, with nothing but
    the seed changed, so that there is no difference to be found.
    """

    data: str
    problems: int
    first: float
    second: float
    difference: Estimate
    same: bool = False

    @property
    def shown(self) -> float:
        """The smallest difference that these problems would have shown in four repetitions of five."""
        value, low, high, _ = self.difference
        return SHOWS * (high - value if value < 0 else value - low)

    @property
    def enough(self) -> int:
        """How many problems like these would show a difference of this size, which is not 0, so often."""
        return math.ceil(self.problems * (self.shown / self.difference.value) ** 2)

    def sentence(self, names: tuple[str, str]) -> str:
        """What it comes to, in points."""
        gap = round(100 * self.difference.value, 9)
        low, high = 100 * self.difference.low, 100 * self.difference.high
        if gap < 0:
            low, high = -high, -low
        ahead = f"{names[gap > 0]} is ahead by {abs(gap):.1f} points" if gap else "equal so far"
        found = f"{ahead} [{low:.1f}, {high:.1f}]"
        if self.same:
            return f"the same model asked twice, so by chance: {found}"
        if low > 0:
            return found
        if self.problems < FEW:
            return f"within noise: {found}"
        if gap:
            return f"within noise: {found}; a difference of this size takes about {self.enough:,} problems like these"
        return f"within noise: {found}; so many problems show differences from about {100 * self.shown:.1f} points on"


@dataclass(frozen=True)
class Compared:
    """Two evaluations: a comparison for each data set and, where there are several, their mean.

    ``renamed`` has the data sets that the two call differently; ``alone`` the problems that only one of them has;
    ``other_golds`` those with another gold answer in each, which are left out; ``settings`` what differs of them: key,
    value of the first, value of the second.
    """

    sets: tuple[Comparison, ...]
    renamed: tuple[tuple[str, str], ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]
    other_golds: tuple[str, ...]
    settings: tuple[tuple[str, Any, Any], ...]


def compare(first: Path, second: Path) -> Compared:
    """The comparison of the folders of two evaluations, problem by problem as the ids of their prompts match.

    Raises ContraposeError for another folder, for one that is damaged, and where the two have nothing in common.
    """
    (one, before), (other, after) = records.read(first), records.read(second)
    left, right = _by_set(before), _by_set(after)
    partners = _partners(left, right)
    both = [
        (data, [(left[data][p], right[partner][p]) for p in left[data] if p in right[partner]])
        for data, partner in partners.items()
    ]
    pairs = {data: [(a.answered, b.answered) for a, b in kept if a.gold == b.gold] for data, kept in both}
    pairs = {data: paired for data, paired in pairs.items() if paired}
    if not pairs:
        raise ContraposeError(f"--compare: {first} and {second} have no problem in common")
    settings = tuple(_settings(one, other, partners))
    same = not {key for key, *_ in settings} - {"seed"} and all(one.get(key) == other.get(key) for key in MODEL)
    found = [_comparison(data, paired, same) for data, paired in pairs.items()]
    if len(found) > 1:
        found.append(_mean(found, [_scores(paired) for paired in pairs.values()]))
    backwards = {partner: data for data, partner in partners.items()}
    return Compared(
        tuple(found),
        tuple((data, partner) for data, partner in partners.items() if data != partner),
        (tuple(_alone(left, right, partners)), tuple(_alone(right, left, backwards))),
        tuple(a.answered.prompt for _, kept in both for a, b in kept if a.gold != b.gold),
        settings,
    )


def _by_set(rows: Sequence[Kept]) -> dict[str, dict[str, Kept]]:
    sets: dict[str, dict[str, Kept]] = {}
    for row in rows:
        sets.setdefault(row.data, {})[row.answered.prompt] = row
    return sets


def _partners(left: Mapping[str, Set], right: Mapping[str, Set]) -> dict[str, str]:
    """Which data set of the second evaluation is which of the first: the one named the same, else the one that is left
    with the most problems in common, so that a file may lie elsewhere."""
    partners = {data: data for data in left if data in right}
    for data in (data for data in left if data not in right):
        common = {o: len(left[data].keys() & right[o].keys()) for o in right if o not in partners.values()}
        best = max(common, key=common.__getitem__, default="")
        if common.get(best):
            partners[data] = best
    return {data: partners[data] for data in left if data in partners}


def _alone(here: Mapping[str, Set], there: Mapping[str, Set], partners: Mapping[str, str]) -> Iterator[str]:
    for data, problems in here.items():
        known: Set = there[partners[data]] if data in partners else {}
        yield from (prompt for prompt in problems if prompt not in known)


def _settings(
    one: Mapping[str, Any], other: Mapping[str, Any], partners: Mapping[str, str]
) -> Iterator[tuple[str, Any, Any]]:
    """What differs beside the model, and of the data sets that both have."""
    here, there = (_without(side, "data", "model", *MODEL) for side in (one, other))
    yield from records.differences(here, there)
    for data, partner in partners.items():
        here, there = (_without(side, "problems", "prompts") for side in (one["data"][data], other["data"][partner]))
        yield from ((f"data.{data}.{key}", *values) for key, *values in records.differences(here, there))


def _without(tree: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


def _comparison(data: str, pairs: Sequence[tuple[Answered, Answered]], same: bool) -> Comparison:
    sides = tuple(zip(*pairs, strict=True))
    errors = [sampling_error([a.correct for a in side], len(side[0].answers)) for side in sides]
    se = None if None in errors else math.hypot(*errors)  # type: ignore[arg-type]
    first, second = (fmean(a.correct / len(a.answers) for a in side) for side in sides)
    return Comparison(data, len(pairs), first, second, estimate(_scores(pairs), se, signed=True), same)


def _mean(found: Sequence[Comparison], scores: Sequence[Sequence[float]]) -> Comparison:
    errors = [c.difference.se for c in found]
    se = None if None in errors else math.hypot(*errors) / len(errors)  # type: ignore[arg-type]
    difference = mean_of_sets(scores, se, signed=True)
    first, second = fmean(c.first for c in found), fmean(c.second for c in found)
    return Comparison("mean", sum(c.problems for c in found), first, second, difference, found[0].same)


def _scores(pairs: Sequence[tuple[Answered, Answered]]) -> list[float]:
    return [b.correct / len(b.answers) - a.correct / len(a.answers) for a, b in pairs]
