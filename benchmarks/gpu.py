"""How fast contrapose is on one GPU, beside transformers' ``generate`` and beside what the device could do.

    python benchmarks/gpu.py              # minutes on one CUDA device of 80 GB
    python benchmarks/gpu.py --out FILE   # and all numbers, as JSON; written after each part
    python benchmarks/gpu.py --tiny       # whether it runs: toy sizes, on the CPU, in float32

The model is of Qwen2.5-0.5B's shape, with random weights, in bfloat16: 64 prompts of about 64 random tokens, 8 rollouts
of 512 tokens each. Both sides sample at temperature 1 from the same weights and prompts, all rollouts side by side, and
take turns; ``generate`` is given token ids and returns them, while the engine also decodes its answers to text.

``of the floor`` is how near decoding comes to the seconds in which the weights and the keys and values of all tokens so
far are read once a step, at the rate at which the device copies; logits are left out of that. ``of the matrix rate`` is
how near training comes to the seconds that 6 operations a weight and response token take at the rate of a large square
product: for the updates alone, and with the old log-probs, a pass more. GiB are torch's peak, weights, gradients and
optimizer included. TRL's step is timed where it is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import our_side
import torch
from gpu_shapes import FULL, TINY, Sizes, asked, built, random_tokens, words
from our_side import NEVER, UPDATES, K
from scaling import groups_of
from speed import machine

from contrapose.policy.llama import is_llama
from contrapose.policy.logprobs import LogProbs
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.settings import Config
from contrapose.train.collate import Minibatch, collate
from contrapose.train.parts import make_objective, make_optimizer
from contrapose.train.passes import Passes
from contrapose.train.update import update
from contrapose.types import Now, Prompt

OURS, GENERATE = "contrapose", "generate"
Row = dict[str, Any]


class Device:
    """A device and the type of the weights on it; ``sizes`` of the benchmark."""

    def __init__(self, name: str, sizes: Sizes) -> None:
        self.name, self.sizes, self.is_gpu = name, sizes, name == "cuda"
        self.dtype = torch.bfloat16 if self.is_gpu else torch.float32

    def seconds(self, f: Callable[[], object]) -> float:
        """Until all that ``f`` asked of the device is done."""
        wait = torch.cuda.synchronize if self.is_gpu else lambda: None
        wait()
        start = time.perf_counter()
        f()
        wait()
        return time.perf_counter() - start

    def forget(self) -> None:
        """Let the peak of memory begin anew."""
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """GiB at the peak; None on a CPU, where torch counts nothing."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.is_gpu else None

    def best(self, f: Callable[[], object], times: int = 10, rounds: int = 5) -> float:
        """Seconds of one ``f``: the best of some rounds of ``times`` each, so that launching them hides."""
        f()
        return min(self.seconds(lambda: [f() for _ in range(times)]) for _ in range(rounds)) / times

    def matrix_rate(self) -> float:
        """Floating-point operations a second of a square product."""
        n = self.sizes.square
        x, y, out = (torch.randn(n, n, device=self.name, dtype=self.dtype) for _ in range(3))
        return 2 * n**3 / self.best(lambda: torch.mm(x, y, out=out))

    def copy_rate(self) -> float:
        """Bytes read and written a second where memory is copied."""
        x, out = (torch.zeros(self.sizes.copied, dtype=torch.uint8, device=self.name) for _ in range(2))
        return 2 * self.sizes.copied / self.best(lambda: out.copy_(x))


def engine_side(model: Any, sizes: Sizes) -> Callable[[int], int]:
    """A function of a number of tokens: samples so many a rollout, and says how many in all."""
    engine = EmbeddedEngine(model, words(sizes.vocabulary), NEVER, max_rows=sizes.prompts * K, cache_gib=16.0)
    prompts = [Prompt(str(q), "", "", tokens=tokens) for q, tokens in enumerate(asked(sizes))]

    def sample(length: int) -> int:
        found = engine.generate(prompts, K, 0, Sampling(1.0, 1.0, length))
        return sum(len(one.rollout.tokens) for step in found for one in step)

    return sample


def generate_side(model: Any, sizes: Sizes) -> Callable[[int], int]:
    """The same through ``generate``: all rows at once, padded on the left."""
    from transformers import GenerationConfig

    rows = [tokens for tokens in asked(sizes) for _ in range(K)]
    width = max(map(len, rows))
    ids = torch.tensor([[*[0] * (width - len(row)), *row] for row in rows], device=model.device)
    attend = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_token_id": None, "pad_token_id": 0}

    def sample(length: int) -> int:
        how = GenerationConfig(**plain, max_new_tokens=length)
        return model.generate(input_ids=ids, attention_mask=attend, generation_config=how)[:, width:].numel()

    return sample


def floor(model: Any, sizes: Sizes, bytes_a_second: float) -> float:
    """Seconds in which weights and past are read once a step, until all rollouts have their tokens."""
    weights = list(model.parameters())
    a_token = 2 * sizes.layers * sizes.kv_heads * (sizes.hidden // sizes.heads) * weights[0].element_size()
    before = K * sum(map(len, asked(sizes)))
    past = sum(before + sizes.prompts * K * step for step in range(sizes.answer))
    return (sizes.answer * sum(weight.nbytes for weight in weights) + a_token * past) / bytes_a_second


def sampling(device: Device, model: Any, bytes_a_second: float) -> dict[str, Row]:
    """Tokens a second of both sides, in turn."""
    sizes = device.sizes
    sides = {OURS: engine_side(model, sizes), GENERATE: generate_side(model, sizes)}
    tokens, least = sizes.prompts * K * sizes.answer, floor(model, sizes, bytes_a_second)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float | None] = {}
    counts = {sample(4) for sample in sides.values()} | {sides[OURS](sizes.answer)}  # what is made once is made
    for number in range(sizes.rounds):
        for name, sample in list(sides.items())[:: -1 if number % 2 else 1]:
            device.forget()
            seconds[name].append(device.seconds(lambda sample=sample: counts.add(sample(sizes.answer))))
            peaks[name] = device.peak()
    assert counts == {4 * sizes.prompts * K, tokens}, counts
    found = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        known = {"s": median, "tokens/s": tokens / median, "of the floor": least / median}
        found[name] = {**known, "GiB": peaks[name], "rounds": values}
    return found


def settings(sizes: Sizes, length: int) -> Config:
    """GRPO with answers of so many tokens."""
    more = f"batch.max_tokens={sizes.micro_batch}", f"rollout.max_tokens={length}", "optim.lr=1e-6"
    return our_side.settings("abacus", sizes.prompts, 0, *more)


def peer(device: Device) -> Row | None:
    """TRL's step, or None where TRL cannot be imported, which is told."""
    sizes = device.sizes
    try:
        import gpu_trl
    except ImportError as error:
        print(f"TRL is left out: {error}")
        return None
    told = asked(sizes), random_tokens(sizes, [sizes.answer] * (sizes.prompts * K))
    tokenizer, model = words(sizes.vocabulary), partial(built, sizes, device.name, device.dtype)
    return gpu_trl.step(partial(settings, sizes), model, tokenizer, told, sizes.trl_rows, device.is_gpu)


def training(device: Device, model: Any, flops: float) -> dict[str, Row]:
    """Seconds of a whole GRPO step, old log-probs and all, and of its parts. A step of short answers goes before."""
    sizes, rows, config = device.sizes, device.sizes.prompts * K, settings(device.sizes, device.sizes.answer)
    passes, objective = Passes(LogProbs(model), sizes.micro_batch), make_objective(config)
    optimizer, prompts = make_optimizer(config, model), asked(sizes)
    seconds: dict[str, list[float]] = {}

    def step(length: int) -> dict[str, float]:
        groups = groups_of(prompts, random_tokens(sizes, [length] * rows))
        batches: list[Minibatch] = []
        took = {"old log-probs": device.seconds(lambda: batches.append(collate(groups, passes)[0]))}

        def updates() -> None:
            for number, part in enumerate(batches[0].split(UPDATES)):
                done = update(passes, optimizer, objective, part, Now(), fresh=number == 0, clip=1.0)
                assert done.fault is None, done.fault

        took["updates"] = device.seconds(updates)
        return {**took, "step": sum(took.values())}

    step(4)
    device.forget()
    for _ in range(sizes.rounds):
        for name, value in step(sizes.answer).items():
            seconds.setdefault(name, []).append(value)
    tokens = rows * sizes.answer
    matrices = 6 * tokens * sum(weight.numel() for weight in model.parameters()) / flops
    found: dict[str, Row] = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        found[name] = {"s": median, "tokens/s": tokens / median, "rounds": values}
        if name != "old log-probs":
            found[name] |= {"of the matrix rate": matrices / median}
    found["step"]["GiB"] = device.peak()
    return found


def show(title: str, rows: dict[str, Row]) -> None:
    """Print a line for each row."""
    formats = {"tokens/s": ",.0f", "s": ".3g", "GiB": ".1f", "generate": ".3g", "the rest": ".3g"}
    print(f"\n{title}")
    for name, row in rows.items():
        cells = (f"{value:{formats.get(key, '.1%')}} {key}" for key, value in row.items() if isinstance(value, float))
        print(f"{name:<16}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def measure(device: Device, out: Path | None) -> None:
    """Everything, printed and written as it comes."""
    found: dict[str, Any] = {"machine": machine(), "sizes": asdict(device.sizes)}

    def note(part: str, value: Any) -> Any:
        found[part] = value
        if out:
            out.write_text(json.dumps(found, indent=1) + "\n")
        return value

    flops, rate = note("matrix rate", device.matrix_rate()), note("copy rate", device.copy_rate())
    print(", ".join(f"{key} {value}" for key, value in found["machine"].items()))
    print(f"a square product goes at {flops / 1e12:.3g} TFLOP/s, a copy at {rate / 1e9:.3g} GB/s in and out")
    model = built(device.sizes, device.name, device.dtype)
    count, own = note("weights", sum(w.numel() for w in model.parameters())), note("own passes", is_llama(model))
    print(f"{count:,} weights, {device.dtype}; {'our own passes' if own else 'the passes of transformers'}", flush=True)
    sampled = note("sampling", sampling(device, model, rate))
    show(f"sampling {device.sizes.prompts * K} rollouts of {device.sizes.answer} tokens", sampled)
    print(f"{sampled[OURS]['tokens/s'] / sampled[GENERATE]['tokens/s']:.2f} x as fast as generate")
    trained = note("training", training(device, model, flops))
    show(f"a GRPO step on as many, {UPDATES} updates", trained)
    whole = sampled[OURS]["s"] + trained["step"]["s"]
    del model
    if row := note("TRL", peer(device)):
        show("TRL", {f"{row['rows']} rows": row})
        print(f"a step with its rollouts: {whole:.3g} s, {row['s'] / whole:.2f} x as fast as TRL's")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a file for all numbers, as JSON")
    parser.add_argument("--tiny", action="store_true", help="toy sizes on the CPU, one round")
    given = parser.parse_args()
    if given.tiny:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        print("no CUDA device: --tiny runs it at toy sizes on the CPU")
        sys.exit(2)
    measure(Device("cpu", TINY) if given.tiny else Device("cuda", FULL), given.out)
