"""The application that commands are added to, and what they share."""

from __future__ import annotations

from typing import Annotated

import typer

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


def quiet() -> None:
    """Keep library chatter out of the output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
