"""The command line. Heavy imports happen inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from contrapose.types import ContraposeError, PoolExhausted

if TYPE_CHECKING:
    from contrapose.settings import Config

app = typer.Typer(
    help="Train a language model to reason by contrast between its own right and wrong answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
abacus_app = typer.Typer(help="The built-in task and its base model.", no_args_is_help=True)
app.add_typer(abacus_app, name="abacus")

STOPPED = 75
"""Exit code of a run that was asked to stop and saved a checkpoint."""

Scheme = Literal["format", "binary", "sign"]
SetVerify = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="How answers are judged, e.g. verify.conventions.tolerance=1e-3."),
]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. optim.lr=2e-6. Repeatable.")
]


def main() -> None:
    """Run the command line; errors a user can mend are one line and an exit code."""
    # threads that wait give way to other programs sooner: as fast on a free machine, several times so on a busy one
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    try:
        app()
    except ContraposeError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a .toml file. Default: abacus.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/<recipe>-<objective>-<seed>-<time>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    set_: Set = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Same as --set seed=N.")] = None,
) -> None:
    """Train a model, and evaluate it before and after where eval.data is set."""
    if resume:
        if out is None or recipe or set_ or seed is not None:
            raise ContraposeError(
                "--resume: give --out RUN and nothing else; the settings are those of RUN/config.toml"
            )
        config, folder = _saved_config(out), out
    else:
        from contrapose.config import resolve

        config, recipe = resolve(recipe, set_, seed=seed)
        label = Path(recipe).stem if recipe.endswith(".toml") else recipe.replace("/", "-")
        name = f"{label}-{config.objective.name}-{config.seed}-{time.strftime('%m%d-%H%M%S')}"
        folder = out or Path("runs") / name
        if (folder / "config.toml").exists():
            raise ContraposeError(f"--out: {folder} already holds a run: choose another folder, or go on with --resume")
    sys.exit(_train(config, folder, resume))


def _train(config: Config, folder: Path, resume: bool) -> int:
    console = Console()
    with console.status("loading") if console.is_terminal else nullcontext():
        from contrapose.screen import Screen, evaluation_table
        from contrapose.train.loop import train as loop
        from contrapose.train.run import Run

        _quiet()
        run = Run(config, folder, resume=resume)
    screen = Screen(console, config.steps)
    run.on_group = lambda group: screen.on_eval_group(len(run.eval_prompts))
    run.on_eval, run.on_trained = screen.on_eval, screen.on_trained
    for line in run.describe():
        screen.log(line)
    with run, screen:
        screen.started_at(run.step)
        try:
            finished = loop(run, screen.on_step)
        except PoolExhausted:
            kept = run.finish()
            screen.log(f"kept {kept}, after step {run.step}: other settings may start from it, --set model.path={kept}")
            raise
    if not finished:
        screen.log(f"stopped after step {run.step}; go on with: contrapose train --resume --out {folder}")
        return STOPPED
    model = run.finish()
    if run.evaluations:
        first, last = run.evaluations[0], run.evaluations[-1]
        console.print(evaluation_table({f"step {e['step']}": e for e in (first, last)}))
    screen.log(f"run    {folder}\nmodel  {model}")
    return 0


def _saved_config(folder: Path) -> Config:
    from contrapose.config import read_toml
    from contrapose.settings import validate

    tree = read_toml(folder / "config.toml")
    tree.pop("run", None)
    return validate(tree)


def _settings_of(model: str) -> dict[str, dict[str, Any]]:
    """The settings a model was trained with, where it lies in a run folder."""
    from contrapose.config import read_toml

    folder = Path(model)
    for run in (folder, folder.parent, folder.parent.parent):
        if folder.is_dir() and (run / "config.toml").is_file() and (run / "metrics.jsonl").is_file():
            return read_toml(run / "config.toml")
    return {}


@app.command("eval")
def eval_(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, hub name, or abacus.")],
    data: Annotated[str, typer.Option(help="abacus, or a .jsonl or .parquet file.")] = "abacus",
    samples: Annotated[int, typer.Option(min=1, help="Answers to each problem.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 1.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Response limit; what the context leaves, if that is less.")
    ] = 4096,
    template: Annotated[str | None, typer.Option(help="Default: the run's own, else plain or rence.")] = None,
    problem_key: Annotated[str | None, typer.Option(help="Default: the run's own, else problem.")] = None,
    answer_key: Annotated[str | None, typer.Option(help="Default: the run's own, else answer.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems.")] = None,
    dtype: str = "float32",
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for eval.json and rollouts.jsonl.")] = None,
    set_: SetVerify = [],  # noqa: B006
) -> None:
    """Sample answers to a set of problems and report accuracy with its 95 % interval."""
    from contrapose.config import verify_settings
    from contrapose.evaluate.command import evaluate_model
    from contrapose.screen import Screen, evaluation_table
    from contrapose.verify.verifier import Verifier

    _quiet()
    console = Console()
    screen = Screen(console)
    settings = _settings_of(model)
    own = settings.get("data", {})
    verifier = Verifier.configured(verify_settings(settings.get("verify", {}), set_).model_dump(), "binary")
    verifier.start()
    template = template or own.get("template") or ("plain" if data.partition(":")[0] == "abacus" else "rence")
    screen.log(f"model {model}, data {data}, template {template}")
    with screen:
        row = evaluate_model(
            model,
            data,
            template=template,
            keys=(problem_key or own.get("problem_key", "problem"), answer_key or own.get("answer_key", "answer")),
            verifier=verifier,
            limit=limit,
            samples=samples,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            dtype=dtype,
            seed=seed,
            out=out,
            log=screen.log,
            each=screen.on_eval_group,
        )
    console.print(evaluation_table({model: row}))


@app.command()
def verify(
    file: Annotated[str, typer.Argument(help="jsonl with a gold answer and a prediction each; - is stdin.")] = "-",
    gold: Annotated[str, typer.Option(help="The key of the gold answer.")] = "gold",
    prediction: Annotated[str, typer.Option(help="The key of the response, or of the bare answer.")] = "prediction",
    scheme: Annotated[Scheme, typer.Option(help="What verdicts are worth.")] = "binary",
    set_: SetVerify = [],  # noqa: B006
) -> None:
    """Judge answers: a line of status, reward, correct, seconds for each line of input, in order.

    The answer is what is boxed last, or stated ("the answer is"), or the prediction itself. A line that cannot be read
    has an error in place of a verdict, and the exit code is then 2.
    """
    from contrapose.config import verify_settings
    from contrapose.screen import Rows
    from contrapose.verify.command import opened, verify_rows
    from contrapose.verify.verifier import Verifier

    verifier = Verifier.configured(verify_settings({}, set_, answer="stated").model_dump(), scheme)
    lines, total = opened(file)
    # what may block is not closed: a thread may be waiting for its next line
    with nullcontext() if total is None else lines, Rows(total) as rows:
        summary = verify_rows(lines, verifier, (gold, prediction), rows.write)
    for line in summary.lines():
        rows.console.print(line, markup=False, highlight=False, soft_wrap=True)
    if summary.broken:
        raise ContraposeError(f"{file}: {len(summary.broken)} lines could not be read; the first: {summary.broken[0]}")


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
        from contrapose.screen import objectives_table

        Console().print(objectives_table(known))
    elif name in known:
        for line in entry(known[name]).splitlines():  # equations are not broken into lines
            Console().print(line, markup=False, highlight=False, soft_wrap=line.startswith("    "))
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
    from contrapose.screen import doctor_table
    from contrapose.train.run import facts
    from contrapose.verify.verifier import Verifier

    try:
        Verifier().workers.check()
        grader = "grades"
    except ContraposeError as error:
        grader = str(error)
    Console().print(doctor_table(facts(), grader))


@abacus_app.command("build")
def abacus_build(
    out: Annotated[Path, typer.Argument(help="Folder for the model.")],
    seed: int = 0,
    steps: Annotated[int, typer.Option(min=1)] = 800,
) -> None:
    """Train the abacus base model from nothing: a few minutes on two cores."""
    from contrapose.screen import Screen
    from contrapose.train.pretrain import build_abacus

    _quiet()
    screen = Screen(Console())
    build_abacus(
        out,
        seed=seed,
        steps=steps,
        progress=lambda step, loss: screen.log(f"step {step}/{steps}  loss {loss:.3f}") if step % 50 == 0 else None,
    )
    screen.log(f"model  {out}")


def _quiet() -> None:
    """Keep library chatter out of the output."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


if __name__ == "__main__":
    main()
