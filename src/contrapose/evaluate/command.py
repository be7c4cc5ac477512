"""Evaluate a saved model on data sets, and write what it said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

from contrapose.evaluate.exam import Asked, Exam, Request, answered, fingerprints, result, settings
from contrapose.evaluate.records import Records, recording, refuse_used
from contrapose.evaluate.statistics import mean_of_sets, pass_at_k
from contrapose.prompts.abacus import model_folder
from contrapose.prompts.catalogue import checked, find
from contrapose.prompts.sources import load
from contrapose.prompts.template import render_all
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.types import ContraposeError, Prompt

MEAN = "mean"
"""What the row of the mean over data sets has for ``data``."""


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
    engine = EmbeddedEngine.load(_weights(request.model), request.dtype)
    asked = [_ask(exam, prompts, request, engine, log) for exam, prompts in zip(request.exams, loaded, strict=True)]
    told = settings(request, asked, engine, fingerprints(engine)) if out else {}
    with recording(out, told, resume=resume) if out else nullcontext() as records:
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
        found = answered(one, engine, request.seed, records, lambda more: _times(more, each, total))
        rows.append(result(request, one, found))
        scores.append(pass_at_k([a.correct for a in found], one.exam.samples, 1))
        finished(rows[-1])
    return [*rows, _mean(rows, scores)] if len(rows) > 1 else rows


def _times(count: int, each: Callable[[int], None], total: int) -> None:
    for _ in range(count):
        each(total)


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


def _weights(model: str) -> str:
    trained = Path(model) / "model"
    return str(trained) if trained.is_dir() else model_folder(model)
