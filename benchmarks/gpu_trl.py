"""What benchmarks/gpu.py times of TRL: its GRPOTrainer in bfloat16 with transformers' ``generate``, on the same device.

How many rows go through the model at once is chosen by what updates of as many given tokens take. Layers keep their
activations, as ours do.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import trl_side
from our_side import K

from contrapose.settings import Config
from contrapose.types import Prompt

Tokens = Sequence[tuple[int, ...]]


def updating(config: Config, model: Any, tokenizer: Any, told: tuple[Tokens, Tokens], rows: int, **more: Any) -> float:
    """Seconds of old log-probs and updates on given prompts and answers, after those on short answers."""
    prompts, answers = ([list(ids) for ids in part] for part in told)
    asked = [ids for ids in prompts for _ in range(K)]
    marks: list[float] = []

    def mark() -> None:
        torch.cuda.synchronize() if more["bf16"] else None
        marks.append(time.perf_counter())

    steps = [(asked, [ids[:4] for ids in answers]), (asked, answers)]
    trl_side.told_batches(config, model, tokenizer, steps, rows, mark, **more)
    return marks[1] - marks[0]


def step(
    settings: Callable[[int], Config],
    built: Callable[[], Any],
    tokenizer: Any,
    told: tuple[Tokens, Tokens],
    tried: Sequence[int],
    on_gpu: bool,
) -> dict[str, Any]:
    """Seconds of a whole step and of its generation, with the best of ``tried`` rows at once, and GiB at the peak.

    ``settings`` of a length of answers; ``told`` are prompts and answers.
    """
    more, length = {"use_cpu": not on_gpu, "bf16": on_gpu}, len(told[1][0])
    found: dict[str, Any] = {"updates by rows": {}}
    forget(on_gpu)
    for rows in tried:
        try:
            found["updates by rows"][rows] = updating(settings(length), built(), tokenizer, told, rows, **more)
        except torch.OutOfMemoryError:
            print(f"TRL: {rows} rows at once take more memory than there is")
        forget(on_gpu)
    rows = min(found["updates by rows"], key=found["updates by rows"].get)
    prompts = [Prompt(str(q), " ".join(f"t{i}" for i in ids), "") for q, ids in enumerate(told[0])]
    trl_side.train_batches(settings(4), built(), tokenizer, prompts, 1, rows, **more)
    forget(on_gpu)
    (row,) = trl_side.train_batches(settings(length), built(), tokenizer, prompts, 1, rows, **more)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    forget(on_gpu)
    parts = {"generate": row["generate"], "the rest": row["seconds"] - row["generate"]}
    return {**found, "rows": rows, "s": row["seconds"], **parts, "tokens": row["tokens"], "GiB": peak}


def forget(on_gpu: bool) -> None:
    """Let go of a trainer that is done."""
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
