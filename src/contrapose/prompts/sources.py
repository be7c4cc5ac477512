"""Where problems come from: abacus, jsonl and parquet files -> prompts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from contrapose.prompts import abacus
from contrapose.types import ContraposeError, Prompt, nearest

ABACUS_COUNT = {"train": 8192, "validation": 400, "test": 800}


def load_prompts(
    path: str,
    *,
    problem_key: str = "problem",
    answer_key: str = "answer",
    limit: int | None = None,
    default_split: str = "train",
) -> list[Prompt]:
    """The prompts of ``path``: ``abacus``, ``abacus:train|validation|test``, a ``.jsonl`` or a ``.parquet`` file.

    ``limit`` takes the first so many (for abacus: draws so many). A problem that stands twice is kept once.
    Raises ContraposeError that names the file and the row, or what is valid.
    """
    name, _, split = path.partition(":")
    if name == "abacus":
        split = split or default_split
        if split not in get_args(abacus.Split):
            raise ContraposeError(f"data: {path!r} has no such split{nearest(split, list(get_args(abacus.Split)))}")
        return abacus.problems(split, limit or ABACUS_COUNT[split])  # type: ignore[arg-type]
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    file = Path(path).expanduser()
    if file.suffix not in readers:
        raise ContraposeError(f"data: {path!r} is neither 'abacus' nor a .jsonl or .parquet file")
    if not file.is_file():
        raise ContraposeError(f"data: {file} does not exist")
    prompts: dict[str, Prompt] = {}
    for where, row in readers[file.suffix](file):
        problem, answer = _text(row, problem_key, where), final_answer(_text(row, answer_key, where))
        if not answer:
            raise ContraposeError(f"data: {where}, column {answer_key!r}: nothing follows ####")
        digest = hashlib.sha256(problem.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        prompts.setdefault(problem, Prompt(f"{file.stem}/{digest}", problem, answer, file.stem))
        if len(prompts) == limit:
            break
    if not prompts:
        raise ContraposeError(f"data: {file} holds no rows")
    return list(prompts.values())


def final_answer(answer: str) -> str:
    """The answer itself: what follows ``####`` in GSM8K's solutions, else the whole text."""
    return re.split(r"####", answer)[-1].strip()


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if key not in row:
        raise ContraposeError(
            f"data: {where} has no column {key!r}{nearest(key, list(row))}; set data.problem_key and data.answer_key"
        )
    value = row[key]
    readable = isinstance(value, (str, int)) and not isinstance(value, bool)
    readable = readable or (isinstance(value, float) and math.isfinite(value))
    if not readable or not str(value).strip():
        raise ContraposeError(f"data: {where}, column {key!r}: expected a text or a number, found {value!r:.60}")
    return str(value)


def _jsonl_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ContraposeError(f"data: {file}:{number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ContraposeError(f"data: {file}:{number} is not a JSON object")
            yield f"{file}:{number}", row


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ContraposeError(f"data: {file} is parquet: pip install 'contrapose[hub]' to read it") from None
    try:
        batches = parquet.ParquetFile(file).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"{file} row {number}", row
    except ArrowException as error:
        raise ContraposeError(f"data: {file} is not a parquet file: {error}") from None
