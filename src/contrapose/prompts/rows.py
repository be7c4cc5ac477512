"""Where rows come from: jsonl, csv and parquet files, hub data sets. What is wrong with a row is said in its place."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contrapose.types import ContraposeError

Rows = Iterator[tuple[str, dict[str, Any] | str]]
"""Where a row stands, and the row, or what is wrong with it."""

LONGEST_FIELD = (1 << 31) - 1
"""Characters of one csv field: as many as the reader can be told to take."""


def local(place: str) -> Path:
    """The path that a person calls ``place``: ``~`` is home."""
    return Path(os.path.expanduser(place))


def is_file(file: Path) -> bool:
    """Whether there is such a file. Raises ContraposeError where that cannot be known: a closed folder, a long name."""
    try:
        return file.is_file()
    except OSError as error:
        raise ContraposeError(f"data: {file} cannot be read: {error.strerror or error}") from None


def _jsonl_rows(file: Path) -> Rows:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = f"is not JSON: {error}"
            else:
                row = row if isinstance(row, dict) else "is not a JSON object"
            yield f"{file}:{number}", row


def _csv_rows(file: Path) -> Rows:
    """A row's place is the line it begins at. Bytes that are not UTF-8 make their row broken, not the file.

    A stray quote takes every line up to the next one into its row: all these lines are broken, each by itself, so that
    what is lost is counted.
    """
    csv.field_size_limit(LONGEST_FIELD)
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = f"is not CSV: {error}"
            else:
                if not fields:
                    continue
                if not header:
                    header = _readable(file, fields)
                    continue
                if len(fields) == len(header):
                    yield f"{file}:{first}", dict(zip(header, fields, strict=True))
                    continue
                fault = f"has {len(fields)} fields of {len(header)}"
            yield from ((f"{file}:{line}", fault) for line in range(first, reader.line_num + 1))


def _readable(file: Path, fields: list[str]) -> list[str]:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        raise ContraposeError(f"data: {file} is not UTF-8: save it so") from None
    return fields


def _parquet_rows(file: Path) -> Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ContraposeError(f"data: {file} is parquet: pip install 'contrapose[hub]' to read it") from None
    try:
        batches = parquet.ParquetFile(file).iter_batches()
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f"{file} row {number}", row
    except (ArrowException, ValueError, OverflowError) as error:  # the last two: text that is not UTF-8, dates
        raise ContraposeError(f"data: {file} is not a parquet file that can be read: {error}: copy it anew") from None


def hub_rows(address: str, default_split: str) -> tuple[str, Rows]:
    """Name and rows of ``ORG/NAME[/CONFIG][:SPLIT]``, or of a folder (``/...``, ``./...``, ``~/...``)."""
    place, _, split = address.partition(":")
    if place.startswith(("/", ".", "~")):
        folder = local(place).resolve()
        repo, config, name = str(folder), None, folder.name
    else:
        org, _, rest = place.partition("/")
        name, _, config = rest.partition("/")
        if not (org and name):
            raise ContraposeError(
                f"data: hub:{address}: write it as hub:ORG/NAME, hub:ORG/NAME/CONFIG or hub:...:SPLIT"
            )
        repo = name = f"{org}/{name}"
    try:
        from datasets import load_dataset
    except ImportError:
        raise ContraposeError(f"data: hub:{address} needs the hub's library: pip install 'contrapose[hub]'") from None
    try:
        dataset = load_dataset(repo, config or None, split=split or default_split)
    except Exception as error:  # of four libraries: whatever it is, the address or the network is what a user can mend
        raise ContraposeError(f"data: hub:{address} cannot be loaded: {_reason(error)}") from None
    return name, _hub_rows(address, dataset)


def _hub_rows(address: str, dataset: Any) -> Rows:
    number = 0
    try:
        for number, row in enumerate(dataset, 1):
            yield f"hub:{address} row {number}", row
    except Exception as error:  # of whatever library decodes a column
        raise ContraposeError(f"data: hub:{address} row {number + 1} cannot be read: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """The beginning of what was first the matter."""
    while error.__cause__:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


READERS = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows, ".csv": _csv_rows}
