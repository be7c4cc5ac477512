"""A run folder as the page shows it. Reads what the run wrote, and nothing else."""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter

from contrapose.report.groups import sample
from contrapose.report.ledger import ledger
from contrapose.report.pool import pool
from contrapose.report.rows import NO_RUN, Part, parsed
from contrapose.report.series import columns
from contrapose.types import ContraposeError, flat

POINTS, GROUP_BYTES = 20_000, 10_000_000
"""Of all runs of a page: steps in its curves, bytes of the groups that can be looked at."""

SPANS, LISTED = 200, 200
"""Spans of steps for what became of the prompts; prompts in a list."""


class Evaluation(Part):
    """A row of ``eval.json``. ``answers`` is the folder with every answer, beside it; older runs do not say."""

    step: int
    data: str
    split: str
    answers: str | None = Field(None, pattern=r"^evaluations/step-\d+/[A-Za-z0-9_][A-Za-z0-9._-]*$")
    problems: int
    samples: int
    temperature: float
    accuracy: dict[str, float | None]
    pass_at: dict[str, dict[str, float | None]]
    length_mean: float
    truncated: float
    no_answer: float


_EVALUATIONS = TypeAdapter(list[Evaluation])


def evaluations(run: Path) -> list[Evaluation]:
    """What a run evaluated so far. Raises ContraposeError for what this version does not write."""
    path = run / "eval.json"
    try:
        return parsed(_EVALUATIONS, path.read_bytes(), run, path.name) if path.exists() else []
    except OSError as error:
        raise ContraposeError(f"{run}: {NO_RUN}: {path.name}: {error.strerror}") from None


def read(run: Path, name: str, among: int = 1) -> dict[str, Any]:
    """All that the page shows of a run, whose share of the page is one of ``among``.

    Raises ContraposeError for what is no run folder, or one that another version wrote.
    """
    config, facts = _config(run)
    tests = evaluations(run)
    told = columns(run, POINTS // among, {row.step for row in tests})
    marks = told.pop("marks")
    prompts = pool(run, most=SPANS, listed=LISTED)
    spent = ledger(run)
    metrics = run / "metrics.jsonl"
    return {
        "name": name,
        "config": config,
        "facts": facts,
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime(metrics.stat().st_mtime)),
        **told,
        "evaluations": [row.model_dump() | {"at": marks[row.step]} for row in tests if row.step in marks],
        "ledger": {key: value for key, value in asdict(spent).items() if key != "tests"},
        "pool": prompts,
        **sample(run, told["steps"], prompts["groups"], GROUP_BYTES // among),
    }


def _config(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings by dotted name, and the facts of the run."""
    try:
        tree = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContraposeError(f"{run}: {NO_RUN}: config.toml: {error}") from None
    tree = _json(tree)
    facts = tree.pop("run", {})
    return flat(tree), facts


def _json(value: Any) -> Any:
    """``value`` as JSON has it: TOML knows dates too, and numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_json(one) for one in value]
    finite = isinstance(value, float) and math.isfinite(value)
    return value if finite or isinstance(value, str | int) else str(value)
