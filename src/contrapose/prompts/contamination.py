"""Which training problems are held-out problems: found in one pass, by sequences of ten tokens."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from contrapose.prompts.clean import MARKS, key, tokens
from contrapose.types import Prompt

N = 10
"""Tokens of a sequence. docs/data.md has the measurements behind this number and the next."""

SHORTEST = 4
"""Tokens that a problem must have to be recognised inside another text: ``Find x`` stands in many."""

NEARLY = 0.75
"""The share of a held-out problem's sequences from which on an equal answer shows it to be the same problem."""

_WORD = re.compile(r"[a-z]{2}|[^\W\d_a-z]")


class Match(NamedTuple):
    """A held-out problem, the share of its sequences that a text holds, and whether that is the whole problem."""

    problem: Prompt
    share: float
    whole: bool


class HeldOut:
    """An index of problems that must not be trained on.

    A text holds the whole of a problem if it is the same text, if all the problem's sequences of ten tokens stand in
    it, or, for a problem of four to nine tokens, if a sentence or a line ends with it; anywhere else such a problem has
    a share of one. All but the first is only so for problems in words: ``3+4=`` is a problem of its own, and no part of
    ``2-3+4=``. Commas, colons and exclamation marks end no sentence, for they may go on with a formula.
    """

    def __init__(self, problems: Sequence[Prompt]) -> None:
        self._problems = problems
        self._same: dict[str, int] = {}
        self._short: dict[tuple[str, ...], int] = {}
        self._holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._sizes, self._in_words = [0] * len(problems), [False] * len(problems)
        for place, problem in enumerate(problems):
            text = tokens(problem.problem)
            self._same.setdefault(key(text), place)
            self._in_words[place] = any(map(_WORD.match, text))
            sequences = _sequences(text)
            self._sizes[place] = len(sequences)
            for sequence in sequences:
                self._holders[sequence].append(place)
            bare = tuple(text[:-1] if text and text[-1] in MARKS else text)
            if len(bare) >= SHORTEST and not sequences and self._in_words[place]:
                self._short[bare] = place
        self._lengths = sorted({len(text) for text in self._short})

    def matches(self, problem: str) -> list[Match]:
        """The held-out problems that share a sequence with ``problem``, the greatest share first."""
        lines = [tokens(line) for line in problem.splitlines()]
        text = [token for line in lines for token in line]
        ends = {*accumulate(map(len, lines)), *(place for place, token in enumerate(text) if token in MARKS)}
        found: dict[int, Match] = {}
        if (same := self._same.get(key(text))) is not None:
            found[same] = Match(self._problems[same], 1.0, True)
        for place, end in self._shorts(text):
            if place not in found or end in ends:
                found[place] = Match(self._problems[place], 1.0, end in ends)
        shared = Counter(place for sequence in _sequences(text) for place in self._holders.get(sequence, ()))
        for place, count in shared.items():
            share = count / self._sizes[place]
            found.setdefault(place, Match(self._problems[place], share, share == 1 and self._in_words[place]))
        return sorted(found.values(), key=lambda match: (not match.whole, -match.share))

    def _shorts(self, text: list[str]) -> Iterator[tuple[int, int]]:
        """The short problems that stand in ``text``, and where each ends."""
        for n in self._lengths:
            for end in range(n, len(text) + 1):
                place = self._short.get(tuple(text[end - n : end]))
                if place is not None:
                    yield place, end


def _sequences(text: list[str]) -> set[tuple[str, ...]]:
    return set(zip(*(text[start:] for start in range(N)), strict=False))
