"""How papers evaluated: their benchmarks, how many samples of each, and how these are drawn and asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contrapose.prompts.catalogue import find
from contrapose.types import ContraposeError, nearest


@dataclass(frozen=True)
class Protocol:
    """``data`` has the number of samples by data set, ``samples`` that of any other (0: nothing is said of others).

    ``max_tokens`` bounds a response; an empty ``template`` is the model's own; ``notes`` are for a person.
    """

    name: str
    data: Mapping[str, int]
    temperature: float
    top_p: float
    max_tokens: int
    template: str = ""
    samples: int = 0
    notes: tuple[str, ...] = ()

    def samples_of(self, data: str) -> int:
        """How many samples of each problem of ``data``. Raises ContraposeError where the protocol does not say."""
        found = self.data.get(data, self.samples)
        if not found:
            raise ContraposeError(f"--samples: the protocol {self.name} does not say how many of {data}: give a number")
        return found


ABACUS = Protocol("", {"abacus": 4}, temperature=0.7, top_p=1.0, max_tokens=4096, samples=4)
"""What is evaluated where nothing is said."""

RENCE = Protocol(
    "rence",
    dict.fromkeys(("math500", "aime2024", "aime2025", "amc_aimo83", "minerva_math", "olympiadbench"), 4),
    temperature=0.7,
    top_p=1.0,
    max_tokens=6656,
    template="rence",
    notes=(
        "top-p is not stated in the paper, nor the response limit: 6656 is the one in training",
        "AMC is the 83 problems of AI-MO/aimo-validation-amc",
    ),
)
CONSPO = Protocol(
    "conspo",
    {
        **dict.fromkeys(("aime2024", "aime2025", "aime2026", "hmmt_feb_2025", "amc_aimo83"), 32),
        **dict.fromkeys(("math500", "olympiadbench"), 1),
    },
    temperature=0.6,
    top_p=0.95,
    max_tokens=8192,
    template="conspo",
    notes=(
        "AMC is not described in the paper: 83 problems, as in the DeepScaleR files that its OlympiadBench (675) is of",
        "the paper limits Llama-3.2-3B to 4096 tokens: --max-tokens 4096",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in (RENCE, CONSPO)}


def protocol(name: str | None) -> Protocol:
    """The protocol called so; without a name, the defaults."""
    if name is not None and name not in PROTOCOLS:
        raise ContraposeError(f"--protocol: {name!r} is unknown{nearest(name, list(PROTOCOLS))}")
    return ABACUS if name is None else PROTOCOLS[name]


def conventions(data: str) -> dict[str, Any]:
    """The ``[verify]`` settings that a data set brings along: a benchmark is mathematics and may need a tolerance,
    reasoning-gym has scorers of its own."""
    kind = data.partition(":")[0]
    if kind == "gym":
        return {"domain": "reasoning_gym"}
    dataset = find(kind)
    if dataset is None or not dataset.rows:
        return {}
    return {"domain": "math", "conventions": dict(dataset.conventions)}


def verify_of(data: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ``[verify]`` settings under which answers to ``data`` are judged: ``settings`` with what it brings along.

    A data set knows its domain; a convention that stands in ``settings`` was chosen, and wins over a customary one.
    """
    customary = conventions(data)
    chosen = {**customary.pop("conventions", {}), **settings.get("conventions", {})}
    return {**settings, **customary, "conventions": chosen}


def full_name(data: str) -> str:
    """``data`` with the whole name of a data set that has a short one too."""
    kind, colon, rest = data.partition(":")
    dataset = find(kind)
    return f"{dataset.name if dataset else kind}{colon}{rest}"


def has_own_columns(data: str) -> bool:
    """Whether it is known where ``data`` holds its problems, so that the settings of another file do not apply."""
    return find(data.partition(":")[0]) is not None
