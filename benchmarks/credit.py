"""What the credit costs: time beside a plain masked sum and beside an optimizer step, and memory beyond its result.

    python benchmarks/credit.py             # Q 32, K 8, T 1024, float32, every objective at its defaults
    python benchmarks/credit.py --memory    # Q 128, K 8, T 8192: peak of a process of its own for each

The optimizer step is abacus's (8 groups of 8 rollouts of up to 64 tokens through its base model), ReNCE's with its
first pass. Everything is timed in turn, round by round, on one thread, and the medians are shown; times are of the
process (CPU), so that other work on the machine shows less.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import contrapose
from contrapose.config import resolve
from contrapose.objectives.credit import CHUNK_ELEMENTS
from contrapose.rollout.sampler import seed_of
from contrapose.train.collate import collate
from contrapose.train.collect import collect
from contrapose.train.run import Run
from contrapose.train.update import update

ROUNDS = 30


def tensors(Q: int, K: int, T: int) -> dict[str, torch.Tensor]:
    """Ragged rollouts, four in ten right, a policy a little away from the old one."""
    g = torch.Generator().manual_seed(0)
    old_logp = -torch.rand(Q, K, T, generator=g)
    length = torch.randint(T // 16, T + 1, (Q, K, 1), generator=g)
    return {
        "logp_QKT": old_logp + 0.05 * torch.randn(Q, K, T, generator=g),
        "old_logp": old_logp,
        "mask": (torch.arange(T) < length).float(),
        "reward": (torch.rand(Q, K, generator=g) < 0.4).float(),
    }


def built(name: str, T: int) -> contrapose.Objective:
    """An objective at its defaults; a constant length is the response limit, as in a run."""
    return contrapose.objective(name, **dict.fromkeys(contrapose.objectives()[name].required, T))


def optimizer_step(run: Run) -> Callable[[], object]:
    """An update of abacus's size, ready to be taken again and again."""
    config = run.config
    run.sync(run.updates)
    drawn = collect(
        run.pool,
        run.engine,
        run.verifier,
        wanted=8,
        k=config.rollout.k,
        seed=seed_of(0, "rollouts"),
        version=run.updates,
        sampling=run.sampling,
        refill=True,
        max_rounds=config.filter.max_rounds,
    )
    policy = run.policy
    batch, _ = collate(drawn.accepted, policy.passes)
    return lambda: update(policy.passes, policy.optimizer, run.objective, batch, run.now, fresh=False, clip=1.0)


def times() -> None:
    """A line for each objective."""
    torch.set_num_threads(1)
    step = tensors(32, 8, 1024)
    with tempfile.TemporaryDirectory() as folder, Run(resolve("abacus")[0], Path(folder) / "run") as run:
        timed: dict[str, Callable[[], object]] = {
            "masked sum": lambda: (step["mask"] * step["logp_QKT"]).sum(-1),
            "optimizer step": optimizer_step(run),
        }
        for name in contrapose.objectives():
            objective = built(name, 1024)
            timed[name] = lambda objective=objective: contrapose.credit(objective, **step)
        small, rence = tensors(8, 8, 64), built("rence", 64)
        timed["rence 8x8x64"] = lambda: contrapose.credit(rence, **small)  # as many as the optimizer step has
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(ROUNDS):
            for name, f in timed.items():
                start = time.process_time()
                f()
                seconds[name].append(time.process_time() - start)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    print(f"torch {torch.__version__}, one thread, median CPU time of {ROUNDS}")
    print(f"{'':<14}      ms  x masked sum  % of an optimizer step")
    for name, t in median.items():
        beside = t / median["masked sum"], 100 * t / median["optimizer step"]
        print(f"{name:<14}{1e3 * t:8.2f}{beside[0]:14.1f}{beside[1]:24.2f}")


def peak(name: str) -> None:
    """Peak memory of one credit beyond its inputs, in units of one ``[Q, K, T]`` tensor."""
    step, objective = tensors(128, 8, 8192), built(name, 8192)
    contrapose.credit(objective, **{key: x[:1] for key, x in step.items()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    contrapose.credit(objective, **step)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    one = 4 * step["mask"].numel()
    print(f"{name:<14}{grown / one:8.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", choices=list(contrapose.objectives()), help="of one objective, in this process")
    asked = parser.parse_args()
    if asked.peak:
        peak(asked.peak)
    elif asked.memory:
        chunks = 128 * 8 * 8192 / CHUNK_ELEMENTS
        print(
            f"peak beyond the inputs, in tensors of 33.6 MB (the result is one of them; {chunks:.0f} chunks)",
            flush=True,
        )
        for name in contrapose.objectives():
            subprocess.run([sys.executable, __file__, "--peak", name], check=True)
    else:
        times()
