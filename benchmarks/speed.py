"""How fast contrapose is beside what people use: TRL's GRPOTrainer with transformers' ``generate``, on this machine.

    python benchmarks/speed.py FOLDER                     # three models on 1 and 2 threads; FOLDER keeps the models
    python benchmarks/speed.py FOLDER --shapes A --threads 1 --only rollouts,step --rounds 3
    python benchmarks/speed.py FOLDER --tiny              # whether it runs

A is the abacus base model, B has 1 M parameters, C 12 M; B and C learn abacus's habits first, once. All sides have the
same weights, prompts and settings (GRPO, 8 rollouts of up to 48 tokens a prompt, 4 updates a step, float32) and take
turns, round by round, in a process for each model and number of threads that has as many processors, contrapose's
graders included; TRL's reward is a comparison of texts, and its micro-batch the fastest of three. Medians are shown,
and how many times as fast as ``generate`` or TRL that is, in the median round and from the worst to the best. Updates
are what is not sampling or judging. Without TRL there are only contrapose and ``generate``; memory needs Linux.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import our_side
import torch
from our_side import LIMIT, NEVER, SHAPES, UPDATES, WIDE, K, Shape

from contrapose.cli import SPIN_COUNT
from contrapose.policy.model import load_model, load_tokenizer
from contrapose.prompts import abacus
from contrapose.train.facts import facts

OURS, DIAGNOSED, GENERATE, TRL, LEAN = (
    *("contrapose", "contrapose, diagnose.every=1", "generate", "TRL", "TRL, layers recomputed"),
)
PEERS = (GENERATE, TRL)
HAS_TRL = all(find_spec(name) for name in ("trl", "datasets"))
FIXED = f"rollouts of {LIMIT} tokens, tokens/s"
MORE_IS_BETTER = ("rollouts, tokens/s", "rollouts, 4x the prompts, tokens/s", FIXED)

Side = tuple[str, Callable[[int], dict[str, float]]]
"""A name, and a function of the round: values by measure."""


def rollout_sides(path: str, shape: Shape) -> Iterator[Side]:
    """Sampling alone: to the answers' own ends, of four times as many prompts, and to the limit."""
    prompts = our_side.asked(path, 4 * shape.prompts)
    asked = zip(MORE_IS_BETTER, (shape.prompts, 4 * shape.prompts, shape.prompts), strict=True)

    def named(measure: str, f: Callable[[int], float]) -> Callable[[int], dict[str, float]]:
        return lambda seed: {measure: f(seed)}

    for measure, count in asked:
        to_the_limit = measure == FIXED
        ours = our_side.sampler(path, prompts[:count], NEVER if to_the_limit else None)
        yield OURS, named(measure, ours)
        yield GENERATE, named(measure, our_side.generator(path, prompts[:count], ends=not to_the_limit))


def step_sides(path: str, shape: Shape, rows: int) -> Iterator[Side]:
    """Whole steps from the first weights on; a step that is not timed goes before."""
    batches = 1 + shape.batches

    def ours(seed: int, *more: str) -> dict[str, float]:
        config = our_side.settings(path, shape.prompts, seed, *more)
        return a_step(our_side.train_batches(config, batches)[1:], shape)

    yield OURS, ours
    yield DIAGNOSED, lambda seed: ours(seed, "diagnose.every=1")
    if rows:
        yield TRL, lambda seed: a_step(their_batches(path, shape, seed, batches, rows)[1:], shape)


def their_batches(path: str, shape: Shape, seed: int, batches: int, rows: int) -> list[dict[str, float]]:
    """TRL's steps on the prompts that contrapose draws with that seed."""
    import trl_side

    config = our_side.settings(path, shape.prompts, seed)
    prompts = our_side.drawn(config, batches)
    return trl_side.train_batches(config, load_model(path), load_tokenizer(path), prompts, batches, rows)


def a_step(batches: Sequence[dict[str, float]], shape: Shape) -> dict[str, float]:
    """The measures of some steps."""
    total = {key: sum(batch[key] for batch in batches) for key in batches[0]}
    return {
        "step, s": total["seconds"] / len(batches),
        "sampling within it, s": total["generate"] / len(batches),
        "update, us/token": 1e6 * total["update"] / total["tokens"],
        "tokens a rollout": total["tokens"] / len(batches) / shape.rollouts,
    }


def rounds(name: str, folder: Path, count: int, parts: Sequence[str]) -> dict[str, Any]:
    """Every side's values, in turn, ``count`` times; every other round in the opposite order."""
    shape, path = SHAPES[name], our_side.model_folder(name, folder)
    head_and_layers = [m for m in load_model(path).modules() if isinstance(m, torch.nn.Linear)]
    timed = list(rollout_sides(path, shape)) if "rollouts" in parts else []
    for _, warm_up in timed:
        warm_up(0)
    tried = {}
    if "step" in parts:
        a_part = shape.rollouts // UPDATES
        for rows in (a_part // 4, a_part // 2, a_part) if HAS_TRL else ():
            tried[rows] = their_batches(path, shape, 0, 2, rows)[-1]["seconds"]
        timed += step_sides(path, shape, min(tried, key=tried.__getitem__) if tried else 0)
    values: dict[str, dict[str, list[float]]] = {}
    rates = []
    for number in range(1, count + 1):
        rates.append(our_side.matrix_rate())
        for side, f in timed if number % 2 else timed[::-1]:
            gc.collect()  # what the side before left behind
            for measure, value in f(number).items():
                values.setdefault(measure, {}).setdefault(side, []).append(value)
    return {
        "flops_a_token": 2 * sum(m.weight.numel() for m in head_and_layers),
        "matrix_flops": rates,
        "trl_seconds_by_rows": tried,
        "medians": {m: {side: statistics.median(v) for side, v in sides.items()} for m, sides in values.items()},
        "values": values,
    }


def memory(side: str, tiny: bool) -> dict[str, Any]:
    """Bytes that the updates of a step take at their peak, beyond what is held before it.

    A step of shorter answers goes before, so that the optimizer's state is there.
    """
    shape, prompt, answer, rows = (SHAPES["tiny"], 8, 8, 8) if tiny else (WIDE, 8, 128, 16)
    more = [f"rollout.max_tokens={answer}", f"batch.max_tokens={rows * (prompt + answer)}", "batch.updates=2"]
    config = our_side.settings("abacus", 2 * rows // K, 0, *more)
    steps = [our_side.made_up(shape.vocabulary, prompt, length, 2 * rows) for length in (4, answer)]
    marks: list[int] = []

    def mark() -> None:
        marks.append(held("VmRSS" if not marks else "VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew

    if side == OURS:
        updates = our_side.update_on(config, our_side.built(shape))
        for asked, answers in steps:
            updates(asked, answers, 2)
            mark()
    else:
        import trl_side

        made = our_side.built(shape), abacus.tokenizer()
        trl_side.told_batches(config, *made, steps, rows, mark, gradient_checkpointing=side == LEAN)
    return {"bytes": marks[1] - marks[0]}


def held(what: str) -> int:
    """Bytes of this process, now or at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what)))


def child(asked: argparse.Namespace, threads: int, *part: str, **environment: str) -> Any:
    """What a process of its own finds, on as many processors as threads."""
    own = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    own |= {"GOMP_SPINCOUNT": SPIN_COUNT}  # as the command line has it; TRL is as fast with it as without
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, str(asked.folder), "--threads", str(threads), "--rounds", str(asked.rounds)]
    command += ["--only", asked.only, *(["--tiny"] if asked.tiny else []), "--part", *part]
    whole = {**os.environ, **own, **quiet, **environment}
    done = subprocess.run(command, env=whole, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_part(asked: argparse.Namespace) -> Any:
    """What ``child`` asked of this process."""
    [threads], (part, *of) = asked.threads, asked.part
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    torch.set_num_threads(threads)
    if part == "rounds":
        return rounds(of[0], asked.folder, asked.rounds, asked.only.split(","))
    return memory(of[0], asked.tiny)


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = info.read_text().splitlines()
        cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), cpu)
    known = facts() | ({"trl": version("trl")} if HAS_TRL else {})
    return {"cpu": cpu, "processors": os.cpu_count(), **{k: v for k, v in known.items() if k != "threads"}}


def shown(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The rows of a model's table: measure, side, median, and how many times as fast as the peer, round by round."""
    for measure, sides in found["values"].items():
        peer = next((sides[name] for name in PEERS if name in sides), None)
        for side, values in sides.items():
            median = found["medians"][measure][side]
            text = f"{measure:<38}{side:<30}{shown(median):>10}"
            if peer and side not in PEERS and measure != "tokens a rollout":
                pairs = zip(values, peer, strict=True)
                times = sorted(a / b if measure in MORE_IS_BETTER else b / a for a, b in pairs)
                text += f"{statistics.median(times):>10.2f} x  ({times[0]:.2f} to {times[-1]:.2f})"
            if measure == FIXED:
                share = median * found["flops_a_token"] / max(found["matrix_flops"])
                text += f"  {share:.1%} of the matrix rate"
            yield text


def show(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, print it as it comes, and return the raw numbers."""
    about, parts = machine(), asked.only.split(",")
    for name in asked.shapes:
        our_side.model_folder(name, asked.folder)
    out: dict[str, Any] = {"machine": about, "models": []}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if not HAS_TRL:
        print("trl and datasets are not installed: contrapose and generate alone")
    for threads in asked.threads if {"rollouts", "step"} & set(parts) else ():
        for name in asked.shapes:
            found = child(asked, threads, "rounds", name)
            out["models"].append({"model": name, "threads": threads, **found})
            rate, weights = max(found["matrix_flops"]) / 1e9, found["flops_a_token"] // 2
            tried = ", ".join(f"{rows}: {shown(s)} s" for rows, s in found["trl_seconds_by_rows"].items())
            print(f"\n{name} on {threads} thread(s), {weights:,} weights in matrices, which go at {rate:.0f} GFLOP/s")
            print(f"a step of TRL by rows at once: {tried or '-'}")
            print(*lines(found), sep="\n", flush=True)
    if "memory" in parts:
        sides = (OURS, *((LEAN, TRL) if HAS_TRL else ()))
        exact = {"MALLOC_MMAP_THRESHOLD_": "131072"}  # what is freed goes back at once
        out["memory"] = {side: child(asked, asked.threads[0], "memory", side, **exact)["bytes"] for side in sides}
        size = (SHAPES["tiny"] if asked.tiny else WIDE).vocabulary
        print(f"\npeak memory of updates, {size:,} tokens in the vocabulary, MiB")
        print(*(f"{side:<68}{shown(size / 2**20):>10}" for side, size in out["memory"].items()), sep="\n", flush=True)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="keeps the models of B and C")
    parser.add_argument("--shapes", nargs="+", choices=["A", "B", "C"], default=["A", "B", "C"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="rollouts,step,memory", help="some of these, with commas between")
    parser.add_argument("--tiny", action="store_true", help="one small model, one round")
    parser.add_argument("--out", type=Path, help="a file for the raw numbers, as JSON")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(run_part(asked)))
        sys.exit()
    if asked.tiny:
        asked.shapes, asked.threads, asked.rounds = ["tiny"], [1], 1
    measured = show(asked)
    if asked.out:
        asked.out.write_text(json.dumps(measured, indent=1) + "\n")
