"""The application that commands are added to, and what they share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from contrapose.types import ContraposeError

LONGEST_NAME = 64
"""Characters of a run's name."""


@contextmanager
def _on_one_line() -> Iterator[None]:
    try:
        yield
    except typer.BadParameter.__base__ as error:  # type: ignore[misc]  # whatever is wrong with what was typed
        if not (text := error.format_message()):
            raise  # the help was asked for, and shown
        command = error.ctx.command_path if error.ctx else "contrapose"
        raise ContraposeError(f"{' '.join(text.split()).rstrip('.')}: {command} --help tells what is valid") from None


class Commands(TyperGroup):
    """Commands whose misuse is told like any other mistake."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _on_one_line():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _on_one_line():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    help="Train a language model to reason by contrast between its own right and wrong answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
abacus_app = typer.Typer(help="The built-in task and its base model.", no_args_is_help=True)
app.add_typer(abacus_app, name="abacus")

SetVerify = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="How answers are judged, e.g. verify.conventions.tolerance=1e-3."),
]


def run_name(recipe: str, objective: str, seed: int, moment: str) -> str:
    """The name of a run's folder: at most 64 of ``A-Za-z0-9._-``, and no dot first, whatever its recipe is called."""
    label = Path(recipe).stem if recipe.endswith(".toml") else recipe
    label, rest = (re.sub(r"[^A-Za-z0-9._-]+", "-", part) for part in (label, f"-{objective}-{seed}-{moment}"))
    label = label.strip("-.")[: max(1, LONGEST_NAME - len(rest))]
    return f"{label or 'run'}{rest}"[:LONGEST_NAME]


def check_out(folder: Path) -> None:
    """Raise ContraposeError unless ``folder`` is one, or can become one, that can be written to. Nothing is made."""
    try:
        os.fsencode(folder).decode()
        above = next(path for path in (folder, *folder.parents) if path.exists())
        fault = "" if os.access(above, os.W_OK | os.X_OK) else f"{above} is not yours"
        fault = fault if above.is_dir() else f"{above} is not a folder"
    except OSError as error:
        fault = str(error.strerror)
    except UnicodeError:
        fault = "its name is not UTF-8"
    if fault:
        raise ContraposeError(f"--out: {folder} cannot be written ({fault}): choose another folder")


class _Patient(Console):
    """A console that nobody may be reading any more: what goes on goes on without it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def terminal(*, stderr: bool = False) -> Console:
    """A console that prints what it is given: ``:zzz:`` in the name of a file stays as it is."""
    return _Patient(stderr=stderr, emoji=False)


def plain(text: str) -> str:
    """``text`` on one line, control characters as spaces: a terminal obeys them, and they may be a data set's."""
    return "".join(c if c.isprintable() else " " for c in text)


def quiet() -> None:
    """Keep library chatter out of the output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
