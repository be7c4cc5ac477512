"""One exam: the problems of a data set, how they are asked, what came of it. A run and ``contrapose eval`` share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import torch

from contrapose.evaluate.evaluate import Answered, answers, summary
from contrapose.evaluate.records import Records
from contrapose.report.revision import revision
from contrapose.rollout.engine import RolloutEngine
from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.rollout.sampler import Sampling
from contrapose.types import Group, Prompt
from contrapose.verify.verifier import Verifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Examinee(RolloutEngine, Protocol):
    """An engine whose model can be told from others, and that says how many problems it answers together."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos: tuple[int, ...]

    def side_by_side(self, prompts: Sequence[Prompt], k: int, sampling: Sampling) -> int:
        """How many of ``prompts`` are rolled out together."""
        ...


@dataclass(frozen=True)
class Exam:
    """A data set, and how its problems are asked and its answers judged. ``keys`` name the columns of a file."""

    data: str
    samples: int
    template: str
    keys: tuple[str, str] = ("", "")
    verifier: Verifier = Verifier("binary")


@dataclass(frozen=True)
class Asked:
    """An exam with its rendered prompts and the sampling that the model's context allows."""

    exam: Exam
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What to evaluate: ``model`` is a model or run folder, a hub name, or ``abacus``; ``folder`` holds named data."""

    model: str
    exams: tuple[Exam, ...]
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 4096
    thinking: bool = False
    limit: int | None = None
    folder: str = ""
    dtype: str = "float32"
    seed: int = 0


def answered(
    one: Asked,
    engine: Examinee,
    seed: int,
    records: Records | None,
    each: Callable[[int], None],
    ranks: Ranks = ALONE,
) -> list[Answered]:
    """What became of every problem, in their order. ``each`` is told how many more of them are done; ``records`` are
    those of the rank that writes.

    Problems are asked in parts whose size follows from the settings alone: the last bits of a log-prob may depend on
    what is computed beside it, and an evaluation that was interrupted must sample the same. A part is what the engines
    of all ranks answer side by side.
    """
    own = engine.side_by_side(one.prompts, one.exam.samples, one.sampling)
    size = max(1, min(ranks.gather(own))) * ranks.samplers
    found: list[Answered] = []
    for start in range(0, len(one.prompts), size):
        part = one.prompts[start : start + size]
        found += _taken_over(one, part, records, each, ranks) or _ask(one, part, engine, seed, records, each, ranks)
    return found


def _taken_over(
    one: Asked, part: Sequence[Prompt], records: Records | None, each: Callable[[int], None], ranks: Ranks
) -> list[Answered]:
    kept = ranks.first(lambda: records.taken_over(one.exam.data, part) if records else [])
    if kept:
        each(len(kept))
    return kept


def _ask(
    one: Asked,
    part: Sequence[Prompt],
    engine: Examinee,
    seed: int,
    records: Records | None,
    each: Callable[[int], None],
    ranks: Ranks,
) -> list[Answered]:
    told = 0

    def finished(_: Group) -> None:
        nonlocal told
        if told < len(part) - 1:  # a stop after the last one must find it written
            told += 1
            each(1)

    found = answers(engine, one.exam.verifier, part, one.exam.samples, one.sampling, seed, finished, ranks)
    if records:
        for group, what in found:
            records.write(one.exam.data, group, what)
    each(len(part) - told)
    return [what for _, what in found]


def result(request: Request, one: Asked, found: Sequence[Answered]) -> dict[str, Any]:
    """The exam's row of ``eval.json``."""
    about = {"model": request.model, "data": one.exam.data, "template": one.exam.template, "seed": request.seed}
    return {**about, **summary(found, one.sampling).to_dict(), **one.facts}


def settings(
    request: Request, asked: Sequence[Asked], engine: Examinee, fingerprints: Mapping[str, Any], ranks: int = 1
) -> dict[str, Any]:
    """Everything that the answers, or a bit of them, depend on. ``fingerprints`` are those of the engine's model."""
    return {
        "model": request.model,
        **fingerprints,
        "dtype": request.dtype,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "thinking": request.thinking,
        "seed": request.seed,
        "data": {one.exam.data: _settings_of(one) for one in asked},
        "revision": revision(),
        "versions": dict(_versions()),
        "device": str(engine.model.device),
        "threads": torch.get_num_threads(),
        "ranks": ranks,
    }


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("contrapose", "torch", "transformers", "math-verify")}


def _settings_of(one: Asked) -> dict[str, Any]:
    verifier = one.exam.verifier
    limits = {key: value for key, value in asdict(verifier.limits).items() if key != "workers"}
    prompts = json.dumps([[p.id, p.answer, p.tokens] for p in one.prompts])
    return {
        "samples": one.exam.samples,
        "template": one.exam.template,
        "max_tokens": one.sampling.max_tokens,
        "problems": len(one.prompts),
        "prompts": _digest(prompts),
        "verify": {**asdict(verifier.grading), **limits, "truncated_is_wrong": verifier.truncated_is_wrong},
    }


def fingerprints(engine: Examinee) -> dict[str, Any]:
    """What makes the model: SHA-256 over its weights, its config and its tokenizer, and the tokens that end a response.

    Where it lies, and what only saving it notes in its config, is no part of a model. Takes a pass over the weights.
    """
    aside = ("_name_or_path", "architectures", "transformers_version")
    config = {key: value for key, value in engine.model.config.to_dict().items() if key not in aside}
    backend = getattr(engine.tokenizer, "backend_tokenizer", None)
    tokenizer = backend.to_str() if backend else json.dumps(engine.tokenizer.get_vocab(), sort_keys=True)
    return {
        "weights": weights_digest(engine.model),
        "config": _digest(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer": _digest(tokenizer),
        "eos": list(engine.eos),
    }


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 over all weights, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
