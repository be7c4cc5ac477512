"""``contrapose eval``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrapose.cli.app import SetVerify, app, check_out, plain, quiet, terminal
from contrapose.cli.training import STOPPED
from contrapose.types import ContraposeError, flat

if TYPE_CHECKING:
    from contrapose.evaluate.exam import Exam, Request
    from contrapose.evaluate.protocols import Protocol

Settings = Mapping[str, Mapping[str, Any]]
SHOWN = 3
SHOWN_NAME = 100


@app.command("eval")
def eval_(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, run folder, hub name, or abacus.")] = "",
    data: Annotated[
        list[str],
        typer.Option(help="abacus, a benchmark's name, a file, hub:ORG/NAME, gym:TASK. Repeatable. Default: abacus."),
    ] = [],  # noqa: B006
    protocol: Annotated[
        str | None, typer.Option(help="As a paper did, rence or conspo; what is given besides counts more.")
    ] = None,
    data_dir: Annotated[
        str, typer.Option(envvar="CONTRAPOSE_DATA_DIR", help="Folder with the files of benchmarks.")
    ] = "",
    samples: Annotated[int | None, typer.Option(min=1, max=1024, help="Answers to each problem. Default: 4.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=100, help="0 is greedy. Default: 0.7.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.01, max=1, help="Nucleus sampling. Default: 1.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Response limit; what the context leaves, if less. Default: 4096.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Default: the run's own, else plain or rence.")] = None,
    thinking: Annotated[
        bool | None, typer.Option(help="Whether a chat template lets the model think. Default: as in its run, else no.")
    ] = None,
    problem_key: Annotated[str | None, typer.Option(help="Default: the run's own, else problem.")] = None,
    answer_key: Annotated[str | None, typer.Option(help="Default: the run's own, else answer.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems of each data set.")] = None,
    dtype: str = "float32",
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for eval.json, rollouts.jsonl and settings.json.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the evaluation in --out.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Compare the --out folders of two evaluations.")
    ] = None,
    set_: SetVerify = [],  # noqa: B006
) -> None:
    """Sample answers to problems and report how many are right, with 95 % intervals; or compare two such reports."""
    if compare:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        if any(source and source.name == "COMMANDLINE" for name, source in sources.items() if name != "compare"):
            raise ContraposeError("--compare: give the folders of two evaluations and nothing else")
        _compare(*compare)
        return
    if not model:
        raise ContraposeError("MODEL is missing: a model or run folder, a hub name, or abacus")
    if resume and out is None:
        raise ContraposeError("--resume: say with --out where the evaluation is")
    if out is not None:
        check_out(out)

    from contrapose.cli.screen import Screen
    from contrapose.cli.tables import benchmarks_table, evaluation_table
    from contrapose.evaluate.command import evaluate_model
    from contrapose.evaluate.exam import Request
    from contrapose.evaluate.protocols import full_name
    from contrapose.evaluate.protocols import protocol as named

    quiet()
    console = terminal()
    screen = Screen(console)
    paper = named(protocol)
    chosen: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "template": template,
    }
    asked = replace(paper, **{key: value for key, value in chosen.items() if value is not None})
    run, settings = _run_of(model)
    own = settings.get("data", {})
    keys = problem_key or "", answer_key or ""
    exams = tuple(_exam(full_name(spec), asked, samples, keys, settings, set_) for spec in data or asked.data)
    for exam in exams:
        exam.verifier.start()
    other = None if {samples} == set(paper.data.values()) else samples
    request = Request(
        model,
        exams,
        temperature=asked.temperature,
        top_p=asked.top_p,
        max_tokens=asked.max_tokens,
        thinking=own.get("thinking", False) if thinking is None else thinking,
        limit=limit,
        folder=data_dir or own.get("dir", ""),
        dtype=dtype,
        seed=seed,
    )
    told = {
        **chosen,
        "samples": other,
        "limit": limit,
        "thinking": request.thinking or None,
        "dtype": None if dtype == "float32" else dtype,
        "problem_key": problem_key,
        "answer_key": answer_key,
        "set": ", ".join(set_) or None,
        "data": data or None,
    }
    if run:
        screen.log(f"run      {run}: template, thinking, columns and [verify] are its own, where nothing else is said")
    for line in _description(request, paper, told, settings.get("verify", {})):
        screen.log(line)
    try:
        with screen:
            rows = evaluate_model(
                request,
                out=out,
                resume=resume,
                log=screen.log,
                each=screen.on_eval_group,
                finished=lambda row: screen.log(_line(row)),
            )
    except KeyboardInterrupt:
        if out is None:
            raise
        screen.log("stopped; the same command with --resume goes on")
        sys.exit(STOPPED)
    console.print(evaluation_table({model: rows[0]}) if len(rows) == 1 else benchmarks_table(rows))
    if few := _few({row["data"]: row["problems"] for row in rows}):
        screen.log(few)


def _exam(
    spec: str,
    asked: Protocol,
    samples: int | None,
    keys: tuple[str, str],
    settings: Settings,
    set_: list[str],
) -> Exam:
    """A data set as it is asked and judged: as in the run that the model is from, and under ``--set``."""
    from contrapose.config import verify_settings
    from contrapose.evaluate.exam import Exam
    from contrapose.evaluate.protocols import has_own_columns, verify_of
    from contrapose.verify.verifier import Verifier

    own = settings.get("data", {})
    template = asked.template or own.get("template") or ("plain" if spec.partition(":")[0] == "abacus" else "rence")
    if not has_own_columns(spec):
        keys = keys[0] or own.get("problem_key", ""), keys[1] or own.get("answer_key", "")
    verify = verify_settings(verify_of(spec, settings.get("verify", {})), set_).model_dump()
    strict = settings.get("reward", {}).get("truncated") == "wrong"
    verifier = Verifier.configured(verify, "binary", truncated_is_wrong=strict)
    return Exam(spec, samples or asked.samples_of(spec), template, keys, verifier)


def _description(request: Request, paper: Protocol, given: Mapping[str, Any], verify: Mapping[str, Any]) -> list[str]:
    """What is about to be asked, for a person; what of it is not as in the paper; what data sets change of ``verify``,
    the settings of the model's run."""
    from contrapose.config import verify_settings
    from contrapose.evaluate.protocols import verify_of

    lines = [
        f"model    {request.model}",
        f"asked    temperature {request.temperature:g}, top-p {request.top_p:g}, {request.max_tokens} tokens at most",
    ]
    if paper.name:
        changed = [key for key, value in given.items() if value is not None and value != getattr(paper, key, None)]
        told = [f"{key} {given[key]}" for key in changed if key != "data"] + ["its data sets"] * ("data" in changed)
        lines.append(f"protocol {paper.name}" + (f", but for {', '.join(told)}" if told else ""))
        lines += [f"note     {note}" for note in paper.notes]
    own = _dotted(verify_settings(verify).model_dump())
    for exam in request.exams:
        lines.append(f"data     {exam.data} x {exam.samples}, template {exam.template}")
        brought = [setting for setting in _dotted(verify_of(exam.data, verify)) if setting not in own]
        lines += [f"note     {exam.data}: verify.{setting}, unless --set says otherwise" for setting in brought]
    if any(exam.verifier.truncated_is_wrong for exam in request.exams):
        lines.append("note     a cut-off answer is wrong, as in the run (reward.truncated)")
    return lines


def _line(row: Mapping[str, Any]) -> str:
    """An evaluation in a line."""
    from contrapose.evaluate.statistics import Estimate

    about = f"{row['problems']} problems x {row['samples']} samples"
    return f"{row['data']}: accuracy {Estimate(**row['accuracy'])} on {about}"


def _dotted(tree: Mapping[str, Any]) -> list[str]:
    """The leaves of a tree as ``outer.inner = value``."""
    return [f"{key} = {value}" for key, value in flat(tree).items()]


def _compare(first: Path, second: Path) -> None:
    from contrapose.cli.tables import comparison_table
    from contrapose.evaluate.compare import compare

    console = terminal()
    names = first.resolve().name, second.resolve().name
    if names[0] == names[1]:
        names = str(first), str(second)
    found = compare(first, second)
    console.print(comparison_table(found.sets, names))
    lines = [f"{one.data}: {one.sentence(names)}" for one in found.sets]
    lines += [f"note: {one} in {names[0]} is {other} in {names[1]}" for one, other in found.renamed]
    lines += [
        f"note: {len(alone)} problems only in {name}: {_some(alone)}"
        for name, alone in zip(names, found.alone, strict=True)
        if alone
    ]
    if found.other_golds:
        some = _some(found.other_golds)
        lines.append(f"note: {len(found.other_golds)} problems are left out, their gold answers differ: {some}")
    lines += [f"note: {key} differs: {one} in {names[0]}, {other} in {names[1]}" for key, one, other in found.settings]
    if few := _few({one.data: one.problems for one in found.sets}):
        lines.append(few)
    for line in lines:
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def _some(prompts: Sequence[str]) -> str:
    return ", ".join(prompts[:SHOWN]) + (" ..." if len(prompts) > SHOWN else "")


def _few(problems: Mapping[str, int]) -> str:
    """What to make of intervals of few problems, where there are such data sets."""
    from contrapose.evaluate.statistics import FEW

    few = [data for data, number in problems.items() if number < FEW]
    return f"note: fewer than {FEW} problems, read the interval as 90 % or less: {', '.join(few)}" if few else ""


def _run_of(model: str) -> tuple[Path | None, Settings]:
    """The run folder that a model lies in, however deep, and its settings; None where it lies in none."""
    from contrapose.config import saved

    try:
        folder = Path(model).resolve()
        there = folder.is_dir()
    except (OSError, ValueError) as error:  # no name that a folder can have
        fault = f"{model[:SHOWN_NAME]} cannot be read: {getattr(error, 'strerror', error)}"
        raise ContraposeError(f"MODEL: {fault}: give a folder or a hub name") from None
    for run in (folder, *folder.parents) if there else ():
        if (run / "config.toml").is_file() and (run / "metrics.jsonl").is_file():
            return run, saved(run, "data", "reward", "verify").model_dump()
    return None, {}
