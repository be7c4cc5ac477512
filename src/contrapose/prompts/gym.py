"""The tasks of reasoning-gym as problems. Its own scorers decide what is right (``verify.domain`` reasoning_gym)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import count as seeds
from typing import Any

from contrapose.prompts.abacus import Split, split_of
from contrapose.types import ContraposeError, Prompt, nearest

DRAWS = 500
"""Entries made at a time; when as many bring no new question, the task has no more."""


def problems(task: str, split: Split, count: int) -> list[Prompt]:
    """``count`` distinct problems of ``task``, or all that it has. The gold answer is the entry as JSON.

    A problem belongs to a split by its hash, as in abacus, so that splits never overlap. Raises ContraposeError for a
    task that does not exist, that needs settings, or whose entries JSON cannot hold.
    """
    found: dict[str, Prompt] = {}
    for seed in seeds(0, DRAWS):
        before = len(found)
        dataset = _dataset(task, seed)
        for entry in dataset:
            question = entry["question"]
            if split_of(question) == split and question not in found:
                gold = _as_json(task, entry, dataset.score_answer)
                digest = hashlib.sha256(question.encode()).hexdigest()[:12]
                found[question] = Prompt(f"gym/{task}/{digest}", question, gold, f"gym/{task}")
            if len(found) == count:
                return list(found.values())
        if len(found) == before:
            break
    if not found:
        raise ContraposeError(f"data: gym:{task} has no {split} problems")
    return list(found.values())


def _dataset(task: str, seed: int) -> Any:
    """``DRAWS`` entries of ``task``; entry i is made from ``seed`` + i."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError:
        raise ContraposeError(
            f"data: gym:{task} needs reasoning-gym: pip install 'contrapose[gym]' (and a C compiler)"
        ) from None
    if task not in DATASETS:
        raise ContraposeError(f"data: gym:{task}: no such task{nearest(task, sorted(DATASETS))}")
    try:
        return create_dataset(task, size=DRAWS, seed=seed)
    except (AssertionError, ValueError) as error:
        raise ContraposeError(f"data: gym:{task} cannot be made without settings of its own: {error}") from None


def _as_json(task: str, entry: dict[str, Any], score: Callable[[Any, dict[str, Any]], float]) -> str:
    """The entry as the verifier will read it, if its own answer is then worth what it was."""
    gold = json.dumps(entry)
    if score(entry["answer"], json.loads(gold)) != score(entry["answer"], entry):
        raise ContraposeError(f"data: gym:{task} cannot be used: its scorer reads what JSON cannot hold")
    return gold
