"""What a person sees while a run goes on: a live line on a terminal, a plain line a step anywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from contrapose.cli.app import plain, terminal
from contrapose.evaluate.statistics import Estimate

HEADINGS = (
    "    step",
    "accuracy",
    "reward",
    "accepted/drawn",
    "length",
    "cut off",
    "tokens/s",
    "seconds",
    "  eta",
)


class Screen:
    """Progress of a run on ``console``. Use as a context."""

    def __init__(self, console: Console, steps: int = 0) -> None:
        self.console, self.steps = console, steps
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._training = self._progress.add_task("training", total=steps, note="", visible=steps > 0)
        self._evaluating: TaskID | None = None
        self._headed = False
        self._group: Mapping[str, Any] | None = None

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def log(self, line: str) -> None:
        """A line that stays."""
        self.console.print(escape(line), soft_wrap=True, highlight=False)

    def on_note(self, line: str) -> None:
        """Something that a person should know."""
        self.log(f"note       {line}")

    def started_at(self, step: int) -> None:
        """The run begins, or goes on, after ``step`` finished steps."""
        self._progress.update(self._training, completed=step)

    def on_step(self, row: Mapping[str, Any]) -> None:
        """A row of ``metrics.jsonl`` was written."""
        self._progress.update(self._training, completed=row["step"], note=f"accuracy {row['accuracy']:.3f}")
        left = row["seconds"] * (self.steps - row["step"])
        cells = (
            f"{row['step']}/{self.steps}",
            f"{row['accuracy']:.3f}",
            f"{row['reward_mean']:.3f}",
            f"{row['accepted_groups']}/{row['drawn_groups']}",
            f"{row['length_mean']:.1f}",
            f"{row['truncated']:.1%}",
            f"{row['generated_tokens'] / row['seconds']:,.0f}",
            f"{row['seconds']:.1f}",
            _minutes(left),
        )
        if not self._headed:
            self.log("  ".join(HEADINGS))
            self._headed = True
        self.log("  ".join(cell.rjust(len(heading)) for cell, heading in zip(cells, HEADINGS, strict=True)))
        for alarm in row["alarms"]:
            self.log(f"alarm      step {row['step']}: {alarm}")
        if self._group and (row["step"] == 1 or row["step"] % max(1, self.steps // 4) == 0):
            self.log(_contrast(self._group))

    def on_trained(self, group: Mapping[str, Any]) -> None:
        """A group was trained on; its row of ``rollouts.jsonl``."""
        if len({r["correct"] for r in group["rollouts"]}) == 2:
            self._group = group

    def on_eval_group(self, problems: int) -> None:
        """One of the ``problems`` of an evaluation was answered."""
        if self._evaluating is None:
            self._evaluating = self._progress.add_task("evaluating", total=problems, note="")
        self._progress.advance(self._evaluating)

    def on_eval(self, row: Mapping[str, Any]) -> None:
        """An evaluation is complete."""
        if self._evaluating is not None:
            self._progress.remove_task(self._evaluating)
            self._evaluating = None
        when = "before training" if row["step"] == 0 else f"after step {row['step']}"
        what = f"{row['data']} ({row['split']}, {row['problems']} problems x {row['samples']} samples)"
        self.log(f"{when}: accuracy {Estimate(**row['accuracy'])} on {what}")


class Rows:
    """Rows on stdout, each at once; how many there are so far on stderr, where that is a terminal and stdout is not."""

    def __init__(self, total: int | None) -> None:
        self.console = terminal(stderr=True)
        self._progress = Progress(
            *(TextColumn("verified"), BarColumn(), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn()),
            *((TextColumn("eta"), TimeRemainingColumn()) if total else ()),
            console=self.console,
            disable=sys.stdout.isatty() or not self.console.is_terminal,
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Rows:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def write(self, row: Mapping[str, Any]) -> None:
        """The next row."""
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        self._progress.advance(self._task)


def _contrast(group: Mapping[str, Any]) -> str:
    """The answer of a group that was pulled up most and the one that was pushed down most, with their credits."""
    by_credit = sorted(group["rollouts"], key=lambda r: r["credit"])
    pulled, pushed = (f"{r['credit']:+.4f} {_end(r['text'], 48)}" for r in (by_credit[-1], by_credit[0]))
    return f"          {_end(group['problem'], 40)}  pulled up {pulled}  pushed down {pushed}"


def _end(text: str, width: int) -> str:
    """The end of ``text`` on one line, control characters shown as spaces."""
    line = plain(text)
    return line if len(line) <= width else "..." + line[-width:]


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
