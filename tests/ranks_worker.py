"""What the processes of ``tests/train/test_ranks.py`` do, alone or as one of several: ``ranks_worker.py WHAT OUT ...``.

Results are written by rank 0, as tensors.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from contrapose.config import resolve
from contrapose.objectives.zoo import objective
from contrapose.policy.logprobs import LogProbs
from contrapose.policy.sharding import shard, whole_weights
from contrapose.rollout.ranks import Ranks
from contrapose.train.collate import collate
from contrapose.train.launch import together
from contrapose.train.loop import train
from contrapose.train.passes import Passes
from contrapose.train.run import Run
from contrapose.train.shards import moments_of
from contrapose.train.update import update
from contrapose.types import ContraposeError
from models import exact, tiny
from train_scripted import ragged

OBJECTIVES = {
    "rence": {"kl_coef": 1.0},
    "conspo": {"tau": 0.5},
    "dapo": {},
    "disco": {"tau": 0.5, "delta": 0.0, "hinge": 2.0},
    "grpo": {"reference_coef": 0.5},
    "gspo": {"clip_low": 0.9, "clip_high": 9.0},
}
"""Group, group, token and step; a reference; a rollout. Trust regions are strong, and theta is away from theta_old."""

STEPS = 5


MODELS = {
    "float64": lambda seed: exact(tiny("qwen3", vocab=20, seed=seed)),
    "float32": lambda seed: tiny("qwen3", vocab=20, seed=seed, tie_word_embeddings=True),
}


def batches(model, is_cap):
    """Five mini-batches, whose old policy and whose reference are other models: ragged, so that no two ranks have as
    many tokens."""
    old, reference = (Passes(LogProbs(model(seed)), 64) for seed in (1, 2))
    return [collate(ragged(seed=seed), old, reference=reference, is_cap=is_cap)[0] for seed in range(STEPS)]


def gradients(ranks: Ranks, out: Path, *ways: str) -> None:
    """The first gradient, and five updates, of every objective, with weights whole in each process or split."""
    found = {}
    for dtype, model_of in MODELS.items():
        given = batches(model_of, 0.9 if dtype == "float64" else 0.0)  # with a weight for each token, and without
        for how in ways:
            for name in OBJECTIVES:
                learned = updates(ranks, how, name, model_of(0), given)
                found |= {f"{how}/{dtype}/{name}/{key}": x for key, x in learned.items()}
    write(ranks, found, out)


def updates(ranks: Ranks, how: str, name: str, model, given):
    """What five updates push, and where they lead."""
    found, built = {}, objective(name, **OBJECTIVES[name])
    logprobs = LogProbs(model, checkpointing=how == "recomputed")
    if how != "whole":
        shard(logprobs, ranks.mesh(2 if how == "hybrid" else ranks.world))
    passes, before = Passes(logprobs, 100, ranks), dict_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for step, minibatch in enumerate(given):

        def look(pushed, step=step):
            found[f"{step}/credit"] = pushed.credit_QKT.clone()
            found[f"{step}/own"] = pushed.own_QKT.clone()
            found[f"{step}/J"] = torch.tensor(pushed.J)
            if step == 0:
                found.update({f"0/gradient/{key}": full(p.grad) for key, p in model.named_parameters()})

        done = update(passes, optimizer, built, minibatch, built.start(), fresh=False, clip=1.0, look=look)
        assert done.fault is None
        found[f"{step}/norm"] = torch.tensor(done.norm)
    return found | {f"moved/{key}": x - before[key] for key, x in dict_of(model).items()}


def full(x):
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).clone()


def dict_of(model):
    return {name: x.clone() for name, x in whole_weights(model)}


def write(ranks, found, out):
    if ranks.leads:
        save_file({k: x.contiguous() for k, x in found.items()}, out)
    ranks.wait()


def state(run: Run):
    moments = {f"moments/{k}": full(x) for k, x in moments_of(run.policy.model, run.policy.optimizer).items()}
    return {**dict_of(run.policy.model), **moments}


def steps(ranks: Ranks, out: Path, folder: str, until: str, *settings: str) -> None:
    """A run from its beginning or its last checkpoint to step ``until``: how it stood at first, and at last."""
    begun = Path(folder, "config.toml").exists()
    common = ["steps=4", "batch.prompts=8", "eval.data=", "diagnose.every=2", "checkpoint.every=1", "checkpoint.keep=9"]
    config, _ = resolve(None, [*common, *settings])
    with Run(config, Path(folder), resume=begun, ranks=ranks) as run:
        first = {f"first/{k}": x for k, x in state(run).items()}

        def stop(row):
            run.stop.requested = run.step + 1 == int(until)

        train(run, stop)
        last = {f"last/{k}": x for k, x in state(run).items()}
    write(ranks, first | last, out)


def fails(ranks: Ranks, out: Path, how: str) -> None:
    """Rank 1 comes to grief while rank 0 waits for it."""
    if ranks.rank == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ContraposeError("the key is wrong") if how == "told" else ValueError("nobody foresaw this")
    ranks.gather(1)


def main() -> None:
    torch.set_num_threads(1)
    what, out, *rest = sys.argv[1:]
    with together() as ranks:
        globals()[what](ranks, Path(out), *rest)


if __name__ == "__main__":
    main()
