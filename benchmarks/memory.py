"""How near ``contrapose plan`` comes to the memory that a run takes: three architectures, on a CPU, part by part.

    python benchmarks/memory.py               # minutes on two cores; needs Linux
    python benchmarks/memory.py --out FILE    # and all numbers, as JSON

A run of each model, with and without ``model.gradient_checkpointing``, trains in a process of its own: two steps of two
updates each, from random weights, which hardly ever end an answer before the limit. Measured is the peak of the
process's resident memory less what it was right before the weights were loaded: after a step on abacus, so that
everything is imported, and with the graders running. For each phase (sampling, an update) the kernel's mark of the peak
begins anew. What can be counted is counted as well: tensors by their bytes, and, once the run is over, what autograd
keeps of one more pass over the largest micro-batch (not where layers are computed again, whose inputs torch keeps
elsewhere).

On a CPU a run asks the C library to keep memory that it freed (``policy/native.py``), for speed; how much of it lies
idle at the peak hangs on the order in which pieces came and went, and a plan can only assume it. Here it goes back at
once, and what is assumed does not count; ``--keeps`` measures and counts with it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speed import held

from contrapose.config import resolve
from contrapose.train.planning.job import Devices, Job
from contrapose.train.planning.memory import Memory, memory_of
from contrapose.train.planning.shape import shape_of

MIB = 2**20
FREES = "MALLOC_MMAP_THRESHOLD_"
"""With this set memory that is freed goes back at once."""

PROMPTS = 24
"""Problems, of ``PROMPT`` words each."""

PROMPT = 16

MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {
        "vocab_size": 16_000,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "vocab_size": 8_000,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "tie_word_embeddings": False,
    },
    "llama": {
        "vocab_size": 32_000,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "tie_word_embeddings": False,
    },
}
LENGTHS = {"qwen2": 112, "qwen3": 240, "llama": 240}
"""Tokens of an answer: rows of up to 128 tokens have an attention of our own."""


def settings(family: str, recompute: bool, folder: Path) -> list[str]:
    """What the run of a family is set to. Half of the answers are called right: by how they are spelled."""
    values = {
        "model.path": folder / family,
        "model.gradient_checkpointing": str(recompute).lower(),
        "objective.name": "rence",
        "data.path": folder / "problems.jsonl",
        "data.template": "plain",
        "data.max_prompt_tokens": PROMPT,
        "verify.domain": "operator:lt",
        "reward.scheme": "binary",
        "filter.mode": "none",
        "rollout.max_tokens": LENGTHS[family],
        "batch.prompts": 2,
        "batch.updates": 2,
        "batch.max_tokens": 1024,
        "steps": 2,
        "checkpoint.every": 0,
    }
    return [f"{key}={value}" for key, value in values.items()]


def build(family: str, folder: Path) -> None:
    """A model with random weights and a tokenizer of as many words, as a folder, and the problems."""
    import torch
    from gpu_shapes import words
    from transformers import AutoConfig, AutoModelForCausalLM

    from contrapose.policy.model import save_model

    torch.manual_seed(0)
    ends = {"eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None, "max_position_embeddings": 1024}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **MODELS[family], **ends))
    save_model(model, words(MODELS[family]["vocab_size"]), folder / family)
    rng = random.Random(0)
    texts = [" ".join(f"t{rng.randint(1, 999)}" for _ in range(PROMPT)) for _ in range(PROMPTS)]
    rows = [json.dumps({"problem": text, "answer": "t5"}) for text in texts]
    (folder / "problems.jsonl").write_text("\n".join(rows) + "\n")


def planned(options: list[str], length: int) -> Memory:
    """What ``contrapose plan`` says of a run on one CPU."""
    config, _ = resolve(None, options)
    here = Devices(1, 2**40, gpu=False)
    return memory_of(Job(config, shape_of(config.model.path), here, config.data.max_prompt_tokens, length))


class Watch:
    """Peaks of the phases of a run that happens in this process, above what there was before its weights."""

    def __init__(self) -> None:
        self.before, self.peaks = 0, {"loading": 0}

    def load(self, load_model: Callable[..., Any]) -> Callable[..., Any]:
        """Note what there is before the weights are."""

        def noted(*args: Any, **options: Any) -> Any:
            self.before = self.before or held("VmRSS")
            return self.during("loading", load_model)(*args, **options)

        return noted

    def during(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Note the peak of ``work``."""

        def noted(*args: Any, **options: Any) -> Any:
            Path("/proc/self/clear_refs").write_text("5")
            try:
                return work(*args, **options)
            finally:
                self.peaks[phase] = max(self.peaks.get(phase, 0), held("VmHWM") - self.before)

        return noted


def run(options: list[str], out: Path) -> dict[str, Any]:
    """Train in this process, and return the peak of each phase and the bytes of what can be counted."""
    import contrapose.train.run as parts
    from contrapose.train import loop, trainee

    if FREES in os.environ:
        parts.keep_freed_memory = lambda: None
    warm_up(config := resolve(None, options)[0], out)
    watch, seen = Watch(), dict[str, Any]()
    trainee.load_model = watch.load(trainee.load_model)
    loop._collect, update = watch.during("sampling", loop._collect), watch.during("update", loop._one_update)

    def one_update(run: Any, step: int, work: Any, minibatch: Any, *rest: Any) -> None:
        seen.update(run=run, minibatch=minibatch)
        update(run, step, work, minibatch, *rest)

    loop._one_update = one_update
    parts.Run.finish = watch.during("saving", parts.Run.finish)
    made = parts.Run(config, out)
    with made:
        loop.train(made)
        made.finish()
    return {"peaks": watch.peaks, "parts": counted(seen["run"], seen["minibatch"])}


def warm_up(config: Any, out: Path) -> None:
    """A step on abacus, so that all is imported and at hand, and whatever it leaves is given back."""
    from contrapose.train import loop
    from contrapose.train.run import Run

    recompute = str(config.model.gradient_checkpointing).lower()
    small, _ = resolve("abacus", ["steps=1", "eval.data=", f"model.gradient_checkpointing={recompute}"])
    with Run(small, out.with_name("abacus")) as made:
        loop.train(made)
    del made
    gc.collect()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def counted(run: Any, minibatch: Any) -> dict[str, int]:
    """Bytes of tensors that a run holds, and of what autograd keeps of the largest micro-batch."""
    weights, moments = list(run.policy.model.parameters()), run.policy.optimizer.state.values()
    past = run.engine._idle[1]._past
    found = {
        "weights": sum(p.nbytes for p in weights),
        "moments": sum(x.nbytes for state in moments for x in state.values()),
        "keys and values": sum(x.nbytes for layer in past.layers for x in layer) if past else 0,
    }
    if not run.config.model.gradient_checkpointing:
        largest = max(run.policy.passes.deal(minibatch.rows), key=len)
        found["activations"] = kept(run, [minibatch.rows[i] for i in largest])
    return found


def kept(run: Any, rows: Any) -> int:
    """Bytes that autograd keeps of a pass over ``rows``, parameters aside."""
    import torch

    sizes: dict[int, int] = {}
    alive = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        alive.append(x.detach())
        sizes[storage.data_ptr()] = storage.nbytes()
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        states = run.policy.passes.logprobs.states(rows)
    own = {p.untyped_storage().data_ptr() for p in run.policy.model.parameters()}
    return sum(size for at, size in sizes.items() if at not in own) + states.state_ME.nbytes


def measured(family: str, recompute: bool, folder: Path, *, keeps: bool = False) -> dict[str, Any]:
    """What a run in a process of its own takes, which ``keeps`` memory that it freed, as any run does, or not."""
    if not (folder / family).exists():
        build(family, folder)
    options = settings(family, recompute, folder)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, __file__, "--run", f"{out}/run", *options]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        environment |= {} if keeps else {FREES: "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    plan = planned(options, LENGTHS[family])
    counts = {
        phase: {name: size for name, size in parts.items() if keeps or not name.endswith("(assumed)")}
        for phase, parts in plan.phases.items()
    }
    return {**found, "planned": counts}


def show(title: str, found: Mapping[str, Any]) -> None:
    """Estimate against measurement, by phase and by part."""
    print(f"\n{title}\n{'':<42}{'planned':>10}{'measured':>10}  MiB")
    phases: Mapping[str, Mapping[str, float]] = found["planned"]
    for phase, parts in phases.items():
        whole, peak = sum(parts.values()), found["peaks"][phase]
        print(f"{phase:<42}{whole / MIB:10.0f}{peak / MIB:10.0f}  {whole / peak - 1:+.1%}")
        for name, size in parts.items():
            own = found["parts"].get(name)
            print(f"  {name:<40}{size / MIB:10.1f}" + ("" if own is None else f"{own / MIB:10.1f}"))
    for name in sorted(found["peaks"].keys() - phases.keys()):
        print(f"{name:<42}{'':10}{found['peaks'][name] / MIB:10.0f}")
    print(f"{'the most':<42}{most(found)[0] / MIB:10.0f}{most(found)[1] / MIB:10.0f}  {error(found):+.1%}", flush=True)


def most(found: Mapping[str, Any]) -> tuple[float, float]:
    """The peak as planned and as measured."""
    return max(sum(parts.values()) for parts in found["planned"].values()), max(found["peaks"].values())


def error(found: Mapping[str, Any]) -> float:
    """How far the plan is above the measurement, relative to that."""
    said, was = most(found)
    return said / was - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a file for all numbers, as JSON")
    parser.add_argument("--keeps", action="store_true", help="let the process keep memory that it freed, as runs do")
    parser.add_argument("--only", choices=MODELS, help="one model")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        print(json.dumps(run(asked.settings, asked.run)))
        sys.exit()
    every = {}
    with tempfile.TemporaryDirectory() as place:
        for family in [asked.only] if asked.only else MODELS:
            for recompute in (False, True):
                title = f"{family}, {'layers computed again' if recompute else 'all kept'}"
                every[title] = measured(family, recompute, Path(place), keeps=asked.keeps)
                show(title, every[title])
    if asked.out:
        asked.out.write_text(json.dumps(every, indent=1) + "\n")
