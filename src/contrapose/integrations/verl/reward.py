"""Our verifier as verl's reward function."""

from __future__ import annotations

from functools import cache
from typing import Any

from contrapose.verify.verifier import Verifier


def compute_score(*, solution_str: str, ground_truth: Any, scheme: str, **_: Any) -> dict[str, Any]:
    """What a response is worth under a reward ``scheme``, whether it is right, and how the verdict came about."""
    verdict = _verifier(scheme).grade(str(ground_truth), solution_str)
    return {"score": verdict.reward, "acc": float(verdict.correct), "status": verdict.status}


@cache
def _verifier(scheme: str) -> Verifier:
    return Verifier(scheme)
