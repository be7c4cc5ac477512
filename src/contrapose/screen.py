"""What a person sees while a run goes on: a live line on a terminal, a plain line a step anywhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from contrapose.evaluate.statistics import Estimate

if TYPE_CHECKING:
    from contrapose.objectives.zoo import ObjectiveInfo

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
        self.log(
            f"{when}: accuracy {Estimate(**row['accuracy'])} on {row['problems']} problems x {row['samples']} samples"
        )


class Rows:
    """Rows on stdout, each at once; how many there are so far on stderr, where that is a terminal and stdout is not."""

    def __init__(self, total: int | None) -> None:
        self.console = Console(stderr=True)
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
    if any(e["faults"] for e in columns.values()):
        rows.append(("beyond the grader's limits", lambda e: f"{e['faults']:.1%}"))
    for name, show in rows:
        table.add_row(name, *(show(e) for e in columns.values()))
    return table


def doctor_table(found: Mapping[str, Any], grader: str) -> Table:
    """What is installed and what it is for; ``found`` holds the facts of this machine, ``grader`` how its self-test
    went."""
    table = Table("part", "found", "what it is for")
    table.add_row("python", found["python"], "")
    for package, use in {**CORE, **EXTRAS}.items():
        table.add_row(package, _installed(package), escape(use))
    table.add_row("grader", escape(grader), "judges answers, in processes of its own")
    table.add_row("device", found["device"], "where models run")
    table.add_row("threads", str(found["threads"]), "OMP_NUM_THREADS; runs repeat bit for bit only at the same number")
    return table


CORE = {
    "torch": "tensors",
    "transformers": "models and tokenizers",
    "safetensors": "weights",
    "tokenizers": "the abacus tokenizer",
    "math-verify": "answers that are not plain numbers",
    "pydantic": "settings",
    "rich": "what you see",
}
EXTRAS = {
    "pyarrow": "parquet files: pip install 'contrapose[hub]'",
    "reasoning-gym": "its tasks' own scorers: pip install 'contrapose[gym]'",
}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def objectives_table(known: Mapping[str, ObjectiveInfo]) -> Table:
    """The objectives, a row each, and the kind of each of their factors."""
    from contrapose.objectives.page import FACTORS

    table = Table("name", *FACTORS, box=None, padding=(0, 1, 0, 0))
    for info in known.values():
        table.add_row(info.name, *(info.kinds[factor] for factor in FACTORS))
    return table


def _contrast(group: Mapping[str, Any]) -> str:
    """The answer of a group that was pulled up most and the one that was pushed down most, with their credits."""
    by_credit = sorted(group["rollouts"], key=lambda r: r["credit"])
    pulled, pushed = (f"{r['credit']:+.4f} {_end(r['text'], 48)}" for r in (by_credit[-1], by_credit[0]))
    return f"          {_end(group['problem'], 40)}  pulled up {pulled}  pushed down {pushed}"


def _end(text: str, width: int) -> str:
    """The end of ``text`` on one line, control characters shown as spaces."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= width else "..." + line[-width:]


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
