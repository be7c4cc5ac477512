"""The charts of the page as pictures for a paper."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from contrapose.report.charts import AXES, SECTIONS, unit_of
from contrapose.report.log import make_folder, on_disk
from contrapose.types import ContraposeError

COLOURS = ("#0072b2", "#c04a00", "#1f8565", "#8a2d6b", "#8a6f00", "#2b2f36")
DASHES = ("-", "--", ":", "-.")
ALIKE = 3
"""Lines of one dash, whose colours are apart for everyone."""

SIZE = (3.3, 2.2)
"""Inches: one column of two."""

STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e5ea",
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # letters as letters, which publishers ask for
    "svg.fonttype": "none",
    "svg.hashsalt": "contrapose",
    "text.parse_math": False,  # a run may be called $x$
}


class Line(NamedTuple):
    """``y`` where it is known, and the ends of its interval where it has one."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Picture:
    name: str
    unit: str
    lines: Sequence[Line]
    stacked: bool = False


def figures(runs: Sequence[Mapping[str, Any]], folder: Path, axis: str = "step") -> list[Path]:
    """Draw every chart of ``runs`` (``report/run.py``) that has something in it, as ``.pdf`` and ``.svg``.

    Of one run the series of a chart stand in one picture, of several each has its own, a line a run.
    Raises ContraposeError without matplotlib, and WriteFailed where the disk refuses.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise ContraposeError("--figures: matplotlib is not installed: pip install 'contrapose[figures]'") from None
    mpl.use("agg")
    with mpl.rc_context(STYLE), on_disk(folder):
        make_folder(folder)
        return [file for picture in _pictures(runs, axis) for file in _draw(folder, picture, AXES[axis])]


def _pictures(runs: Sequence[Mapping[str, Any]], axis: str) -> Iterator[Picture]:
    alone = len(runs) == 1
    if held_out := [line for run in runs for line in _held_out(run, axis, alone)]:
        yield Picture("held_out_accuracy", "accuracy", held_out)
    for chart in (chart for charts in SECTIONS.values() for chart in charts):
        for names in (chart.series,) if alone else ((name,) for name in chart.series):
            lines = [_line(run, name, axis, _label(name) if alone else run["name"]) for run in runs for name in names]
            title = chart.title if names == chart.series else f"{chart.title} {_label(names[0])}"
            if lines := [line for line in lines if line.y]:
                slug = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
                yield Picture(slug, unit_of(names[0]), lines, chart.stacked and alone)


def _line(run: Mapping[str, Any], series: str, axis: str, label: str) -> Line:
    known = [(x, y) for x, y in zip(run["axes"][axis], run["series"][series], strict=True) if y is not None]
    return Line(label, [x for x, _ in known], [y for _, y in known])


def _label(series: str) -> str:
    return series.rpartition(".")[2].replace("_", " ")


def _held_out(run: Mapping[str, Any], axis: str, alone: bool) -> Iterator[Line]:
    """A line for each data set: accuracy with its 95 % interval."""
    for data, split in dict.fromkeys((row["data"], row["split"]) for row in run["evaluations"]):
        rows = [row for row in run["evaluations"] if (row["data"], row["split"]) == (data, split)]
        value, low, high = ([row["accuracy"][end] for row in rows] for end in ("value", "low", "high"))
        about = f"{data} ({split})"
        label = about if alone else f"{run['name']}: {about}"
        yield Line(label, [row["at"][axis] for row in rows], value, low, high)


def _draw(folder: Path, picture: Picture, axis: str) -> Iterator[Path]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    if picture.stacked:
        labels = [line.label for line in picture.lines]
        axes.stackplot(picture.lines[0].x, [line.y for line in picture.lines], labels=labels, colors=COLOURS, alpha=0.6)
    else:
        for i, line in enumerate(picture.lines):
            dash, colour = DASHES[i // ALIKE % len(DASHES)], COLOURS[i % len(COLOURS)]
            axes.plot(line.x, line.y, dash, color=colour, label=line.label)
            if line.low:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel(axis)
    axes.set_ylabel(picture.unit)
    if len(picture.lines) > 1:
        axes.legend()
    for ending, date in (("pdf", "CreationDate"), ("svg", "Date")):
        file = folder / f"{picture.name}.{ending}"
        figure.savefig(file, metadata={date: None})  # the same numbers, the same bytes
        yield file
