"""Tables that a command shows when it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from contrapose.cli.app import plain

if TYPE_CHECKING:
    from contrapose.evaluate.compare import Comparison
    from contrapose.objectives.zoo import ObjectiveInfo
    from contrapose.report.ledger import Ledger


def evaluation_table(columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """Evaluations of the same problems side by side, each under its heading, with 95 % intervals."""
    first = next(iter(columns.values()))
    samples = first["samples"]
    title = (
        f"{escape(plain(first['data']))}: {first['problems']} problems x {samples} samples, T {first['temperature']:g}"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("", *columns):
        table.add_column(escape(plain(heading)), justify="right", overflow="fold")

    def add(name: str, show: Callable[[Mapping[str, Any]], str]) -> None:
        table.add_row(name, *(show(e) for e in columns.values()))

    def add_estimate(name: str, of: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        add(name, lambda e: f"{of(e)['value']:.3f}")
        add("95 % interval", lambda e: f"{of(e)['low']:.3f} to {of(e)['high']:.3f}")

    add_estimate("accuracy", lambda e: e["accuracy"])
    if samples > 1:
        add("sampling error", lambda e: f"+-{e['accuracy']['se']:.3f}")
        add_estimate(f"pass@{samples}", lambda e: e["pass_at"][str(samples)])
        add_estimate(f"maj@{samples}", lambda e: e["majority"])
    add("mean length, tokens", lambda e: f"{e['length_mean']:.1f}")
    add("of right, of wrong ones", lambda e: f"{_length(e['length_correct'])}, {_length(e['length_wrong'])}")
    add("cut off at the limit", lambda e: f"{e['truncated']:.1%}")
    add("no boxed answer", lambda e: f"{e['no_answer']:.1%}")
    for name, key in (("not to be read", "unparsed"), ("beyond the grader's limits", "faults")):
        if any(e[key] for e in columns.values()):
            add(name, lambda e, key=key: f"{e[key]:.1%}")  # type: ignore[misc]
    return table


def benchmarks_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Evaluations on several data sets, one below the other, in 80 columns; the last row is their mean."""
    table = Table(
        title="in %, below it the 95 % interval; +- is the error from sampling alone",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("problems\nx samples", overflow="fold")
    for heading in ("accuracy", "pass@n", "maj@n", "tokens", "cut\noff", "no\nbox", "faults"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if "of" in row:
            table.add_row(f"mean of {len(row['of'])}\n{row['problems']}", _points(row["accuracy"]))
            continue
        samples = row["samples"]
        table.add_row(
            f"{escape(plain(row['data']))}\n{row['problems']} x {samples}",
            _points(row["accuracy"]),
            *([_points(row["pass_at"][str(samples)]), _points(row["majority"])] if samples > 1 else ["", ""]),
            f"{row['length_mean']:.0f}",
            *(f"{100 * row[key]:.1f}" for key in ("truncated", "no_answer", "faults")),
        )
    return table


def comparison_table(sets: Sequence[Comparison], names: tuple[str, str]) -> Table:
    """Two evaluations by data set, and the difference on the problems that both have."""
    table = Table(title="in %; differences with their 95 % interval", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("data", overflow="fold")
    table.add_column("problems", justify="right", no_wrap=True)
    for name in names:
        table.add_column(escape(plain(name)), justify="right", overflow="fold", min_width=5)
    table.add_column("difference", justify="right", no_wrap=True)
    for one in sets:
        shares = (f"{100 * share:.1f}" for share in (one.first, one.second))
        table.add_row(escape(plain(one.data)), str(one.problems), *shares, _points(one.difference._asdict(), sign="+"))
    return table


def _points(found: Mapping[str, Any], sign: str = "") -> str:
    error = "" if found.get("se") is None else f" +-{100 * found['se']:.1f}"
    low, value, high = (format(100 * found[key], f"{sign}.1f") for key in ("low", "value", "high"))
    return f"{value}{error}\n{low} to {high}"


def _length(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.1f}"


def ledger_table(columns: Mapping[str, Ledger], title: str) -> Table:
    """Where tokens went, a column a run."""
    table = Table(title=title, title_justify="left")
    for heading in ("", *columns):
        table.add_column(escape(plain(heading)), justify="right", overflow="fold")
    shares = {
        "kept": "trained on",
        "surplus": "surplus: beyond a full batch",
        "too_hard": "filtered: too hard",
        "too_easy": "filtered: too easy",
        "mastered": "filtered: mastered",
    }
    rows: list[tuple[str, Callable[[Ledger], str]]] = [
        ("steps", lambda x: f"{x.steps}"),
        ("tokens generated", lambda x: f"{x.generated:,}"),
        *((name, partial(_share, key)) for key, name in shares.items()),
        ("on rollouts cancelled early", lambda x: f"{x.cancelled:,}"),
        ("saved by that, estimated (high)", lambda x: f"{x.saved:,.0f}"),
        ("groups drawn", lambda x: f"{x.drawn:,}"),
        ("groups trained on", lambda x: f"{x.accepted:,}"),
        ("tokens a group trained on", lambda x: "-" if x.per_accepted is None else f"{x.per_accepted:,.0f}"),
        *(
            (f"accuracy on {escape(plain(data))}", partial(_test, data))
            for data in dict.fromkeys(data for column in columns.values() for data in column.tests)
        ),
    ]
    for name, show in rows:
        table.add_row(name, *(show(column) for column in columns.values()))
    return table


def _test(data: str, found: Ledger) -> str:
    if data not in found.tests:
        return "-"
    test = found.tests[data]
    low, value, high = (test["accuracy"].get(key, math.nan) for key in ("low", "value", "high"))
    return f"{value:.3f}\n{low:.3f} to {high:.3f}\nstep {test['step']}"


def _share(key: str, found: Ledger) -> str:
    return f"{found.spent[key] / found.generated:.1%}" if found.generated else "-"


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
    "datasets": "data sets of the hub: pip install 'contrapose[hub]'",
    "reasoning-gym": "its tasks' own scorers: pip install 'contrapose[gym]'",
    "matplotlib": "contrapose report --figures: pip install 'contrapose[figures]'",
    "vllm": "rollout.engine = vllm: pip install 'contrapose[vllm]'",
    "wandb": "tracking = wandb: pip install 'contrapose[wandb]'",
    "tensorboard": "tracking = tensorboard: pip install 'contrapose[tensorboard]'",
    "trackio": "tracking = trackio: pip install 'contrapose[trackio]'",
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
