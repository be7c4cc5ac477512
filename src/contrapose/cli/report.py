"""``contrapose report``."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from contrapose.cli.app import app, plain, terminal
from contrapose.types import ContraposeError


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; with several, a comparison with the first.")],
    out: Annotated[
        Path | None, typer.Option(help="The page. Default: report.html in the run's folder, or here of several.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Serve the page to this machine; it follows the runs.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --live: where. 0 takes a free one.")] = 0,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the charts as .pdf and .svg into DIR, and no page.")
    ] = None,
) -> None:
    """One page of what runs did: curves, every answer with its credit, what became of the prompts, a comparison."""
    from contrapose.evaluate.report import REPORT, report_data, write_report

    say = partial(_say, terminal())
    if (out is not None) + live + (figures is not None) > 1:
        raise ContraposeError("--out, --live and --figures: give one of them")
    if port and not live:
        raise ContraposeError("--port: give --live with it")
    if live:
        from contrapose.report.live import Live

        with Live(runs, report_data, port) as server:
            server.data()
            say(f"{server.url}  until Ctrl-C")
            with suppress(KeyboardInterrupt):
                server.serve_forever()
    elif figures:
        from contrapose.report.figures import figures as draw

        written = draw(report_data(runs)["runs"], figures)
        say(f"{len(written)} files in {figures}")
    else:
        page = out or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
        write_report(runs, page)
        say(str(page))


def _say(console: Console, line: str) -> None:
    console.print(plain(line), soft_wrap=True, highlight=False, markup=False)
