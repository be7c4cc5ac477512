"""``contrapose data``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from contrapose.cli.app import app, plain, quiet, terminal
from contrapose.types import ContraposeError

SHOWN = 3
"""Cases of a kind on the screen; the report file has all."""

LEFT_OUT = {
    "broken": "broken",
    "bad_gold": "ungradable",
    "duplicate": "copies",
    "conflict": "conflicting copies",
    "contaminated": "held out",
    "unspellable": "unspellable",
    "too_long": "too long",
}
"""How that is called which costs a row."""


@app.command()
def data(
    specs: Annotated[
        list[str], typer.Argument(metavar="SPEC...", help="As data.path: abacus, a named data set, a file, hub:, gym:.")
    ],
    exclude: Annotated[
        list[str],
        typer.Option(help="What must not be trained on: benchmarks, files; all: what --data-dir holds."),
    ] = [],  # noqa: B006
    data_dir: Annotated[str, typer.Option(help="Folder with the files of named data sets.")] = "",
    out: Annotated[Path | None, typer.Option(help="File for the whole report, as JSON.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Model whose tokenizer measures prompts. Default: they are not.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems of each source.")] = None,
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Settings of the run, data.* and verify.*, as for train."),
    ] = [],  # noqa: B006
) -> None:
    """What of a data set a run would train on: rows that are broken, answers that no grader could judge, copies,
    problems of benchmarks, prompts that are too long."""
    from contrapose.config import data_settings
    from contrapose.report.log import write_json
    from contrapose.train.data import benchmarks_in, refusal, survey
    from contrapose.verify.verifier import Verifier

    quiet()
    if out is not None and (os.path.isdir(out) or not os.access(f"{out.parent}{os.sep}", os.W_OK)):
        raise ContraposeError(f"--out: {out} cannot be written: give a file in a folder that exists and is yours")
    excluded = [name for spec in exclude for name in (benchmarks_in(data_dir) if spec == "all" else [spec])]
    config = data_settings({"path": specs, "dir": data_dir, "exclude": excluded}, set_)
    verifier = Verifier.configured(config.verify.model_dump(), "binary")
    verifier.start()
    report = survey(config.data, verifier, model=tokenizer, limit=limit)
    console = terminal()
    console.print(_table(report.counts()))
    for what, cases in report.listed():
        console.print(f"\n{what}: {len(cases):,}", highlight=False)
        for case in cases[:SHOWN]:
            for line in filter(str.strip, (f"  {case}", f"    {case.problem}")):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    if fault := refusal(config.data, report):
        line = f"\na run would refuse this: {plain(fault)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        try:
            write_json(out, report.to_dict())
        except OSError as error:
            raise ContraposeError(f"--out: {out}: {error.strerror}") from None
        console.print(f"\nreport  {plain(str(out))}", markup=False, highlight=False, soft_wrap=True)


def _table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    table = Table()
    table.add_column("", overflow="fold")
    for heading in ("rows", "kept", "overlapping"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("left out")
    names = [Path(source).name for source in counts]
    for (source, found), name in zip(counts.items(), names, strict=True):
        left_out = ", ".join(f"{what} {found[step]:,}" for step, what in LEFT_OUT.items() if found[step])
        shown = escape(plain(name if names.count(name) == 1 else source))
        table.add_row(shown, *(f"{found[key]:,}" for key in ("rows", "kept", "overlap")), left_out)
    return table
