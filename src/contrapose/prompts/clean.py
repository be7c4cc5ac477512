r"""When two problems are the same text, and the account of what was left out of training data.

The normal form of a problem is its tokens: words, LaTeX commands, numbers, every other character by itself; without
case, spacing, dollar signs, ``\left`` and ``\right``. Numbers and operators stay, for they tell problems apart.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from contrapose.types import Prompt

_TOKEN = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad)(?![a-z])|\\[!,;: ()\[\]]|[$~\s]|"  # says nothing, is no token
    r"(\\\\|\\[a-z]+|\\.|(?<=[_^])\d|\d+(?:\.\d+)?|[a-z]+|\S)"  # TeX takes one digit as an index: \log_82, \log_8 2
)
_ALIKE = str.maketrans("\u2019\u2018\u201c\u201d\u2212\u2013\u2014", "''\"\"---", "\u200b")  # quotes, dashes
MARKS = ".?。"
"""What ends a sentence, and is not part of a formula."""

Step = Literal["broken", "bad_gold", "duplicate", "conflict", "contaminated", "overlap", "unspellable", "too_long"]
STEPS: dict[Step, str] = {
    "broken": "left out, rows that cannot be read",
    "bad_gold": "left out, answers that cannot be graded",
    "duplicate": "left out, copies of other problems",
    "conflict": "left out, copies whose answers differ",
    "contaminated": "left out, problems held out for evaluation",
    "overlap": "kept, though words are those of a held-out problem",
    "unspellable": "left out, problems the tokenizer cannot spell",
    "too_long": "left out, prompts longer than data.max_prompt_tokens",
}
"""What may be the matter with a row, in the order in which it is looked for. All but an overlap costs the row."""


def tokens(text: str) -> list[str]:
    """The normal form of ``text``."""
    return [token for token in _TOKEN.findall(text.translate(_ALIKE).casefold()) if token]


def key(tokens: list[str]) -> str:
    """What two problems have in common exactly if they are the same text, but for spacing and the last mark.

    A number stands apart (``1 1/2`` is not ``11/2``); letters do not, for ``a b`` is ``ab``.
    """
    return "".join(f" {token} " if token[0].isdigit() else token for token in tokens).rstrip(MARKS)


def copies(prompts: Iterable[Prompt]) -> list[list[int]]:
    """The places of problems that are the same text, at least two together, in order."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        places[key(tokens(prompt.problem))].append(place)
    return [same for same in places.values() if len(same) > 1]


def shown(text: str, most: int = 100) -> str:
    """The beginning of an untrusted text, on one line and without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return line if len(line) <= most else line[:most] + "..."


@dataclass(frozen=True)
class Case:
    """What is the matter with one row: its prompt's id (empty where it could not be read), its text, and why."""

    step: Step
    source: str
    prompt: str
    problem: str
    why: str

    def __str__(self) -> str:
        return f"{self.prompt}: {self.why}" if self.prompt else self.why


def case(step: Step, prompt: Prompt, why: str) -> Case:
    """The case of ``prompt``."""
    return Case(step, prompt.source, shown(prompt.id), shown(prompt.problem), why)


@dataclass(frozen=True)
class Report:
    """What became of each source: how many rows it had, and a case for each that was left out or is only listed."""

    rows: Mapping[str, int]
    cases: tuple[Case, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """For each source ``rows``, the number of cases of every step, and ``kept``."""
        found = Counter((c.source, c.step) for c in self.cases)
        lost = Counter(c.source for c in self.cases if c.step != "overlap")
        return {
            source: {"rows": rows, **{step: found[source, step] for step in STEPS}, "kept": rows - lost[source]}
            for source, rows in self.rows.items()
        }

    def listed(self) -> list[tuple[str, list[Case]]]:
        """What is the matter, for each step that found anything, with its cases."""
        by_step = ((what, [c for c in self.cases if c.step == step]) for step, what in STEPS.items())
        return [(what, cases) for what, cases in by_step if cases]

    def lines(self) -> list[str]:
        """For a person: how many of each, with the first case."""
        return [f"{what}: {len(cases):,} ({cases[0]})" for what, cases in self.listed()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"sources": self.counts(), "cases": [asdict(c) for c in self.cases]}
