"""Evaluate a saved model on a data set, and write what it said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contrapose.evaluate.evaluate import evaluate
from contrapose.prompts.abacus import model_folder
from contrapose.prompts.sources import load_prompts
from contrapose.prompts.template import render_all
from contrapose.report.log import JsonLines
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.types import ContraposeError, Group
from contrapose.verify.verifier import Verifier


def evaluate_model(
    model: str,
    data: str,
    *,
    template: str,
    keys: tuple[str, str],
    samples: int,
    temperature: float,
    top_p: float,
    max_tokens: int,
    limit: int | None = None,
    verifier: Verifier = Verifier("binary"),
    dtype: str = "float32",
    seed: int = 0,
    out: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
    each: Callable[[int], None] = lambda problems: None,
) -> dict[str, Any]:
    """The evaluation of ``model`` (a model or run folder, a hub name, ``abacus``) as a row of ``eval.json``.

    ``keys`` name the problem and the answer column. With ``out``, ``eval.json`` and ``rollouts.jsonl`` (a row a
    problem) are written there. ``each`` is told the number of problems after every one of them.
    """
    if out is not None and (out / "eval.json").exists():
        raise ContraposeError(f"--out: {out} already holds an evaluation: choose another folder")
    loaded = load_prompts(data, problem_key=keys[0], answer_key=keys[1], limit=limit, default_split="test")
    engine = EmbeddedEngine.load(_weights(model), dtype)
    prompts, left_out = render_all(loaded, template, engine.tokenizer, max_tokens=1 << 30)
    room = engine.room_after(prompts)
    if room is not None and room < max_tokens:
        log(f"responses are limited to {room} tokens: what the model's context leaves after the longest prompt")
        max_tokens = room
    if max_tokens < 1:
        raise ContraposeError(f"--data: the longest prompt of {data} does not fit the model's context")
    lines = None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        lines = JsonLines(out / "rollouts.jsonl")
        lines.cut(0)  # what an interrupted evaluation left

    def on_group(group: Group) -> None:
        each(len(prompts))
        if lines:
            lines.append(_row(group))

    sampling = Sampling(temperature, top_p, max_tokens)
    result = evaluate(engine, verifier, prompts, samples=samples, sampling=sampling, seed=seed, each=on_group)
    row = {"model": model, "data": data, "template": template, "seed": seed, **result.to_dict(), "left_out": left_out}
    if out is not None and lines:
        lines.close()
        (out / "eval.json").write_text(json.dumps([row], indent=1) + "\n", encoding="utf-8")
    return row


def _weights(model: str) -> str:
    trained = Path(model) / "model"
    return str(trained) if trained.is_dir() else model_folder(model)


def _row(group: Group) -> dict[str, Any]:
    return {
        "prompt": group.prompt.id,
        "problem": group.prompt.problem,
        "answer": group.prompt.answer,
        "correct": group.correct,
        "samples": [
            {"text": r.text, "tokens": len(r.tokens), "finished": r.finished, "status": v.status, "boxed": v.boxed}
            for r, v in zip(group.rollouts, group.verdicts, strict=True)
        ],
    }
