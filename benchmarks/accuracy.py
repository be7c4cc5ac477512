"""How long contrapose and TRL train until they solve the same share of problems: both curves, step for step.

    python benchmarks/accuracy.py                         # 10 seeds of 14 steps on both sides, ten minutes
    python benchmarks/accuracy.py --tiny                  # whether it runs

GRPO from the abacus base model at the settings of speed.py, one thread; TRL takes the rows of an update at once. After
each step 200 validation problems are asked, off the clock. One run passes a goal some steps sooner or later than
another by luck, so the time is that at which the mean over seeds passes it; intervals of ratios are of seeds drawn
again, with both runs of each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import our_side
import torch
import trl_side
from our_side import SHAPES, UPDATES

from contrapose.policy.model import load_model, load_tokenizer
from contrapose.prompts import abacus

OURS, TRL = "contrapose", "TRL"
GOALS, DRAWS = (0.5, 0.6, 0.65, 0.7), 2000

Curve = dict[str, list[float]]
"""Of a run: ``accuracy`` before the first step and after each, and the ``seconds`` until then."""


def curves(seeds: int, steps: int, problems: int, prompts: int) -> dict[str, list[Curve]]:
    """Each side's runs, in turn."""
    found: dict[str, list[Curve]] = {OURS: [], TRL: []}
    for seed in range(seeds):
        config = our_side.settings("abacus", prompts, seed)
        base, tokenizer = (load(str(abacus.BASE_MODEL)) for load in (load_model, load_tokenizer))
        rows, drawn = prompts * config.rollout.k // UPDATES, our_side.drawn(config, steps)
        exam = our_side.exam(config, problems)
        start = exam(base)
        sides = {
            OURS: partial(our_side.train_batches, config, steps),
            TRL: partial(trl_side.train_batches, config, base, tokenizer, drawn, steps, rows),
        }
        for side in sorted(sides, reverse=bool(seed % 2)):
            found[side].append(curve(sides[side], exam, start))
            print(seed, f"{side:<12}", *(f"{a:.3f}" for a in found[side][-1]["accuracy"]), flush=True)
    return found


def curve(train: Callable[..., list[dict[str, float]]], exam: Callable[[Any], float], start: float) -> Curve:
    """A run, examined after each step."""
    accuracy = [start]

    def each(_: int, model: Any) -> bool:
        accuracy.append(exam(model))
        return False

    seconds = accumulate((step["seconds"] for step in train(each=each)), initial=0.0)
    return {"accuracy": accuracy, "seconds": list(seconds)}


def reached(runs: Sequence[Curve], goal: float) -> float:
    """Seconds at which the mean of the runs passes ``goal``, straight between steps; infinite where it does not."""
    accuracy, clock = ([fmean(at) for at in zip(*(run[key] for run in runs), strict=True)] for key in runs[0])
    for i in range(1, len(accuracy)):
        if accuracy[i] >= goal > accuracy[i - 1]:
            share = (goal - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
            return clock[i - 1] + share * (clock[i] - clock[i - 1])
    return float("inf")


def times_as_soon(found: dict[str, list[Curve]], goal: float) -> tuple[float, float, float]:
    """How many times as soon contrapose passes ``goal``, and a 95 % interval."""
    rng, seeds = random.Random(0), range(len(found[OURS]))

    def ratio(chosen: Sequence[int]) -> float:
        theirs, ours = (reached([found[side][i] for i in chosen], goal) for side in (TRL, OURS))
        return theirs / ours if ours < float("inf") else float("nan")

    drawn = sorted(ratio(rng.choices(seeds, k=len(seeds))) for _ in range(DRAWS))
    return ratio(seeds), drawn[DRAWS // 40], drawn[-DRAWS // 40]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, help="a file for the curves, as JSON")
    asked = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    torch.set_num_threads(1)
    sizes = (2, 2, 8, SHAPES["tiny"].prompts) if asked.tiny else (asked.seeds, asked.steps, 200, SHAPES["A"].prompts)
    found = curves(*sizes)
    for side, runs in found.items():
        means = (fmean(at) for at in zip(*(run["accuracy"] for run in runs), strict=True))
        a_step = fmean(run["seconds"][-1] for run in runs) / sizes[1]
        print(f"{side:<14}", *(f"{a:.3f}" for a in means), f"in mean, {a_step:.3f} s a step")
    for goal in GOALS:
        seconds = ", ".join(f"{reached(runs, goal):.2f} s" for runs in found.values())
        print(f"{goal:.0%}: {seconds};", "{:.2f} times as soon, {:.2f} to {:.2f}".format(*times_as_soon(found, goal)))
    if asked.out:
        asked.out.write_text(json.dumps(found) + "\n")
