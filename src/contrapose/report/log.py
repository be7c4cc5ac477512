"""Files of a run: append-only jsonl that can be cut back to where a checkpoint stood, and json that is replaced."""

from __future__ import annotations

import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any

from contrapose.types import ContraposeError


class JsonLines:
    """A jsonl file of a run. ``append`` flushes; ``size`` is what a checkpoint remembers; ``cut`` goes back to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")

    def claim(self) -> None:
        """Keep other processes from it until it is closed. Raises ContraposeError where one of them did."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ContraposeError(f"{self.path.parent} is being written by another process") from None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. Non-finite numbers become null; text may hold anything, lone surrogates included."""
        self._file.write(json.dumps(_plain(row), ensure_ascii=True, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> None:
        """Drop everything after the first ``size`` bytes. Raises ContraposeError when there are fewer."""
        if size > self.size():
            raise ContraposeError(f"{self.path} lost rows: {self.size()} bytes where its checkpoint counted {size}")
        self._file.truncate(size)

    def close(self) -> None:
        self._file.close()


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` whole, or leave it as it was, also where the machine stops; when it returns, it is done."""
    beside = path.with_name(f".{path.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
