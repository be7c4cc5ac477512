"""``metrics.jsonl`` as columns: one list of numbers for each series that is drawn."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from contrapose.report.charts import AXES, drawn
from contrapose.report.rows import Part, parsed, whole_lines

DIGITS = 7
"""Of a number: what float32 holds."""

Number = float | int | None


class _Row(Part):
    step: int
    seconds: float
    generated_tokens: int
    cancelled_rollouts: int
    verdicts: dict[str, int]
    alarms: list[str]
    updates: list[dict[str, float | int | str | None]]
    model_config = Part.model_config | {"extra": "allow"}


_ROW = TypeAdapter(_Row)


def columns(run: Path, most: int, marks: Collection[int] = ()) -> dict[str, Any]:
    """A run's rows as columns.

    ``series`` by name; ``axes``: what had been spent when each step was done (``step``, ``rollouts``, ``tokens``,
    ``seconds``), and ``marks``: the same for each of these steps; ``alarms`` as ``(step, line)``; ``steps``, how many
    there are, and ``every``: of more than ``most`` steps only every so many are kept, and the last. Numbers are rounded
    to 7 digits.
    Raises ContraposeError for rows that this version does not write.
    """
    axes: dict[str, list[Number]] = {axis: [] for axis in AXES}
    series: dict[str, list[Number]] = {name: [] for name in drawn()}
    alarms: list[tuple[int, str]] = []
    spent = dict.fromkeys(("rollouts", "tokens", "seconds"), 0.0)
    marked: dict[int, dict[str, Number]] = {0: dict.fromkeys(axes, 0)}
    for number, line in whole_lines(run / "metrics.jsonl"):
        row = parsed(_ROW, line, run, f"metrics.jsonl:{number}")
        spent["rollouts"] += sum(row.verdicts.values()) + row.cancelled_rollouts
        spent["tokens"] += row.generated_tokens
        spent["seconds"] += row.seconds
        now = {"step": row.step} | {axis: rounded(value) for axis, value in spent.items()}
        for axis, value in now.items():
            axes[axis].append(value)
        if row.step in marks:
            marked[row.step] = now
        for name, values in series.items():
            values.append(_value(row, name))
        alarms += [(row.step, alarm) for alarm in row.alarms]
    steps = len(axes["step"])
    every = max(1, -(-steps // most))
    kept = [i for i in range(steps) if (i + 1) % every == 0 or i == steps - 1]

    def thin(columns: dict[str, list[Number]]) -> dict[str, list[Number]]:
        return {name: [values[i] for i in kept] for name, values in columns.items()}

    told = {"axes": thin(axes), "series": thin(series), "marks": marked}
    return told | {"alarms": alarms, "steps": steps, "every": every}


def rounded(x: Any, digits: int = DIGITS) -> Number:
    """A number to so many digits, whole ones as they are; None for what is none, or not finite."""
    if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x):
        return None
    short = float(f"{x:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 10**digits else short


def _value(row: _Row, series: str) -> Number:
    name, _, part = series.partition(".")
    if name == "updates":
        values = [v for update in row.updates if isinstance(v := update.get(part), int | float)]
        return rounded(fmean(values)) if values else None
    value = getattr(row, name, None)
    return rounded(value.get(part) if part and isinstance(value, dict) else value)
