"""Verify rows of jsonl as they come: a verdict for each, in their order."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, BinaryIO

from contrapose.types import FAULTS, ContraposeError
from contrapose.verify.grading import Finding
from contrapose.verify.verifier import Verifier

AHEAD = 1024
"""Rows that are read before the verdict on the first of them is out."""

SHOWN = 3


@dataclass
class Summary:
    """What became of the rows: how many of each status, those that could not be read, examples of faults, wall time."""

    statuses: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """For a person."""
        rows, right = self.statuses.total(), self.statuses["correct"]
        share = f", {right / rows:.1%} correct" if rows else ""
        rate = f", {rows / self.seconds:,.0f} a second" if rows else ""
        counts = ", ".join(f"{status} {count}" for status, count in self.statuses.most_common())
        unread = f", {len(self.broken)} lines could not be read" if self.broken else ""
        return [f"{rows} rows{share}{rate}{unread}", *([counts] if counts else []), *self.faults]


def opened(file: str) -> tuple[BinaryIO, int | None]:
    """The lines of a file, or of stdin (``-``), and how many there are, where that can be known."""
    if file == "-":
        return open(0, "rb", closefd=False), None
    path = Path(file)
    try:
        total = None
        if path.is_file():
            with path.open("rb") as counted:
                total = sum(1 for _ in counted)
        return path.open("rb"), total
    except (OSError, ValueError) as error:  # the latter: a NUL in its name
        fault = getattr(error, "strerror", error)
        raise ContraposeError(f"{file}: {fault}: give a file of jsonl, or - for stdin") from None


def verify_rows(
    lines: Iterable[bytes], verifier: Verifier, keys: tuple[str, str], write: Callable[[dict[str, Any]], None]
) -> Summary:
    """Write ``{"status", "reward", "correct", "seconds", "boxed"}`` for each line of ``lines``, in their order.

    ``keys`` name the gold answer and the prediction. A line that cannot be read has an ``error`` in place of a
    verdict, so that what goes out still stands beside what came in; blank lines are passed over.
    """
    verifier.workers.check()
    summary, start = Summary(), time.perf_counter()
    for number, found in _ahead(lines, verifier, keys):
        if isinstance(found, str):
            summary.broken.append(f"line {number}: {found}")
            write({"status": None, "reward": None, "correct": False, "seconds": 0.0, "error": summary.broken[-1]})
            continue
        verdict = verifier.verdict(found.result())
        summary.statuses[verdict.status] += 1
        if verdict.status in FAULTS and len(summary.faults) < SHOWN:
            note = f": {found.result().note}" if found.result().note else ""
            summary.faults.append(f"line {number}: {verdict.status}{note}")
        write(
            {
                "status": verdict.status,
                "reward": verdict.reward,
                "correct": verdict.correct,
                "seconds": round(verdict.seconds, 6),
                "boxed": verdict.boxed,
            }
        )
    summary.seconds = time.perf_counter() - start
    return summary


def _ahead(
    lines: Iterable[bytes], verifier: Verifier, keys: tuple[str, str]
) -> Iterator[tuple[int, Future[Finding] | str]]:
    """The rows' findings to come, while a thread reads on: a slow producer's rows are answered one by one."""
    queue: Queue[tuple[int, Future[Finding] | str] | None] = Queue(AHEAD)

    def read() -> None:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = _row(line, keys)
                    queue.put((number, row if isinstance(row, str) else verifier.workers.submit(*row)))
        except ValueError:
            pass  # nobody listens any more, and the file is closed
        finally:
            queue.put(None)

    Thread(target=read, daemon=True).start()
    while item := queue.get():
        yield item


def _row(line: bytes, keys: tuple[str, str]) -> tuple[str, str] | str:
    """Gold and prediction of a line, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        return f"not JSON: {error}"
    if not isinstance(row, dict):
        return f"expected an object with {keys[0]!r} and {keys[1]!r}, found {type(row).__name__}"
    for key in keys:
        if isinstance(row.get(key), bool) or not isinstance(row.get(key), str | int | float):
            return f"no text under {key!r}" + (f" (it has {', '.join(map(repr, list(row)[:8]))})" if row else "")
    gold, prediction = (str(row[key]) for key in keys)
    return gold, prediction
