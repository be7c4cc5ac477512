"""``contrapose plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrapose.cli.app import app, terminal
from contrapose.cli.training import Set
from contrapose.types import ContraposeError

if TYPE_CHECKING:
    from contrapose.train.planning.job import Job

GIB = 2**30


@app.command()
def plan(
    recipe: Annotated[str | None, typer.Argument(help="A shipped recipe or a .toml file. Default: abacus.")] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many there are, a rank each.")] = 1,
    memory: Annotated[float | None, typer.Option(min=1, help="GiB of each. Default: what --gpu has.")] = None,
    gpu: Annotated[str, typer.Option(help="h100, h200, a100-80, rtx4090 ... Default: by --memory.")] = "",
    length: Annotated[int | None, typer.Option(min=1, help="Tokens of an answer, for the hours. Default: all.")] = None,
    prompt: Annotated[int | None, typer.Option(min=1, help="Tokens of a prompt, for the hours. Default: all.")] = None,
    accepted: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Share of groups trained on. Default: 1, with a band 0.5.")
    ] = None,
    tflops: Annotated[float | None, typer.Option(min=0.001, help="Peak of a device, in place of --gpu's.")] = None,
    bandwidth: Annotated[float | None, typer.Option(min=0.001, help="TB/s, in place of --gpu's.")] = None,
    shape: Annotated[Path | None, typer.Option(help="A config.json with the model's shape.")] = None,
    set_: Set = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="All numbers, as JSON.")] = False,
) -> None:
    """How much memory a run takes on each device, part by part, and about how many hours; nothing is loaded."""
    from contrapose.config import resolve
    from contrapose.train.planning.hours import GPUS, gpu_named
    from contrapose.train.planning.job import Devices, Job
    from contrapose.train.planning.shape import shape_of

    try:
        config, recipe = resolve(recipe, set_)
    except ContraposeError as error:
        if not str(error).startswith("data.path is not set"):
            raise
        config, recipe = resolve(recipe, [*set_, "data.path=unknown"])  # which problems are asked changes nothing here
    name = gpu_named(gpu, memory)
    devices = Devices(gpus, (memory or GPUS[name].memory) * GIB)
    most = config.data.max_prompt_tokens, config.rollout.max_tokens
    made = Job(config, shape_of(config.model.path, shape), devices, *most)
    for option, asked, limit in zip(("--prompt", "--length"), (prompt, length), most, strict=True):
        if asked is not None and asked > limit:
            raise ContraposeError(f"{option}: {asked} is more than the settings allow, {limit}")
    drawn = 1.0 if config.filter.mode == "none" else 0.5
    given = {"tflops": tflops, "bandwidth": bandwidth}
    found = _found(made, name, given, accepted or drawn, prompt, length)
    if as_json:
        print(json.dumps({"recipe": recipe, **found}, indent=1))
        return
    for line in _lines(made, recipe, found):
        terminal().print(line, markup=False, highlight=False, soft_wrap=True)


def _found(
    made: Job, name: str, given: dict[str, float | None], accepted: float, prompt: int | None, length: int | None
) -> dict[str, Any]:
    """All numbers, in GiB and hours."""
    from dataclasses import replace

    from contrapose.train.planning.hours import GPUS, assumptions, rates, work_of
    from contrapose.train.planning.memory import memory_of
    from contrapose.train.planning.mend import mends

    memory, room, steps = memory_of(made), made.devices.memory, made.config.steps
    expected = replace(made, prompt=prompt or made.prompt, length=length or made.length)
    work = work_of(expected, rates(made, GPUS[name], **given), accepted)
    fits = memory.peak <= room
    mend = None if fits else mends(made, room)
    return {
        "model": made.config.model.path,
        "weights": made.shape.weights,
        "gpus": made.devices.count,
        "memory_gib": room / GIB,
        "fits": fits,
        "peak_gib": memory.peak / GIB,
        "phases_gib": {phase: {k: v / GIB for k, v in parts.items()} for phase, parts in memory.phases.items()},
        "host_gib": {k: v / GIB for k, v in memory.host.items()},
        "mend": mend and {"set": mend.sets, "saves_gib": mend.saves / GIB, "costs": mend.costs},
        "tokens_a_step": {"sampled": work.sampled, "trained": work.trained},
        "tokens": {"sampled": steps * work.sampled, "trained": steps * work.trained},
        "hours": {"sampling": steps * work.sampling / 3600, "updates": steps * work.updates / 3600},
        "assumed": assumptions(expected, name, GPUS[name], given, accepted),
    }


def _lines(made: Job, recipe: str, found: dict[str, Any]) -> list[str]:
    """The same for a person."""
    phases, room = found["phases_gib"], found["memory_gib"]
    names = list(dict.fromkeys(name for parts in phases.values() for name in parts))
    width = max(map(len, names))
    lines = [
        f"{recipe}: {found['model']}, {found['weights']:,} weights, on {found['gpus']} x {room:g} GiB",
        "",
        f"{'GiB on each device':{width}}" + "".join(f"{phase:>10}" for phase in phases),
    ]
    for name in names:
        cells = (f"{parts[name]:10.2f}" if name in parts else " " * 10 for parts in phases.values())
        lines.append(f"{name:{width}}" + "".join(cells))
    lines.append(f"{'together':{width}}" + "".join(f"{sum(parts.values()):10.2f}" for parts in phases.values()))
    lines += [f"the host, for each device: {name}, {size:.2f} GiB" for name, size in found["host_gib"].items()]
    lines += ["", *_verdict(found), ""]
    steps, hours, tokens = made.config.steps, found["hours"], found["tokens"]
    a_step = found["tokens_a_step"]
    total = sum(hours.values())
    lines += [
        f"tokens   {a_step['sampled']:,.0f} sampled and {a_step['trained']:,.0f} trained on a step; "
        f"{tokens['sampled']:,.0f} and {tokens['trained']:,.0f} in {steps} steps",
        f"hours    {total:,.1f}: {hours['sampling']:,.1f} sampling, {hours['updates']:,.1f} updates; "
        f"{total * found['gpus']:,.0f} device hours",
        *(f"assumed  {line}" for line in found["assumed"]),
    ]
    return lines


def _verdict(found: dict[str, Any]) -> list[str]:
    over = found["peak_gib"] - found["memory_gib"]
    if found["fits"]:
        return [f"fits: {found['peak_gib']:.1f} of {found['memory_gib']:g} GiB"]
    says = f"does not fit: {found['peak_gib']:.1f} GiB, {over:.1f} too many"
    if not (mend := found["mend"]):
        return [f"{says}; no setting mends that: more devices, shorter answers or a smaller model"]
    sets = " ".join(f"--set {pair}" for pair in mend["set"])
    return [f"{says}; mend: {sets} (saves {mend['saves_gib']:.1f} GiB; {'; '.join(mend['costs'])})"]
