"""contrapose: train a language model to reason by contrast between its own right and wrong answers."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Batch": "types",
    "Group": "types",
    "Now": "types",
    "Objective": "objectives.objective",
    "Prompt": "types",
    "Rollout": "types",
    "Totals": "objectives.plan",
    "Verdict": "types",
    "credit": "objectives.credit",
    "objective": "objectives.zoo",
    "objectives": "",
    "value": "objectives.credit",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: torch takes seconds, ``--help`` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'contrapose' has no attribute {name!r}")
    if name == "objectives":
        return import_module("contrapose.objectives")
    return getattr(import_module(f"contrapose.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
