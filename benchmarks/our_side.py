"""What benchmarks/speed.py times of contrapose and of transformers' ``generate``; everyone's models and prompts."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from contrapose.config import resolve
from contrapose.evaluate.evaluate import answers
from contrapose.policy.logprobs import LogProbs
from contrapose.policy.model import load_model, load_tokenizer, save_model
from contrapose.prompts import abacus
from contrapose.prompts.template import render
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.settings import Config
from contrapose.train.collate import collate
from contrapose.train.loop import one_step
from contrapose.train.parts import make_objective, make_optimizer, make_verifier
from contrapose.train.passes import Passes
from contrapose.train.pretrain import pretrain
from contrapose.train.run import Run
from contrapose.train.update import update
from contrapose.types import Group, Now, Prompt, Rollout, Verdict

K = 8
UPDATES = 4
LIMIT = 48
ROWS = 256
NEVER = (-1,)
"""An EOS that no model draws, so that every rollout has ``LIMIT`` tokens."""


@dataclass(frozen=True)
class Shape:
    """A model's sizes and what is asked of it: ``prompts`` of ``K`` rollouts a step, ``batches`` steps a round.

    It is warm-started for ``steps`` of ``rows`` examples at the learning rate ``rate``; 0 steps are random weights.
    """

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    prompts: int = 32
    batches: int = 2
    steps: int = 0
    rows: int = 64
    rate: float = 2e-3

    @property
    def rollouts(self) -> int:
        """Rollouts a step."""
        return self.prompts * K


SHAPES = {
    "A": Shape(26, 96, 288, 3, 4, 4, 24),  # the abacus base model, as it ships
    "B": Shape(26, 128, 512, 4, 4, 4, 32, steps=150),
    "C": Shape(4096, 384, 1152, 6, 6, 2, 64, prompts=16, batches=1, steps=160, rows=16),
    "tiny": Shape(26, 16, 32, 1, 2, 2, 8, prompts=4, batches=1),
}
WIDE = Shape(32_768, 128, 512, 4, 4, 4, 32)
"""The model of the comparison of memory."""


def built(shape: Shape) -> Any:
    """A Qwen3 of this shape, with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = abacus.tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


def model_folder(name: str, folder: Path) -> str:
    """The folder of a shape's model, made in ``folder`` where it is missing: warm-started on abacus's text."""
    if name == "A":
        return str(abacus.BASE_MODEL)
    made, shape, tokenizer = folder / name, SHAPES[name], abacus.tokenizer()
    if not (made / "tokenizer.json").is_file():
        model = built(shape).train()
        ids = [(tokenizer.encode(q), tokenizer.encode(a)) for q, a in abacus.corpus(0, 20_000)]
        examples = [(question, [*answer, tokenizer.eos_token_id]) for question, answer in ids]
        pretrain(model, examples, steps=shape.steps, batch=shape.rows, lr=shape.rate, warmup=15)
        save_model(model, tokenizer, made)
    return str(made)


def asked(path: str, count: int) -> list[Prompt]:
    """Training problems as token ids."""
    tokenizer = load_tokenizer(path)
    return [render(p, "plain", tokenizer) for p in abacus.problems("train", count)]


def matrix_rate(size: int = 2048, times: int = 5) -> float:
    """Floating-point operations a second of a float32 matrix product: the best of some."""
    x, y = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        torch.mm(x, y)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def sampler(path: str, prompts: Sequence[Prompt], eos: tuple[int, ...] | None = None) -> Callable[[int], float]:
    """A function of a seed: the engine's tokens a second on ``prompts``."""
    engine = EmbeddedEngine.load(path)
    engine.eos = eos or engine.eos

    def tokens_a_second(seed: int) -> float:
        start = time.perf_counter()
        sampled = engine.generate(prompts, K, seed, Sampling(1.0, 1.0, LIMIT))
        tokens = sum(len(one.rollout.tokens) for step in sampled for one in step)
        return tokens / (time.perf_counter() - start)

    return tokens_a_second


def generator(path: str, prompts: Sequence[Prompt], *, ends: bool = True) -> Callable[[int], float]:
    """A function of a seed: ``generate``'s tokens a second on ``prompts``, ``ROWS`` left-padded rows at a time."""
    from transformers import GenerationConfig

    model, tokenizer = load_model(path), load_tokenizer(path)
    eos, pad = tokenizer.eos_token_id if ends else None, tokenizer.pad_token_id
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": LIMIT}
    model.generation_config = GenerationConfig(**how, eos_token_id=eos, pad_token_id=pad)
    rows = [p.tokens for p in prompts for _ in range(K)]

    def useful(part: Sequence[tuple[int, ...]]) -> int:
        width = max(map(len, part))
        ids = torch.tensor([[*[pad] * (width - len(row)), *row] for row in part])
        attend = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
        answers = model.generate(input_ids=ids, attention_mask=attend)[:, width:]
        ended = answers == (-1 if eos is None else eos)
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, answers.shape[1])
        return int(lengths.sum())

    def tokens_a_second(seed: int) -> float:
        torch.manual_seed(seed)
        start = time.perf_counter()
        tokens = sum(useful(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS))
        return tokens / (time.perf_counter() - start)

    return tokens_a_second


def settings(path: str, prompts: int, seed: int, *more: str) -> Config:
    """GRPO on abacus without a reference or a filter, nothing evaluated or saved; all else as it ships."""
    ours = [f"model.path={path}", f"batch.prompts={prompts}", f"batch.updates={UPDATES}", f"rollout.max_tokens={LIMIT}"]
    plain = ["objective.name=grpo", "objective.reference_coef=0.0", "filter.mode=none", "checkpoint.every=0"]
    return resolve("abacus", [*plain, *ours, "eval.data=''", "steps=1000", *more], seed=seed)[0]


def drawn(config: Config, batches: int) -> list[Prompt]:
    """The prompts that a run of these settings draws, in its order."""
    with tempfile.TemporaryDirectory() as folder, Run(config, Path(folder) / "run") as run:
        return [prompt for _ in range(batches) for prompt in run.pool.draw(config.batch.prompts)]


def train_batches(
    config: Config, batches: int, each: Callable[[int, Any], bool] = lambda number, model: False
) -> list[dict[str, float]]:
    """Seconds and trained tokens of each step. ``each`` sees the model after each, off the clock; True ends it."""
    found = []
    with tempfile.TemporaryDirectory() as folder, Run(config, Path(folder) / "run") as run:
        for step in range(batches):
            start = time.perf_counter()
            row = one_step(run, step)
            seconds = time.perf_counter() - start
            run.step = step + 1
            parts = {"generate": row["seconds_rollout"], "update": row["seconds_update"]}
            found.append({"seconds": seconds, "tokens": row["kept_tokens"], **parts})
            if each(run.step, run.policy.model):
                break
    return found


def exam(config: Config, problems: int) -> Callable[[Any], float]:
    """A function of a model: the share of validation problems that it solves, at one answer each."""
    path = abacus.model_folder(config.model.path)
    verifier, engine, own = make_verifier(config), EmbeddedEngine.load(path), load_model(path)
    tokenizer = load_tokenizer(path)
    prompts = [render(p, "plain", tokenizer) for p in abacus.problems("validation", problems)]

    def accuracy(model: Any) -> float:
        own.load_state_dict(model.state_dict())
        engine.sync(own)
        found = answers(engine, verifier, prompts, 1, Sampling(1.0, 1.0, LIMIT), 0, lambda group: None)
        answered = [answer for _, answer in found]
        return sum(one.correct for one in answered) / len(answered)

    return accuracy


def made_up(vocabulary: int, prompt: int, answer: int, rollouts: int) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompts, one for each rollout and the same within a group, and of answers."""
    rng = random.Random(answer)
    asked = [[rng.randrange(3, 26) for _ in range(prompt)] for _ in range(rollouts // K)]
    return [ids for ids in asked for _ in range(K)], [rng.choices(range(vocabulary), k=answer) for _ in range(rollouts)]


def update_on(config: Config, model: Any) -> Callable[[list[list[int]], list[list[int]], int], None]:
    """A function that takes the updates of one step on given tokens, old log-probs and all."""
    logprobs, objective, optimizer = LogProbs(model), make_objective(config), make_optimizer(config, model)

    def updates(prompts: list[list[int]], answers: list[list[int]], parts: int) -> None:
        groups = []
        for q in range(0, len(prompts), K):
            rollouts = tuple(
                Rollout(tuple(ids), (1,) * len(ids), (0.0,) * len(ids), "", "length") for ids in answers[q : q + K]
            )
            verdicts = tuple(
                Verdict(float(i % 2), bool(i % 2), None, "correct" if i % 2 else "wrong", 0.0) for i in range(K)
            )
            groups.append(Group(Prompt(str(q), "", "", tokens=tuple(prompts[q])), rollouts, verdicts))
        passes = Passes(logprobs, config.batch.max_tokens)
        batch, _ = collate(groups, passes)
        for number, part in enumerate(batch.split(parts)):
            update(passes, optimizer, objective, part, Now(), fresh=number == 0, clip=1.0)

    return updates
