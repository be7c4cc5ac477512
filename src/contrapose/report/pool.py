"""What became of the prompts, from ``ledger.jsonl``: fates over time, how often they are solved, which are done."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from contrapose.report.rows import Part, parsed, whole_lines
from contrapose.report.series import rounded

BINS = 20
"""Of the histogram of rho, and one more for 1, where there are more values than that: fewer have a bar each."""

Fate = Literal["trained", "surplus", "too_hard", "too_easy", "mastered"]
FATES: tuple[Fate, ...] = ("trained", "surplus", "too_hard", "too_easy", "mastered")


class _Row(Part):
    step: int
    prompt: str
    fate: Literal["train", "too_hard", "too_easy", "mastered", "readmitted"]
    rho: float = 0.0  # who was readmitted has neither
    tokens: int = 0
    surplus: bool = False


_ROW = TypeAdapter(_Row)


@dataclass
class _Prompt:
    """What is known of one prompt."""

    fates: Counter[Fate] = field(default_factory=Counter)
    tokens: int = 0
    step: int = 0
    rho: float = 0.0
    mastered: bool = False

    def add(self, row: _Row, fate: Fate) -> None:
        self.fates[fate] += 1
        self.tokens += row.tokens
        self.step, self.rho = row.step, row.rho
        self.mastered = fate == "mastered"


def pool(run: Path, *, most: int, listed: int) -> dict[str, Any]:
    """The prompts of a run, over at most ``most`` spans of steps and with lists of at most ``listed``.

    ``spans``: first and last step of each; ``fates``: groups of each fate by span; ``rho``: what its bars stand for,
    and how many groups had each by span; ``mastered`` and ``too_hard``: prompts, newest first and most often first,
    with how many there are in all, but for mastered ones that were readmitted; ``prompts`` and ``groups``: how many
    were drawn.
    Raises ContraposeError for rows that this version does not write.
    """
    prompts: dict[str, _Prompt] = {}
    fates: dict[int, Counter[Fate]] = {}
    rhos: dict[int, Counter[float]] = {}
    for number, line in whole_lines(run / "ledger.jsonl"):
        row = parsed(_ROW, line, run, f"ledger.jsonl:{number}")
        prompt = prompts.setdefault(row.prompt, _Prompt())
        if row.fate == "readmitted":  # by a person: nothing was drawn
            prompt.mastered = False
            continue
        fate: Fate = row.fate if row.fate != "train" else "surplus" if row.surplus else "trained"
        prompt.add(row, fate)
        fates.setdefault(row.step, Counter())[fate] += 1
        rhos.setdefault(row.step, Counter())[row.rho] += 1
    steps = sorted(fates)
    width = max(1, -(-len(steps) // most))
    spans = [steps[i : i + width] for i in range(0, len(steps), width)]
    seen = sorted({rho for counts in rhos.values() for rho in counts})
    exact = len(seen) <= BINS + 1
    ends = seen if exact else [i / BINS for i in range(BINS + 1)]
    by_span = [sum((rhos[step] for step in span), Counter[float]()) for span in spans]
    return {
        "spans": [(span[0], span[-1]) for span in spans],
        "fates": {fate: [sum(fates[step][fate] for step in span) for span in spans] for fate in FATES},
        "rho": {"bars": _bars(ends, exact), "counts": [_histogram(counts, ends) for counts in by_span]},
        "mastered": _listed({n: p for n, p in prompts.items() if p.mastered}, "mastered", listed, lambda p: -p.step),
        "too_hard": _listed(prompts, "too_hard", listed, lambda p: -p.fates["too_hard"]),
        "prompts": len(prompts),
        "groups": sum(counts.total() for counts in fates.values()),
    }


def _bars(ends: list[float], exact: bool) -> list[str]:
    """What each bar stands for: a value, or from where to where."""
    if exact:
        return [f"{end:.4g}" for end in ends]
    return [*(f"{low:.4g} to {high:.4g}" for low, high in pairwise(ends)), "1"]


def _histogram(counts: Counter[float], ends: list[float]) -> list[int]:
    """How many values lie from each of ``ends``, which ascend, up to the next."""
    found = [0] * len(ends)
    for value, count in counts.items():
        found[bisect_right(ends, value) - 1] += count
    return found


def _listed(prompts: dict[str, _Prompt], fate: Fate, listed: int, order: Any) -> dict[str, Any]:
    found = sorted((p for p in prompts.items() if p[1].fates[fate]), key=lambda item: (order(item[1]), item[0]))
    rows = [
        {
            "prompt": name,
            "drawn": p.fates.total(),
            "times": p.fates[fate],
            "last_step": p.step,
            "last_rho": rounded(p.rho),
            "tokens": p.tokens,
        }
        for name, p in found[:listed]
    ]
    return {"rows": rows, "of": len(found)}
