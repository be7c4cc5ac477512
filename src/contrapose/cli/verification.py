"""``contrapose verify``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Literal

import typer

from contrapose.cli.app import SetVerify, app
from contrapose.types import ContraposeError

Scheme = Literal["format", "binary", "sign"]


@app.command()
def verify(
    file: Annotated[str, typer.Argument(help="jsonl with a gold answer and a prediction each; - is stdin.")] = "-",
    gold: Annotated[str, typer.Option(help="The key of the gold answer.")] = "gold",
    prediction: Annotated[str, typer.Option(help="The key of the response, or of the bare answer.")] = "prediction",
    scheme: Annotated[Scheme, typer.Option(help="What verdicts are worth.")] = "binary",
    set_: SetVerify = [],  # noqa: B006
) -> None:
    """Judge answers: a line of status, reward, correct, seconds for each line of input, in order.

    The answer is what is boxed last, or stated ("the answer is"), or the prediction itself. A line that cannot be read
    has an error in place of a verdict, and the exit code is then 2.
    """
    from contrapose.cli.screen import Rows
    from contrapose.config import verify_settings
    from contrapose.verify.command import opened, verify_rows
    from contrapose.verify.verifier import Verifier

    verifier = Verifier.configured(verify_settings({}, set_, answer="stated").model_dump(), scheme)
    lines, total = opened(file)
    # what may block is not closed: a thread may be waiting for its next line
    with nullcontext() if total is None else lines, Rows(total) as rows:
        summary = verify_rows(lines, verifier, (gold, prediction), rows.write)
    for line in summary.lines():
        rows.console.print(line, markup=False, highlight=False, soft_wrap=True)
    if summary.broken:
        raise ContraposeError(f"{file}: {len(summary.broken)} lines could not be read; the first: {summary.broken[0]}")
