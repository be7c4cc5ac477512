"""What a run writes to ``metrics.jsonl`` and ``eval.json``, sent to a tracker too: under the same names, over ``step``.

A tracker is told and never asked: the bits of a run are the same with any of them and with none. Where a run goes on
from a checkpoint it goes on in the tracker's same run. TensorBoard then hides the steps that are done again;
Weights & Biases and Trackio cannot take back, and show such a step twice.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import indent
from typing import Any, Protocol
from uuid import uuid4

from contrapose.report.log import write_json
from contrapose.types import ContraposeError

PROJECT = "contrapose"

PATIENCE = 300.0
"""Seconds that the end of a run waits for an upload; what is left lies in its folder, for ``wandb sync``."""


class Tracker(Protocol):
    """Where numbers go. Whatever goes wrong it raises."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take ``values``, each under its name, at ``step``: a later step than the last, the same or an earlier one."""
        ...

    def close(self, failed: bool) -> None:
        """Keep what was taken. ``failed`` where the run broke off."""
        ...


class Tracking:
    """The tracker of a run by its name (``"none"``: nobody), from ``open`` to ``close``.

    One that fails in between is told to ``tell`` in one line and left out from there on: no run is lost for a curve.
    Raises ContraposeError where its package is missing.
    """

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self._name, self._tell = name, tell
        self._tracker: Tracker | None = None
        if name in TRACKERS:
            _refuse_missing(name)

    def open(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Begin, or go on after ``step`` finished steps, with what the run in ``folder`` is set to.

        Raises ContraposeError where the tracker does not start: there is still somebody who can mend that."""
        if self._name not in TRACKERS:
            return
        try:
            self._tracker = TRACKERS[self._name](folder, settings, step)
        except Exception as error:
            mend = f'mend that, or set tracking = "none" in {folder / "config.toml"}'
            again = f"then: contrapose train --resume --out {shlex.quote(str(folder))}"
            raise ContraposeError(f"tracking: {self._name} does not start: {_told(error)}: {mend}; {again}") from None

    def step(self, row: Mapping[str, Any]) -> None:
        """Send a row of ``metrics.jsonl``."""
        self._ask(lambda tracker: tracker.log(row["step"], numbers(row)))

    def evaluation(self, data: str, row: Mapping[str, Any]) -> None:
        """Send the accuracy and its 95 % interval of a row of ``eval.json``; ``data`` is what its folder is called."""
        names = {"value": "accuracy", "low": "accuracy_low", "high": "accuracy_high"}
        found = {f"eval/{data}/{name}": row["accuracy"][key] for key, name in names.items()}
        self._ask(lambda tracker: tracker.log(row["step"], found))

    def close(self, failed: bool) -> None:
        """Nothing more will come."""
        self._ask(lambda tracker: tracker.close(failed))
        self._tracker = None

    def _ask(self, what: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            what(self._tracker)
        except Exception as error:
            self._tracker = None
            left = "the run goes on without it; metrics.jsonl and eval.json have everything"
            self._tell(f"tracking: {self._name} failed: {_told(error)}: {left}")


def numbers(row: Mapping[str, Any], within: str = "") -> dict[str, float]:
    """The numbers of a row of ``metrics.jsonl`` but for ``step``, those of a table as ``verdicts/correct``.

    What the file has as null is left out, and so are the lists: the row repeats what matters of ``updates``."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{within}{key}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{within}{key}"] = value
    return {name: value for name, value in found.items() if name != "step"}


class _Wandb:
    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        import wandb

        quiet = wandb.Settings(
            console="off",  # stdout stays what it is, and is not uploaded
            save_code=False,  # a program, and what was changed in a checkout, may be secret; the revision is in "run"
            disable_code=True,
            disable_git=True,
            quiet=True,
            reinit="create_new",  # whatever else this process tracks
            finish_timeout=PATIENCE,
            finish_timeout_raises=True,  # so that it is told
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=_id(folder),
            resume="allow",
            dir=folder,
            config=dict(settings),
            settings=quiet,
        )
        # Its own count of steps only rises, and drops what comes for an earlier one: a chosen policy's evaluation.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _TensorBoard:
    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        import tomli_w
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._writer.add_text("config.toml", indent(tomli_w.dumps(settings), "    "), step)  # as Markdown has code

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # or a person waits for two minutes, and an error too

    def close(self, failed: bool) -> None:
        self._writer.close()


class _Trackio:
    """Its runs lie together, where ``TRACKIO_DIR`` says: its dashboard shows one such place."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        import trackio

        name = f"{folder.resolve().name}-{_id(folder)}"  # it knows runs by name, and other folders may be called alike
        self._run = trackio.init(PROJECT, name=name, resume="allow", config=dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        import trackio

        trackio.finish()  # it finishes a run of its own accord at exit, unless it was told so itself


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "wandb": _Wandb,
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
}
"""How each is opened, by the name of its package: the run's folder, its settings, and the steps it has finished."""


def _refuse_missing(package: str) -> None:
    try:
        version(package)  # not an import: a folder called wandb, which it leaves behind, can be imported too
    except PackageNotFoundError:
        mend = f"pip install 'contrapose[{package}]'"
        raise ContraposeError(f"tracking: {package} is not installed: {mend}") from None


def _id(folder: Path) -> str:
    """What a tracker knows the run by: drawn once, and kept in ``tracking.json``. A folder can be moved, and another
    machine has one of the same name."""
    path = folder / "tracking.json"
    if not path.exists():
        write_json(path, {"id": uuid4().hex[:8]})
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
