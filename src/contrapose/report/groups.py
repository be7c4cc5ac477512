"""A sample of the groups in ``rollouts.jsonl``, as small as a page needs them. The file may be larger than memory."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import Field, TypeAdapter

from contrapose.report.rows import Part, parsed
from contrapose.report.series import rounded
from contrapose.types import ContraposeError

FEW_STEPS, GROUPS_A_STEP = 12, 8
"""Where not all groups fit: at least so many steps, if need be with fewer than so many groups of each."""

SHADES = 3
"""Digits of a token's credit and log-prob."""

LONG = 4096
"""Tokens of a group beyond which the page has the credits of other objectives only summed over rollouts."""

TOKENS = ("pieces", "token_logp", "token_credit", "token_others")
"""What a group written token by token has beside the credits of all objectives."""

_STEP = re.compile(rb'\{"step": (\d+), ')


class _Rollout(Part):
    text: str
    tokens: int
    finished: Literal["stop", "length"]
    status: str
    reward: float
    correct: bool
    boxed: str | None
    score: float | None = None
    p_positive: float | None = None
    credit: float | None = None


class _Group(Part):
    step: int
    prompt: str
    problem: str
    answer: str
    fate: str
    rollouts: list[_Rollout] = Field(min_length=1)
    cancelled: list[int] = Field(default_factory=list)
    others: dict[str, list[list[float | None]]] = Field(default_factory=dict)
    pieces: list[list[str]] = Field(default_factory=list)
    logp: list[list[float | None]] = Field(default_factory=list)
    token_credit: list[list[float | None]] = Field(default_factory=list)


_GROUP = TypeAdapter(_Group)


def sample(run: Path, steps: int, groups: int, budget: int) -> dict[str, Any]:
    """Groups of a run with ``steps`` steps and ``groups`` groups, in about ``budget`` bytes.

    ``groups``: all of them where the file is no larger, else so many of so many steps, spread evenly, the first and
    the last step among them; of a step first those written token by token. ``rule`` says so in words.
    Raises ContraposeError for rows that this version does not write.
    """
    path = run / "rollouts.jsonl"
    size = path.stat().st_size if path.exists() else 0
    whole = size <= budget
    afford = max(1, budget * groups // size) if groups and size else 1
    shown = steps if whole else min(steps, max(min(FEW_STEPS, afford), afford // GROUPS_A_STEP))
    each = groups if whole else max(1, afford // shown)
    found: list[dict[str, Any]] = []
    left = budget
    if size:
        with path.open("rb") as file:
            for number, step in enumerate(_spread(1, steps, shown)):
                picked, used = _pick(file, size, step, each, budget if whole else left // (shown - number), run)
                left -= used
                found += picked
    if whole or len(found) == groups:
        return {"groups": found, "rule": f"all {len(found):,} groups"}
    about = f"{len(found):,} of {groups:,} groups: up to {each} of each of {shown} of {steps:,} steps, spread evenly"
    first = "those written token by token first; all of them are in rollouts.jsonl"
    return {"groups": found, "rule": f"{about}, {first}"}


def _spread(first: int, last: int, count: int) -> list[int]:
    """``count`` whole numbers from ``first`` to ``last``, spread evenly, both ends among them."""
    if count <= 1:
        return [last][:count]
    return [first + round(i * (last - first) / (count - 1)) for i in range(count)]


def _rows_of(file: BinaryIO, size: int, step: int, run: Path) -> list[tuple[int, bool]]:
    """Where the rows of one step begin, and which of them are token by token.

    The first is found by halving, since rows are in the order of their steps."""
    low, high = 0, size  # the first row of the step begins in low..high
    while low < high:
        middle = (low + high) // 2
        _seek_line(file, middle)
        line = file.readline()
        if not line.endswith(b"\n") or _step_of(line, run) >= step:
            high = middle
        else:
            low = middle + 1
    _seek_line(file, low)
    found = []
    at = file.tell()
    while (line := file.readline()).endswith(b"\n") and _step_of(line, run) == step:
        found.append((at, b'"token_credit"' in line))
        at += len(line)
    return found


def _seek_line(file: BinaryIO, at: int) -> None:
    """To the first row that begins at ``at`` or later."""
    file.seek(max(0, at - 1))
    if at:
        file.readline()


def _step_of(line: bytes, run: Path) -> int:
    if not (match := _STEP.match(line)):
        raise ContraposeError(f"{run}: not written by this version: rollouts.jsonl: {line[:40]!r} begins no row")
    return int(match[1])


def _pick(file: BinaryIO, size: int, step: int, most: int, budget: int, run: Path) -> tuple[list[dict[str, Any]], int]:
    """At most ``most`` of a step's groups, and the bytes that they take: beyond ``budget`` only the first, and that
    without its tokens."""
    rows = _rows_of(file, size, step, run)
    told = [at for at, detailed in rows if detailed]
    rest = [at for at, detailed in rows if not detailed]
    spread = [rest[i] for i in _spread(0, len(rest) - 1, min(len(rest), max(0, most - len(told))))]
    found: dict[int, dict[str, Any]] = {}
    used = 0
    for at in [*told, *spread][:most]:
        file.seek(at)
        row = _condensed(parsed(_GROUP, file.readline(), run, "rollouts.jsonl"))
        cost = len(json.dumps(row))
        if not found and cost > budget:
            row = {key: value for key, value in row.items() if key not in TOKENS}
            cost = len(json.dumps(row))
        elif used + cost > budget:
            break
        found[at] = row
        used += cost
    return [found[at] for at in sorted(found)], used


def _condensed(group: _Group) -> dict[str, Any]:
    """A group by columns, numbers rounded."""
    told = ("text", "tokens", "finished", "status", "reward", "correct", "boxed")
    trained = ("score", "p_positive", "credit") if group.rollouts[0].credit is not None else ()
    rows = [r.model_dump() for r in group.rollouts]
    row: dict[str, Any] = {key: getattr(group, key) for key in ("step", "prompt", "problem", "answer", "fate")}
    row |= {key: [r[key] for r in rows] for key in told}
    row |= {key: [rounded(r[key]) for r in rows] for key in trained}
    if group.cancelled:
        row["cancelled"] = group.cancelled
    if group.token_credit:
        long = sum(map(len, group.token_credit)) > LONG
        row["others"] = {name: [rounded(_sum(x)) for x in credit] for name, credit in group.others.items()}
        row["pieces"] = group.pieces
        row["token_logp"] = [_short(x) for x in group.logp]
        row["token_credit"] = [_short(x) for x in group.token_credit]
        row["token_others"] = {} if long else {name: [_short(x) for x in xs] for name, xs in group.others.items()}
    return row


def _sum(x: Sequence[float | None]) -> float:
    return sum(value or 0.0 for value in x)


def _short(x: Sequence[float | None]) -> Any:
    """One number where all are the same, else each; rounded to what a shade can show."""
    short = [rounded(value, SHADES) for value in x]
    return short[0] if len(set(short)) == 1 else short
