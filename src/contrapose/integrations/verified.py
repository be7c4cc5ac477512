"""Our grader as a reward function of TRL's shape: isolated, in bounded time, whatever a model wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from contrapose.types import FAULTS, ContraposeError, nearest
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.verifier import SCHEMES, Verifier

Reward = Callable[..., list[float]]


def verified(
    scheme: str = "format", *, column: str = "answer", grading: Grading = Grading(), limits: Limits = Limits()
) -> Reward:
    """A reward function: what an answer is worth under a scheme, 1 if and only if it is right.

    ``scheme``: ``"format"`` (1 right, 0.1 boxed but wrong, 0 without a box), ``"binary"`` (1, 0, 0) or ``"sign"``
    (1, -1, -1). ``column`` of the data set holds the gold answers. Its workers start at once. Calling it raises
    ContraposeError where the column is missing, GraderError where the grader cannot grade.
    """
    if scheme not in SCHEMES:
        raise ContraposeError(f"scheme: {scheme!r} is unknown{nearest(scheme, list(SCHEMES))}")
    verifier = Verifier(scheme, grading=grading, limits=limits)
    verifier.start()

    def reward(
        completions: Sequence[Any], log_metric: Callable[[str, float], None] | None = None, **columns: Any
    ) -> list[float]:
        if column not in columns:
            raise ContraposeError(f"{column}: the data set has no such column for the gold answers; name it as column=")
        workers = verifier.workers
        workers.check()
        golds = map(str, columns[column])
        found = [workers.submit(gold, text_of(text)) for gold, text in zip(golds, completions, strict=True)]
        verdicts = [verifier.verdict(future.result()) for future in found]
        if log_metric:
            log_metric("verify/no_answer", fmean(verdict.status == "no_answer" for verdict in verdicts))
            log_metric("verify/faults", fmean(verdict.status in FAULTS for verdict in verdicts))
        return [verdict.reward for verdict in verdicts]

    reward.__name__ = f"verified_{scheme}"
    return reward


def text_of(completion: Any) -> str:
    """What the policy wrote, of a plain completion or of a conversation's messages."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] or "" for message in completion if message["role"] == "assistant")
