"""Where a run's tokens went, from what it wrote; and how far several runs had come at the same cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrapose.types import ContraposeError


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
        rows = _rows(run / "metrics.jsonl")
        evaluations = json.loads((run / "eval.json").read_text()) if (run / "eval.json").exists() else []
        return _ledger(rows, evaluations, budget)
    except (OSError, ValueError) as error:
        raise ContraposeError(f"{run}: not the folder of a run: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ContraposeError(f"{run}: not written by this version: {type(error).__name__} {error}") from None


def _ledger(rows: list[dict[str, Any]], evaluations: list[dict[str, Any]], budget: float) -> Ledger:
    within: list[dict[str, Any]] = []
    generated = 0
    for row in rows:
        if generated + row["generated_tokens"] > budget:
            break
        generated += row["generated_tokens"]
        within.append(row)
    steps = within[-1]["step"] if within else 0
    tests = sorted(
        (e for e in evaluations if e["split"] == "test" and e["step"] <= steps), key=lambda e: int(e["step"])
    )
    spent = {key: sum(row[f"{key}_tokens"] for row in within) for key in ("kept", "surplus")}
    for fate in ("too_hard", "too_easy", "mastered"):
        spent[fate] = sum(row["filtered_tokens"][fate] for row in within)
    return Ledger(
        steps=steps,
        generated=generated,
        spent=spent,
        cancelled=sum(row["cancelled_tokens"] for row in within),
        saved=sum(row["saved_tokens"] for row in within),
        drawn=sum(row["drawn_groups"] for row in within),
        accepted=sum(row["accepted_groups"] for row in within),
        tests={e["data"]: e for e in tests if e["step"] or not steps},
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a jsonl file; a run that goes on may be writing the last one."""
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]
