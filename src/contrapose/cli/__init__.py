"""The command line. Heavy imports happen inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from contrapose.cli import data, evaluation, info, ledger, plan, report, training, verification  # noqa: F401  each adds its commands
from contrapose.cli.app import app, plain, terminal
from contrapose.report.log import WriteFailed
from contrapose.types import ContraposeError

SPIN_COUNT = "10000"
"""How often torch's threads that wait look for work before they sleep: some tens of microseconds."""


def main() -> None:
    """Run the command line; errors a user can mend are one line and an exit code."""
    # threads that wait give way to other programs sooner: as fast on a free machine, several times so on a busy one
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        app()
    except ContraposeError as error:
        _end(str(error), error.exit_code)
    except OSError as error:  # what nobody foresaw, but no fault of the program's
        _end(f"{error.filename}: {error.strerror}" if error.filename else str(error), WriteFailed.exit_code)


def _end(line: str, code: int) -> NoReturn:
    line = plain(f"error: {line}")
    terminal(stderr=True).print(line, style="red", markup=False, soft_wrap=True, highlight=False)
    sys.exit(code)
