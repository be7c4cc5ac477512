"""Evaluate a saved model on data sets, and write what it said."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from contrapose.evaluate.evaluate import Answered, answers, summary
from contrapose.evaluate.records import Records, make, recording, refuse_used
from contrapose.evaluate.statistics import mean_of_sets, pass_at_k
from contrapose.prompts.abacus import model_folder
from contrapose.prompts.catalogue import checked, find
from contrapose.prompts.sources import load
from contrapose.prompts.template import render_all
from contrapose.report.revision import revision
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.types import ContraposeError, Group, Prompt
from contrapose.verify.verifier import Verifier

MEAN = "mean"
"""What the row of the mean over data sets has for ``data``."""


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


def evaluate_model(
    request: Request,
    *,
    out: Path | None = None,
    resume: bool = False,
    log: Callable[[str], None] = lambda line: None,
    each: Callable[[int], None] = lambda problems: None,
    finished: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """The rows of ``eval.json``: one for each exam and, where there are several, their mean.

    With ``out``, the evaluation is written there as it goes (``records``), and with ``resume`` taken up where it was
    left; its files end up the same, byte for byte, whatever happened in between. ``each`` is told the number of all
    problems after every one of them, ``finished`` the row of every exam.
    """
    twice = [e.data for e in request.exams if [other.data for other in request.exams].count(e.data) > 1]
    if twice:
        raise ContraposeError(f"--data: {twice[0]} is named twice")
    if out and not resume:
        refuse_used(out)
    loaded = [_load(exam, request) for exam in request.exams]
    for note in _overlaps(request.exams, loaded):
        log(note)
    if out:
        make(out)
    engine = EmbeddedEngine.load(_weights(request.model), request.dtype)
    asked = [_ask(exam, prompts, request, engine, log) for exam, prompts in zip(request.exams, loaded, strict=True)]
    with recording(out, _settings(request, asked, engine), resume=resume) if out else nullcontext() as records:
        if records and records.damage:
            log(f"{records.damage}; it and what follows is asked again")
        if records and resume:
            log(f"going on after {records.kept} problems" if records.kept else f"nothing is in {out} yet: starting")
        rows = _rows(asked, engine, request, records, each, finished)
        if records:
            records.finish(rows)
    return rows


def _rows(
    asked: Sequence[Asked],
    engine: EmbeddedEngine,
    request: Request,
    records: Records | None,
    each: Callable[[int], None],
    finished: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    total = sum(len(one.prompts) for one in asked)
    rows, scores = [], []
    for one in asked:
        answered = _answers(one, engine, request.seed, records, lambda: each(total))
        about = {"model": request.model, "data": one.exam.data, "template": one.exam.template, "seed": request.seed}
        rows.append({**about, **summary(answered, one.sampling).to_dict(), **one.facts})
        scores.append(pass_at_k([a.correct for a in answered], one.exam.samples, 1))
        finished(rows[-1])
    return [*rows, _mean(rows, scores)] if len(rows) > 1 else rows


def _load(exam: Exam, request: Request) -> list[Prompt]:
    problem, answer = exam.keys
    loaded = load(
        exam.data,
        folder=request.folder,
        problem_key=problem,
        answer_key=answer,
        limit=request.limit,
        default_split="test",
    )
    return loaded.whole()


def _overlaps(exams: Sequence[Exam], loaded: Sequence[list[Prompt]]) -> Iterator[str]:
    """A line for every two exams that have problems in common."""
    texts = [(exam.data, {prompt.problem for prompt in prompts}) for exam, prompts in zip(exams, loaded, strict=True)]
    for (one, some), (other, others) in combinations(texts, 2):
        if common := len(some & others):
            yield f"{one} and {other} have {common} problems in common, which count twice in the mean"


def _ask(
    exam: Exam, loaded: list[Prompt], request: Request, engine: EmbeddedEngine, log: Callable[[str], None]
) -> Asked:
    prompts, left_out = render_all(
        loaded, exam.template, engine.tokenizer, max_tokens=1 << 30, thinking=request.thinking
    )
    max_tokens, room = request.max_tokens, engine.room_after(prompts)
    if room is not None and room < 1:
        raise ContraposeError(f"--data: the longest prompt of {exam.data} does not fit the model's context")
    if room is not None and room < max_tokens:
        log(f"{exam.data}: responses are limited to {room} tokens, what its longest prompt leaves of the context")
        max_tokens = room
    facts: dict[str, Any] = {"left_out": left_out}
    benchmark = find(exam.data)
    if benchmark and benchmark.rows and request.limit is None:
        facts["reference_texts"] = checked(loaded, benchmark)
        if not facts["reference_texts"]:
            log(f"{exam.data}: the texts are not, character for character, those of the reference copy")
    return Asked(exam, tuple(prompts), Sampling(request.temperature, request.top_p, max_tokens), facts)


def _answers(
    one: Asked, engine: EmbeddedEngine, seed: int, records: Records | None, each: Callable[[], None]
) -> list[Answered]:
    """What became of every problem, in their order.

    Problems are asked in parts whose size follows from the settings alone: the last bits of a log-prob may depend on
    what is computed beside it, and an evaluation that was interrupted must sample the same.
    """
    verifier, samples = one.exam.verifier, one.exam.samples
    size = max(1, engine.side_by_side(one.prompts, samples, one.sampling))
    answered: list[Answered] = []
    groups: dict[str, Group] = {}

    def finished(group: Group) -> None:
        groups[group.prompt.id] = group
        each()

    for start in range(0, len(one.prompts), size):
        part = one.prompts[start : start + size]
        if records and (kept := records.taken_over(one.exam.data, part)):
            answered += kept
            for _ in kept:
                each()
            continue
        found = answers(engine, verifier, part, samples, one.sampling, seed, finished)
        answered += found
        for prompt, what in zip(part, found, strict=True):
            group = groups.pop(prompt.id)
            if records:
                records.write(one.exam.data, group, what)
    return answered


def _mean(rows: Sequence[dict[str, Any]], scores: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The row of the mean over data sets, each counting the same, as papers have it."""
    errors = [row["accuracy"]["se"] for row in rows]
    se = None if None in errors else math.hypot(*errors) / len(errors)
    return {
        "model": rows[0]["model"],
        "data": MEAN,
        "of": [row["data"] for row in rows],
        "seed": rows[0]["seed"],
        "problems": sum(row["problems"] for row in rows),
        "accuracy": mean_of_sets(scores, se)._asdict(),
    }


def _settings(request: Request, asked: Sequence[Asked], engine: EmbeddedEngine) -> dict[str, Any]:
    """Everything that the answers, or a bit of them, depend on."""
    return {
        "model": request.model,
        **_fingerprints(engine),
        "dtype": request.dtype,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "thinking": request.thinking,
        "seed": request.seed,
        "data": {one.exam.data: _settings_of(one) for one in asked},
        "revision": revision(),
        "versions": {name: version(name) for name in ("contrapose", "torch", "transformers", "math-verify")},
        "device": str(engine.model.device),
        "threads": torch.get_num_threads(),
    }


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


def _fingerprints(engine: EmbeddedEngine) -> dict[str, Any]:
    """What makes the model: SHA-256 over its weights, its config and its tokenizer, and the tokens that end a response.

    Where it lies and which version saved it is no part of a model.
    """
    weights = hashlib.sha256()
    for name, weight in sorted(engine.model.state_dict().items()):
        weights.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        weights.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    aside = ("_name_or_path", "transformers_version")
    config = {key: value for key, value in engine.model.config.to_dict().items() if key not in aside}
    backend = getattr(engine.tokenizer, "backend_tokenizer", None)
    tokenizer = backend.to_str() if backend else json.dumps(engine.tokenizer.get_vocab(), sort_keys=True)
    return {
        "weights": weights.hexdigest(),
        "config": _digest(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer": _digest(tokenizer),
        "eos": list(engine.eos),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _weights(model: str) -> str:
    trained = Path(model) / "model"
    return str(trained) if trained.is_dir() else model_folder(model)
