"""Tables that a command shows when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from contrapose.objectives.zoo import ObjectiveInfo


def evaluation_table(columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """Evaluations of the same problems side by side, each under its heading, with 95 % intervals."""
    first = next(iter(columns.values()))
    samples = first["samples"]
    title = f"{escape(first['data'])}: {first['problems']} problems x {samples} samples, T {first['temperature']:g}"
    table = Table(title=title, title_justify="left")
    for heading in ("", *columns):
        table.add_column(heading, justify="right")
    rows = [
        ("accuracy", lambda e: f"{e['accuracy']['value']:.3f}"),
        ("95 % interval", lambda e: f"{e['accuracy']['low']:.3f} to {e['accuracy']['high']:.3f}"),
        (f"pass@{samples}", lambda e: f"{e['pass_at_samples']:.3f}"),
        ("mean length, tokens", lambda e: f"{e['length_mean']:.1f}"),
        ("cut off at the limit", lambda e: f"{e['truncated']:.1%}"),
        ("no boxed answer", lambda e: f"{e['no_answer']:.1%}"),
    ]
    if any(e["faults"] for e in columns.values()):
        rows.append(("beyond the grader's limits", lambda e: f"{e['faults']:.1%}"))
    for name, show in rows:
        table.add_row(name, *(show(e) for e in columns.values()))
    return table


def doctor_table(found: Mapping[str, Any], grader: str) -> Table:
    """What is installed and what it is for; ``found`` holds the facts of this machine, ``grader`` how its self-test
    went."""
    table = Table("part", "found", "what it is for")
    table.add_row("python", found["python"], "")
    for package, use in {**CORE, **EXTRAS}.items():
        table.add_row(package, _installed(package), escape(use))
    table.add_row("grader", escape(grader), "judges answers, in processes of its own")
    table.add_row("device", found["device"], "where models run")
    table.add_row("threads", str(found["threads"]), "OMP_NUM_THREADS; runs repeat bit for bit only at the same number")
    return table


CORE = {
    "torch": "tensors",
    "transformers": "models and tokenizers",
    "safetensors": "weights",
    "tokenizers": "the abacus tokenizer",
    "math-verify": "answers that are not plain numbers",
    "pydantic": "settings",
    "rich": "what you see",
}
EXTRAS = {
    "pyarrow": "parquet files: pip install 'contrapose[hub]'",
    "reasoning-gym": "its tasks' own scorers: pip install 'contrapose[gym]'",
}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def objectives_table(known: Mapping[str, ObjectiveInfo]) -> Table:
    """The objectives, a row each, and the kind of each of their factors."""
    from contrapose.objectives.page import FACTORS

    table = Table("name", *FACTORS, box=None, padding=(0, 1, 0, 0))
    for info in known.values():
        table.add_row(info.name, *(info.kinds[factor] for factor in FACTORS))
    return table
