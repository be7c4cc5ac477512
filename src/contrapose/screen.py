"""What a person sees while a run goes on: a live line on a terminal, a plain line a step anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from contrapose.evaluate.statistics import Estimate


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

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def log(self, line: str) -> None:
        """A line that stays."""
        self.console.print(escape(line), soft_wrap=True, highlight=False)

    def started_at(self, step: int) -> None:
        """The run begins, or goes on, after ``step`` finished steps."""
        self._progress.update(self._training, completed=step)

    def on_step(self, row: Mapping[str, Any]) -> None:
        """A row of ``metrics.jsonl`` was written."""
        self._progress.update(self._training, completed=row["step"], note=f"accuracy {row['accuracy']:.3f}")
        left = row["seconds"] * (self.steps - row["step"])
        self.log(
            f"step {row['step']:>{len(str(self.steps))}}/{self.steps}  accuracy {row['accuracy']:.3f}  "
            f"reward {row['reward_mean']:.3f}  groups {row['accepted_groups']}/{row['drawn_groups']} accepted/drawn  "
            f"length {row['length_mean']:.1f}  cut {row['truncated']:.1%}  "
            f"{row['generated_tokens'] / row['seconds']:,.0f} tokens/s  {row['seconds']:.1f} s  eta {_minutes(left)}"
        )

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
        self.log(
            f"{when}: accuracy {Estimate(**row['accuracy'])} on {row['problems']} problems x {row['samples']} samples"
        )


def evaluation_table(columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """Evaluations of the same problems side by side, each under its heading, with 95 % intervals."""
    first = next(iter(columns.values()))
    samples = first["samples"]
    title = f"{escape(first['data'])}: {first['problems']} problems x {samples} samples, T {first['temperature']:g}"
    table = Table(title=title, title_justify="left")
    for heading in ("", *columns):
        table.add_column(heading, justify="right")
    rows = [
        ("accuracy", lambda e: f"{e['accuracy']['value']:.3f}"),
        ("95 % interval", lambda e: f"{e['accuracy']['low']:.3f} to {e['accuracy']['high']:.3f}"),
        (f"pass@{samples}", lambda e: f"{e['pass_at_samples']:.3f}"),
        ("mean length, tokens", lambda e: f"{e['length_mean']:.1f}"),
        ("cut off at the limit", lambda e: f"{e['truncated']:.1%}"),
        ("no boxed answer", lambda e: f"{e['no_answer']:.1%}"),
    ]
    for name, show in rows:
        table.add_row(name, *(show(e) for e in columns.values()))
    return table


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
