"""Where a run's tokens went, from what it wrote; and how far several runs had come at the same cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from contrapose.types import ContraposeError

T = TypeVar("T")


class _Part(BaseModel):
    """What is read of a row; a row has more."""

    model_config = ConfigDict(strict=True)


class _Filtered(_Part):
    too_hard: int
    too_easy: int
    mastered: int


class _Step(_Part):
    step: int
    generated_tokens: int
    kept_tokens: int
    surplus_tokens: int
    filtered_tokens: _Filtered
    cancelled_tokens: int
    saved_tokens: float
    drawn_groups: int
    accepted_groups: int


class _Test(_Part):
    step: int
    data: str
    split: str
    accuracy: dict[str, float]


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
    try:
        *lines, _ = (run / "metrics.jsonl").read_bytes().split(b"\n")  # a run that goes on may be writing the last one
        evaluations = (run / "eval.json").read_bytes() if (run / "eval.json").exists() else b"[]"
    except OSError as error:
        raise ContraposeError(f"{run}: not the folder of a run (contrapose train --out): {error}") from None
    steps = [_read(_STEP, line, run, f"metrics.jsonl:{number}") for number, line in enumerate(lines, 1)]
    return _ledger(steps, _read(_TESTS, evaluations, run, "eval.json"), budget)


_STEP, _TESTS = TypeAdapter(_Step), TypeAdapter(list[_Test])


def _read(what: TypeAdapter[T], text: bytes, run: Path, place: str) -> T:
    try:
        return what.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        other = first["type"] != "json_invalid"
        fault = "not written by this version" if other else "not the folder of a run (contrapose train --out)"
        raise ContraposeError(f"{run}: {fault}: {place}: {key + ': ' if key else ''}{first['msg']}") from None


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
