"""``contrapose eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from contrapose.cli.app import SetVerify, app, quiet


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
    from contrapose.cli.screen import Screen
    from contrapose.cli.tables import evaluation_table
    from contrapose.config import verify_settings
    from contrapose.evaluate.command import evaluate_model
    from contrapose.verify.verifier import Verifier

    quiet()
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


def _settings_of(model: str) -> dict[str, dict[str, Any]]:
    """The settings a model was trained with, where it lies in a run folder."""
    from contrapose.config import read_toml

    folder = Path(model)
    for run in (folder, folder.parent, folder.parent.parent):
        if folder.is_dir() and (run / "config.toml").is_file() and (run / "metrics.jsonl").is_file():
            return read_toml(run / "config.toml")
    return {}
