"""What a user does, for tests: types a command, reads a data set that must be whole."""

from typing import Any

import pytest

from contrapose.cli import main
from contrapose.prompts.sources import load
from contrapose.types import Prompt


def contrapose(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of ``contrapose *arguments``, in this process."""
    monkeypatch.setattr("sys.argv", ["contrapose", *map(str, arguments)])
    try:
        main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def load_prompts(spec: str, **options: Any) -> list[Prompt]:
    """The prompts of a source without a broken row."""
    return load(spec, **options).whole()
