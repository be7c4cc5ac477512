"""The rows that a run writes: ``metrics.jsonl``, ``rollouts.jsonl`` and ``ledger.jsonl``, which go back together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrapose.report.log import JsonLines

NAMES = ("metrics", "rollouts", "ledger")


class Files:
    """The three files. Until they are opened, as of a rank that does not write, what is told to them is lost."""

    def __init__(self) -> None:
        self._files: dict[str, JsonLines] = {}

    def open(self, folder: Path) -> None:
        """Raises ContraposeError where another run has ``folder``, WriteFailed where the disk refuses."""
        for name in NAMES:
            self._files[name] = JsonLines(folder / f"{name}.jsonl")
        self._files["metrics"].claim()

    def append(self, name: str, row: dict[str, Any]) -> None:
        """Write a row to ``name``."""
        if self._files:
            self._files[name].append(row)

    def sizes(self) -> dict[str, int]:
        """How long each file is, by its full name, once what was written is on the disk."""
        for file in self._files.values():
            file.flush()
        return {file.path.name: file.size() for file in self._files.values()}

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Go back to ``sizes``; a file that is not named there becomes empty."""
        for file in self._files.values():
            file.cut(sizes.get(file.path.name, 0))

    def close(self) -> None:
        """Let go of them."""
        for file in self._files.values():
            file.close()
