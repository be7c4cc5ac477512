"""What a user does, for tests: types a command, reads a data set that must be whole, tries a short one first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from contrapose.cli import main
from contrapose.prompts import sources
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


@contextmanager
def few_sums() -> Iterator[None]:
    """A short abacus: of all its problems a small run would draw a few, and spend most of its time on the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "ABACUS_COUNT", {"train": 512, "validation": 40, "test": 80})
        yield
