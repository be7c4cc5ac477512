"""``contrapose objectives``, ``recipes``, ``doctor`` and ``abacus build``: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrapose.cli.app import abacus_app, app, check_out, quiet, terminal
from contrapose.types import ContraposeError


@app.command()
def objectives(
    name: Annotated[str | None, typer.Argument(help="One objective, with its equation.")] = None,
    page: Annotated[bool, typer.Option("--page", help="All of them, as docs/objectives.md has it.")] = False,
) -> None:
    """The objectives: equation, credit, factors, defaults, and where paper and code disagree."""
    from contrapose.objectives.page import entry, markdown
    from contrapose.objectives.zoo import catalogue
    from contrapose.types import nearest

    known = catalogue()
    if page:
        print(markdown(known), end="")
    elif name is None:
        from contrapose.cli.tables import objectives_table

        terminal().print(objectives_table(known))
    elif name in known:
        for line in entry(known[name]).splitlines():  # equations are not broken into lines
            terminal().print(line, markup=False, highlight=False, soft_wrap=line.startswith("    "))
    else:
        raise ContraposeError(f"objective: {name!r} is unknown{nearest(name, list(known))}")


@app.command()
def recipes() -> None:
    """The recipes that ship: what contrapose train takes by name."""
    from contrapose.config import shipped

    paths = shipped()
    width = max(map(len, paths))
    for name in sorted(paths, key=lambda name: ("/" in name, name)):
        first = paths[name].read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:{width}}  {first.removeprefix('# ')}")


@app.command()
def doctor() -> None:
    """Versions, devices, what is installed, and what each missing extra would give."""
    from contrapose.cli.tables import doctor_table
    from contrapose.train.facts import facts
    from contrapose.verify.verifier import Verifier

    try:
        Verifier().workers.check()
        grader = "grades"
    except ContraposeError as error:
        grader = str(error)
    terminal().print(doctor_table(facts(), grader))


@abacus_app.command("build")
def abacus_build(
    out: Annotated[Path, typer.Argument(help="Folder for the model.")],
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    steps: Annotated[int, typer.Option(min=1)] = 800,
) -> None:
    """Train the abacus base model from nothing: a few minutes on two cores."""
    from contrapose.cli.screen import Screen
    from contrapose.train.pretrain import build_abacus

    check_out(out)
    quiet()
    screen = Screen(terminal())
    build_abacus(
        out,
        seed=seed,
        steps=steps,
        progress=lambda step, loss: screen.log(f"step {step}/{steps}  loss {loss:.3f}") if step % 50 == 0 else None,
    )
    screen.log(f"model  {out}")
