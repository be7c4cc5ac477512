"""Whole lines of what a run writes, checked as they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from contrapose.types import ContraposeError

T = TypeVar("T")

NO_RUN = "not the folder of a run (contrapose train --out)"


class Part(BaseModel):
    """What is read of a row; a row has more."""

    model_config = ConfigDict(strict=True)


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and text of every line that was written to its end: a run that goes on may be writing the last.

    Raises ContraposeError where there is no such file.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield number, line
    except OSError as error:
        raise ContraposeError(f"{path.parent}: {NO_RUN}: {error}") from None


def parsed(what: TypeAdapter[T], text: bytes, run: Path, place: str) -> T:
    """``text`` as a ``what``. Raises ContraposeError that names its place for what this version does not write."""
    if b"\\ud" in text:  # half of a character, which JSON may hold and no text can
        with suppress(ValueError):
            text = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace")
    try:
        return what.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        fault = NO_RUN if first["type"] == "json_invalid" else "not written by this version"
        raise ContraposeError(f"{run}: {fault}: {place}: {key + ': ' if key else ''}{first['msg']}") from None
