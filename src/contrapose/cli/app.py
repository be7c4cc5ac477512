"""The application that commands are added to, and what they share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
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


def terminal(*, stderr: bool = False) -> Console:
    """A console that prints what it is given: ``:zzz:`` in the name of a file stays as it is."""
    return Console(stderr=stderr, emoji=False)


def plain(text: str) -> str:
    """``text`` on one line, control characters as spaces: a terminal obeys them, and they may be a data set's."""
    return "".join(c if c.isprintable() else " " for c in text)


def quiet() -> None:
    """Keep library chatter out of the output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
