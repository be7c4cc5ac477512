"""``contrapose train``."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrapose.cli.app import app, check_out, quiet, run_name, terminal
from contrapose.types import ContraposeError, PoolExhausted

if TYPE_CHECKING:
    from contrapose.settings import Config
    from contrapose.train.launch import Ranks
    from contrapose.train.run import Run

STOPPED = 75
"""Exit code of a run that was asked to stop and saved a checkpoint."""

Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. optim.lr=2e-6. Repeatable.")
]


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a .toml file. Default: abacus.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/<recipe>-<objective>-<seed>-<time>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    readmit: Annotated[
        list[str],
        typer.Option(metavar="PROMPT", help="With --resume: undo the mastery of a prompt (all: of every one)."),
    ] = [],  # noqa: B006
    set_: Set = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Same as --set seed=N.")] = None,
) -> None:
    """Train a model, and evaluate it before and after where eval.data is set."""
    with _processes() as ranks:
        prepare = partial(_prepare, recipe, out, resume, readmit, set_, seed)
        config, folder = ranks.first(prepare) if ranks else prepare()
        code = _train(config, folder, resume, readmit, ranks)
    sys.exit(code)


def _processes() -> AbstractContextManager[Ranks | None]:
    """Of those that torchrun started this is one; alone it need not wait for a library to load."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return nullcontext()
    from contrapose.train.launch import together

    return together()


def _prepare(
    recipe: str | None, out: Path | None, resume: bool, readmit: list[str], set_: list[str], seed: int | None
) -> tuple[Config, Path]:
    """The settings and the folder of the run."""
    if resume:
        if out is None or recipe or set_ or seed is not None:
            raise ContraposeError(
                "--resume: give --out RUN and nothing else; the settings are those of RUN/config.toml"
            )
        return _saved_config(out), out
    from contrapose.config import resolve
    from contrapose.train.folders import refuse_used

    config, recipe = resolve(recipe, set_, seed=seed)
    name = run_name(recipe, config.objective.name, config.seed, time.strftime("%m%d-%H%M%S"))
    folder = Path("runs") / name if out is None else out
    check_out(folder)
    refuse_used(folder)
    if readmit:
        raise ContraposeError("--readmit: give --resume --out RUN with it; a new run has mastered nothing")
    return config, folder


def _train(config: Config, folder: Path, resume: bool, readmit: list[str], ranks: Ranks | None) -> int:
    console = terminal()
    console.quiet = ranks is not None and not ranks.leads
    with console.status("loading") if console.is_terminal else nullcontext():
        from contrapose.cli.screen import Screen
        from contrapose.cli.tables import evaluation_table
        from contrapose.evaluate.report import REPORT
        from contrapose.train.launch import ALONE
        from contrapose.train.loop import train as loop
        from contrapose.train.run import Run

        quiet()
        run = Run(config, folder, resume=resume, ranks=ranks or ALONE)
    screen = Screen(console, config.steps)
    run.on_group, run.on_eval, run.on_trained = screen.on_eval_group, screen.on_eval, screen.on_trained
    run.on_note = screen.on_note
    for line in run.describe():
        screen.log(line)
    with run, screen:
        if readmit:
            screen.log(f"readmitted {len(run.readmit(readmit))} prompts")
        screen.started_at(run.step)
        try:
            finished = loop(run, screen.on_step)
            model = run.finish() if finished else None
        except PoolExhausted:
            kept = run.finish()
            screen.log(f"kept {kept}, after step {run.step}: other settings may start from it, --set model.path={kept}")
            raise
        except ContraposeError:
            screen.log(_after(run))
            raise
    if model is None:
        done = f", {len(run.work.updates)} updates of the next" if run.work else ""
        screen.log(f"stopped after step {run.step}{done}; go on with: {_resume(folder)}")
        return STOPPED
    for columns in run.evaluations.tests():
        console.print(evaluation_table(columns))
    screen.log(f"run    {folder}\nmodel  {model}")
    if (page := folder / REPORT).exists():
        screen.log(f"report {page}")
    if choice := run.evaluations.choice():
        screen.log(f"best   {run.evaluations.best(choice['step'])}: {choice['rule']}")
    return 0


def _resume(folder: Path) -> str:
    return f"contrapose train --resume --out {shlex.quote(str(folder))}"


def _after(run: Run) -> str:
    """What a run that broke off leaves, and how to go on."""
    from contrapose.train.checkpoint import saved

    found = saved(run.folder)
    left = f"the last checkpoint is {found[-1]}" if found else "no checkpoint was written yet"
    settings = f"settings can be changed in {run.folder / 'config.toml'}"
    return f"broke off in step {run.step + 1}; {left}; once mended ({settings}): {_resume(run.folder)}"


def _saved_config(folder: Path) -> Config:
    from contrapose.config import places_in, read_toml
    from contrapose.validation import validate

    file = folder / "config.toml"
    if not file.exists():
        raise ContraposeError(f"--resume: {file} does not exist: give the folder of a run, or leave --resume out")
    tree = read_toml(file)
    tree.pop("run", None)
    return validate(tree, places_in(file))
