"""Files of a run: append-only jsonl that can be cut back to where a checkpoint stood, and json that is replaced."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from contrapose.types import ContraposeError


class WriteFailed(ContraposeError):
    """Something could not be written, or what was written is damaged. What was good before is as it was."""

    exit_code = 74


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Say in one line that ``path`` could not be written, why, and how much room there is."""
    try:
        yield
    except OSError as error:
        raise WriteFailed(f"{path}: cannot be written: {error.strerror or error} ({room(path)})") from None


def room(path: Path) -> str:
    """``"1,234 bytes are free"`` where ``path`` lies or is to lie."""
    return f"{free_bytes(path):,} bytes are free"


def free_bytes(path: Path) -> int:
    """What the disk of ``path``, or of the nearest folder above that is there, has left for this user."""
    return shutil.disk_usage(next(folder for folder in (path, *path.absolute().parents) if folder.exists())).free


class JsonLines:
    """A jsonl file. ``append`` writes a row whole or not at all; ``size`` is what a checkpoint remembers, after
    ``flush``; ``cut`` goes back to it. Raises WriteFailed where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with on_disk(path):
            self._file = path.open("ab", buffering=0)

    def claim(self) -> None:
        """Keep other processes from it until it is closed. Raises ContraposeError where one of them did."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ContraposeError(f"{self.path.parent} is being written by another process") from None
        except OSError as error:
            raise WriteFailed(f"{self.path} cannot be locked: {error.strerror}: choose another disk") from None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. Non-finite numbers become null; text may hold anything, lone surrogates included."""
        line = _text(row).encode() + b"\n"
        before = self.size()
        with on_disk(self.path):
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(before)  # a part of a row is no row
                raise

    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file.fileno()).st_size

    def flush(self) -> None:
        """When it returns, the rows are on the disk."""
        with on_disk(self.path):
            os.fsync(self._file.fileno())

    def cut(self, size: int) -> None:
        """Drop everything after the first ``size`` bytes. Raises WriteFailed when there are fewer."""
        if size > self.size():
            raise WriteFailed(f"{self.path} lost rows: {self.size()} bytes where its checkpoint counted {size}")
        with on_disk(self.path):
            self._file.truncate(size)

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a jsonl file. Raises WriteFailed for one that cannot be read."""
    rows = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise WriteFailed(f"{path}: line {number} is not as it was written ({error})") from None
    return rows


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` whole, or leave it as it was, also where the machine stops; when it returns, it is done.

    Non-finite numbers become null."""
    replace_text(path, _text(value, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """As ``write_json``, of any text."""
    beside = path.with_name(f".{path.name}.part")
    with on_disk(path):
        try:
            beside.write_text(text, encoding="utf-8")
            sync(beside)
            os.replace(beside, path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise
        sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it that are missing; when it returns, their names are on the disk."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        sync(missing.parent)


def sync(path: Path) -> None:
    """When it returns, the file (or a folder's list of names) is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # a number that is not finite: hardly ever, and looking for it costs more than writing does
        return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
