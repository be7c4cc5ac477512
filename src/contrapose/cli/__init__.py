"""The command line. Heavy imports happen inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys

from contrapose.cli import data, evaluation, info, ledger, training, verification  # noqa: F401  each adds its commands
from contrapose.cli.app import app, plain, terminal
from contrapose.types import ContraposeError


def main() -> None:
    """Run the command line; errors a user can mend are one line and an exit code."""
    # threads that wait give way to other programs sooner: as fast on a free machine, several times so on a busy one
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    try:
        app()
    except ContraposeError as error:
        line = plain(f"error: {error}")
        terminal(stderr=True).print(line, style="red", markup=False, soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
