"""The command line. Heavy imports happen inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys

from rich.console import Console

from contrapose.cli import evaluation, info, training, verification  # noqa: F401  each adds its commands
from contrapose.cli.app import app
from contrapose.types import ContraposeError


def main() -> None:
    """Run the command line; errors a user can mend are one line and an exit code."""
    # threads that wait give way to other programs sooner: as fast on a free machine, several times so on a busy one
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    try:
        app()
    except ContraposeError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
