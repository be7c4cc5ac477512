"""``contrapose ledger``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrapose.cli.app import app, terminal


@app.command()
def ledger(runs: Annotated[list[Path], typer.Argument(help="Run folders.")]) -> None:
    """Where the tokens of runs went, and how far each had come at the same cost in tokens."""
    from contrapose.cli.tables import ledger_table
    from contrapose.report.ledger import ledger as read

    whole = {str(run): read(run) for run in runs}
    console = terminal()
    console.print(ledger_table(whole, "tokens generated"))
    if len(whole) > 1:
        budget = min(found.generated for found in whole.values())
        equal = {str(run): read(run, budget) for run in runs}
        console.print(ledger_table(equal, f"at equal cost: the steps within {budget:,} tokens"))
        if any(found.steps and not found.tests for found in equal.values()):
            console.print("-: not tested within these steps; eval.every has tests made in between", highlight=False)
