"""How memory and time grow with what a step is made of: rollouts a prompt, prompts, tokens a rollout.

    python benchmarks/scaling.py --out FILE   # some three minutes on one thread; FILE gets all numbers, as JSON
    python benchmarks/scaling.py --tiny       # whether it runs

Memory is the peak of one ReNCE update beyond what is held before it. Its objective needs the whole group, and the
rollouts are another policy's, so that a first pass without grad goes before the gradient; all K rollouts answer one
prompt, and a micro-batch has four of them whatever K is. A process for each K; this needs Linux. The gradient that is
accumulated so is held against one float64 graph of the whole group.

Time is that of the process (CPU), so that other work on the machine shows less, of sampling a batch to a fixed length
and of one such update on as many tokens. Each round takes every point once; medians are fitted. ``exponent`` is that of
a power law; ``R2`` belongs to ``a + b x``; ``c x2`` is the share of the square in ``a + b x + c x2`` at the largest x,
of the medians and from the least to the greatest of any round. Attention looks back from every token to all before it:
what share of the operations that grows stands below; its share of the seconds is larger, since they go more slowly than
a matrix product's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from our_side import NEVER
from speed import held, machine

import contrapose
from contrapose.policy.logprobs import LogProbs
from contrapose.prompts import abacus
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.train.collate import Minibatch, collate
from contrapose.train.passes import Passes
from contrapose.train.update import accumulate, update
from contrapose.types import Group, Prompt, Rollout, Verdict

VOCABULARY, LAYERS, HEADS, PROMPT = 512, 2, 4, 16
AT_ONCE = 4
"""Rollouts a micro-batch."""


@dataclass(frozen=True)
class Sizes:
    """What is measured. Memory: ``many`` rollouts of one prompt, each of ``long`` tokens, in a model of ``narrow``
    width. The gradient: ``checked`` rollouts of up to as many tokens. Time: a model of ``wide`` width."""

    many: tuple[int, ...] = (8, 16, 32, 64)
    long: int = 2048
    checked: int = 64
    prompts: tuple[int, ...] = (4, 8, 16, 32)
    rollouts: tuple[int, ...] = (4, 8, 16, 32)
    lengths: tuple[int, ...] = (32, 64, 128, 256)
    rounds: int = 7
    narrow: int = 64
    wide: int = 128


FULL = Sizes()
TINY = Sizes((4, 8), 32, 8, (1, 2, 4), (2, 4, 8), (4, 8, 16), 1, 16, 16)


def policy(width: int) -> Any:
    """A small Qwen3 with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=width // HEADS,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    return Qwen3ForCausalLM(config).eval()


def groups_of(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Group]:
    """Each prompt with as many of the answers, every other one right."""
    k, groups = len(answers) // len(prompts), []
    verdicts = tuple(Verdict(float(i % 2), i % 2 == 1, None, "correct" if i % 2 else "wrong", 0.0) for i in range(k))
    for q, tokens in enumerate(prompts):
        rollouts = tuple(
            Rollout(tuple(ids), (1,) * len(ids), (0.0,) * len(ids), "", "length") for ids in answers[q * k : q * k + k]
        )
        groups.append(Group(Prompt(str(q), "", "", tokens=tuple(tokens)), rollouts, verdicts))
    return groups


def made_up(prompts: int, k: int, least: int, most: int) -> list[Group]:
    """Groups of random tokens, ``least`` to ``most`` a rollout."""
    rng = random.Random(0)
    asked, lengths = [PROMPT] * prompts, [rng.randint(least, most) for _ in range(prompts * k)]
    return groups_of(*([rng.choices(range(VOCABULARY), k=n) for n in counts] for counts in (asked, lengths)))


class Trainer:
    """Takes ReNCE updates on rollouts of another policy, at most ``max_tokens`` at once."""

    def __init__(self, model: Any, max_tokens: int) -> None:
        self.model, self.passes = model, Passes(LogProbs(model), max_tokens)
        self.objective = contrapose.objective("rence")
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def batch(self, groups: Sequence[Group]) -> Minibatch:
        """What an update takes. The policy moves on from the one whose log-probs these are."""
        batch, _ = collate(groups, self.passes)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator).to(weight.dtype), alpha=0.002)
        return batch

    def update(self, batch: Minibatch) -> None:
        """One optimizer step."""
        parts = self.passes, self.optimizer, self.objective, batch, self.objective.start()
        done = update(*parts, fresh=False, clip=1.0)
        assert done.fault is None

    def gradient(self, batch: Minibatch) -> torch.Tensor:
        """The gradient of -J, accumulated over micro-batches."""
        plan = self.objective.plan(batch.batch)
        accumulate(self.passes, self.objective, batch, plan, self.objective.start(), fresh=False)
        return gradient_of(self.model)


def gradient_of(model: Any) -> torch.Tensor:
    """All of it in one float64 vector."""
    return torch.cat([weight.grad.flatten().double() for weight in model.parameters()])


def peak(k: int, sizes: Sizes) -> int:
    """Bytes that the update of a group of ``k`` takes at its peak. A small update goes before it."""
    trainer = Trainer(policy(sizes.narrow), AT_ONCE * (PROMPT + sizes.long))
    trainer.update(trainer.batch(made_up(1, AT_ONCE, 4, 4)))
    batch = trainer.batch(made_up(1, k, sizes.long, sizes.long))
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    trainer.update(batch)
    return held("VmHWM") - before


def exactness(sizes: Sizes) -> dict[str, float]:
    """How far the accumulated gradient is from that of one float64 graph, relative to its norm, by type."""
    wide = policy(sizes.narrow).double()
    for module in wide.modules():
        if hasattr(module, "variance_epsilon"):  # the library's norms would round to float32 on the way
            module.forward = MethodType(_norm, module)
    trainer = Trainer(wide, AT_ONCE * (PROMPT + sizes.checked))
    batch = trainer.batch(made_up(1, sizes.checked, sizes.checked // 2, sizes.checked))
    narrow = policy(sizes.narrow)
    narrow.load_state_dict(wide.state_dict())
    rounded = replace(batch, batch=batch.batch.map(lambda x: x.float() if x.is_floating_point() else x))
    found = {"float64": trainer.gradient(batch), "float32": Trainer(narrow, trainer.max_tokens).gradient(rounded)}
    width = max(row.length for row in batch.rows)
    ids_NS = torch.tensor([[*row.prompt, *row.response, *[0] * (width - row.length)] for row in batch.rows])
    wide.zero_grad()
    normal_KTV = wide(input_ids=ids_NS, use_cache=False).logits[:, PROMPT - 1 : -1].log_softmax(-1)
    logp_KT = normal_KTV.gather(2, ids_NS[:, PROMPT:].unsqueeze(2)).squeeze(2)
    plan, start = trainer.objective.plan(batch.batch), trainer.objective.start()
    (-trainer.objective(logp_KT.unsqueeze(0) * batch.batch.mask_QKT, plan, start)).backward()
    exact = gradient_of(wide)
    return {name: float((gradient - exact).norm() / exact.norm()) for name, gradient in found.items()}


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module.weight * x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()


def sweeps(sizes: Sizes) -> dict[str, dict[int, tuple[int, int, int]]]:
    """By what grows, and how far it is: ``(prompts, rollouts a prompt, tokens a rollout)``."""
    prompts, k, length = sizes.prompts[1], sizes.rollouts[1], sizes.lengths[1]
    return {
        "prompts": {x: (x, k, length) for x in sizes.prompts},
        "rollouts a prompt": {x: (prompts, x, length) for x in sizes.rollouts},
        "tokens a rollout": {x: (sizes.prompts[0], k, x) for x in sizes.lengths},
    }


def times(sizes: Sizes) -> dict[tuple[str, str], dict[int, list[float]]]:
    """Seconds by what grows and what is timed, of every round for each point."""
    engine = EmbeddedEngine(policy(sizes.wide), abacus.tokenizer(), NEVER)
    trainer = Trainer(policy(sizes.wide), AT_ONCE * sizes.rollouts[1] * (PROMPT + sizes.lengths[1]))
    works: list[tuple[tuple[str, str], int, Callable[[], object]]] = []
    for name, by in sweeps(sizes).items():
        for x, (count, k, length) in by.items():
            groups = made_up(count, k, length, length)
            asked = [group.prompt for group in groups], k, 0, Sampling(1.0, 1.0, length)
            works.append(((name, "sampling"), x, lambda asked=asked: list(engine.generate(*asked))))
            works.append(((name, "update"), x, partial(trainer.update, trainer.batch(groups))))
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for number in range(-1, sizes.rounds):  # the first round warms up
        for what, x, f in works:
            start = time.process_time()
            f()
            if number >= 0:
                found.setdefault(what, {}).setdefault(x, []).append(time.process_time() - start)
    return found


def fit(seconds: dict[int, list[float]]) -> dict[str, Any]:
    """Least squares on the medians; the share of the square at the largest x, of the medians and round by round."""
    x, rounds_XR = np.array(list(seconds)) / max(seconds), np.array(list(seconds.values()))
    median = np.median(rounds_XR, axis=1)
    straight = np.polyval(np.polyfit(x, median, 1), x)
    squares = (np.polyfit(x, y, 2) for y in (median, *rounds_XR.T))
    share, *shares = (float(c / (a + b + c)) for c, b, a in squares)
    return {
        "seconds": seconds,
        "medians": median.tolist(),
        "exponent": float(np.polyfit(np.log(x), np.log(median), 1)[0]),
        "r2": float(1 - ((median - straight) ** 2).sum() / ((median - median.mean()) ** 2).sum()),
        "square": share,
        "squares": sorted(shares),
    }


def attention(sizes: Sizes) -> float:
    """The share of the operations of a token's forward pass that grows with the length, at the greatest length.

    A token looks back to half of its rollout and to the prompt: 4 operations a number of width, layer and token seen.
    """
    matrices = LAYERS * (4 + 3 * 3) * sizes.wide**2 + VOCABULARY * sizes.wide
    look_back = 4 * LAYERS * sizes.wide
    growing = look_back * sizes.lengths[-1] / 2
    return growing / (2 * matrices + look_back * PROMPT + growing)


def memory(sizes: Sizes, tiny: bool) -> dict[int, int]:
    """The peak by K, each in a process of its own in which what is freed goes back at once."""
    found, environment = {}, {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    for k in sizes.many:
        command = [sys.executable, __file__, "--peak", str(k), *(["--tiny"] if tiny else [])]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[k] = int(done.stdout.splitlines()[-1])
    return found


def show_time(sizes: Sizes) -> list[dict[str, Any]]:
    """Measure and print the seconds by what grows, with what was fitted to them."""
    print(f"\n{'by':<19}{'seconds of':<12}{'x: median':<44}{'exponent':>9}{'R2':>8}{'c x2':>8}")
    rows = [{"by": name, "of": what, **fit(seconds)} for (name, what), seconds in times(sizes).items()]
    for row in rows:
        at = "  ".join(f"{x}: {median:.3f}" for x, median in zip(row["seconds"], row["medians"], strict=True))
        share = f"{row['square']:8.1%}  ({row['squares'][0]:.1%} to {row['squares'][-1]:.1%})"
        print(f"{row['by']:<19}{row['of']:<12}{at:<44}{row['exponent']:9.3f}{row['r2']:8.4f}{share}")
    return rows


def show(sizes: Sizes, tiny: bool) -> dict[str, Any]:
    """Measure, print what comes as it comes, and return all numbers."""
    out: dict[str, Any] = {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in out["machine"].items()))
    if Path("/proc/self/clear_refs").exists():
        found = out["memory"] = memory(sizes, tiny)
        print(f"\npeak memory of an update, one prompt, {sizes.long} tokens a rollout, {AT_ONCE} rollouts at once")
        print(*(f"K {k:<4}{size / 2**20:10.1f} MiB" for k, size in found.items()), sep="\n")
        print(f"the most is {max(found.values()) / min(found.values()) - 1:.1%} above the least", flush=True)
    else:
        print("\npeak memory is measured on Linux alone")
    out["gradient"] = exactness(sizes)
    errors = ", ".join(f"{error:.1e} in {dtype}" for dtype, error in out["gradient"].items())
    print(f"\ngradient of {sizes.checked} rollouts in micro-batches: {errors} from one float64 graph", flush=True)
    out["time"], out["attention"] = show_time(sizes), attention(sizes)
    print(f"attention is {out['attention']:.1%} of the operations at {sizes.lengths[-1]} tokens a rollout")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a file for all numbers, as JSON")
    parser.add_argument("--rounds", type=int, help="of the times")
    parser.add_argument("--tiny", action="store_true", help="small sizes, one round")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sizes = TINY if asked.tiny else replace(FULL, rounds=asked.rounds or FULL.rounds)
    if asked.peak:
        print(peak(asked.peak, sizes))
        sys.exit()
    measured = show(sizes, asked.tiny)
    if asked.out:
        asked.out.write_text(json.dumps(measured, indent=1) + "\n")
