"""Which code it was."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str:
    """The commit of the checkout that this code runs from, or ``"installed"`` where it does not."""
    here = Path(__file__)
    tracked, commit = ["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty", "--abbrev=40"]
    try:
        for question in (tracked, commit):
            answer = subprocess.run(["git", *question], cwd=here.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "installed"
    return answer.stdout.strip()
