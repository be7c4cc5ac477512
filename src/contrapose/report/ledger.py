"""Where a run's tokens went, from what it wrote; and how far several runs had come at the same cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from contrapose.report.rows import Part, parsed, whole_lines


class _Filtered(Part):
    too_hard: int
    too_easy: int
    mastered: int


class _Step(Part):
    step: int
    generated_tokens: int
    kept_tokens: int
    surplus_tokens: int
    filtered_tokens: _Filtered
    cancelled_tokens: int
    saved_tokens: float
    drawn_groups: int
    accepted_groups: int


class _Test(Part):
    step: int
    data: str
    split: str
    accuracy: dict[str, float | None]  # of one sample a problem there is no sampling error


@dataclass(frozen=True)
class Ledger:
    """Response tokens of a run. ``spent`` is by use: kept, surplus (passed when the batch was full), and the fates of
    groups that were not trained on; ``cancelled`` is a part of these. ``accepted`` counts groups trained on.
    ``tests`` has the newest test of each data set; of the policy before training only where no step is counted."""

    steps: int
    generated: int
    spent: dict[str, int]
    cancelled: int
    saved: float
    drawn: int
    accepted: int
    tests: dict[str, dict[str, Any]]

    @property
    def per_accepted(self) -> float | None:
        """Tokens generated for each group trained on."""
        return self.generated / self.accepted if self.accepted else None


def ledger(run: Path, budget: float = float("inf")) -> Ledger:
    """The ledger of a run folder over its first steps that together generated at most ``budget`` tokens.

    Raises ContraposeError for what is no run folder, or one that another version wrote.
    """
    lines = whole_lines(run / "metrics.jsonl")
    steps = [parsed(_STEP, line, run, f"metrics.jsonl:{number}") for number, line in lines]
    evaluations = (run / "eval.json").read_bytes() if (run / "eval.json").exists() else b"[]"
    return _ledger(steps, parsed(_TESTS, evaluations, run, "eval.json"), budget)


_STEP, _TESTS = TypeAdapter(_Step), TypeAdapter(list[_Test])


def _ledger(rows: list[_Step], evaluations: list[_Test], budget: float) -> Ledger:
    within: list[_Step] = []
    generated = 0
    for row in rows:
        if generated + row.generated_tokens > budget:
            break
        generated += row.generated_tokens
        within.append(row)
    steps = within[-1].step if within else 0
    tests = sorted((e for e in evaluations if e.split == "test" and e.step <= steps), key=lambda e: e.step)
    filtered = [row.filtered_tokens for row in within]
    return Ledger(
        steps=steps,
        generated=generated,
        spent={
            "kept": sum(row.kept_tokens for row in within),
            "surplus": sum(row.surplus_tokens for row in within),
            "too_hard": sum(fates.too_hard for fates in filtered),
            "too_easy": sum(fates.too_easy for fates in filtered),
            "mastered": sum(fates.mastered for fates in filtered),
        },
        cancelled=sum(row.cancelled_tokens for row in within),
        saved=sum(row.saved_tokens for row in within),
        drawn=sum(row.drawn_groups for row in within),
        accepted=sum(row.accepted_groups for row in within),
        tests={e.data: e.model_dump() for e in tests if e.step or not steps},
    )
