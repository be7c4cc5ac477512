"""Prompt and text in, verdict out. What is rewarded is a scheme; what is true is not."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import NamedTuple

from contrapose.types import Prompt, Rollout, Verdict
from contrapose.verify.answer import boxed
from contrapose.verify.equal import equal


class Rewards(NamedTuple):
    """The reward of a right answer, of a boxed but wrong one, and of one without a box."""

    correct: float
    wrong: float
    no_answer: float


SCHEMES = {
    "format": Rewards(1.0, 0.1, 0.0),  # ReNCE Sec. 4.1
    "binary": Rewards(1.0, 0.0, 0.0),  # ConSPO, GRPO
    "sign": Rewards(1.0, -1.0, -1.0),  # DAPO
}


def overlong_punishment(length: int, limit: int, cache: int) -> float:
    """DAPO's soft punishment: 0 up to ``limit - cache`` tokens, falling to -1 at ``limit``, and -1 beyond.

    The paper's floor is kept; verl's code has none, and needs none while no response exceeds the limit.
    """
    exceeded = length - (limit - cache)
    return 0.0 if exceeded <= 0 else -min(1.0, exceeded / cache)


@dataclass(frozen=True)
class Verifier:
    """Judges rollouts by their last boxed answer. ``scheme`` names one of ``SCHEMES``.

    With ``truncated_is_wrong`` a rollout cut off at the limit is wrong whatever it boxed, so that a policy cannot
    box its answer and never stop; without it, the verifier decides. With a ``cache`` above 0, the last so many
    tokens before ``limit`` cost reward (``overlong_punishment``); what is correct stays correct.
    """

    scheme: str = "format"
    truncated_is_wrong: bool = False
    limit: int = 0
    cache: int = 0

    def __call__(self, prompt: Prompt, rollout: Rollout) -> Verdict:
        verdict = self.grade(prompt.answer, rollout.text)
        if verdict.correct and self.truncated_is_wrong and rollout.finished == "length":
            verdict = replace(verdict, reward=SCHEMES[self.scheme].wrong, correct=False, status="wrong")
        if self.cache:
            punishment = overlong_punishment(len(rollout.tokens), self.limit, self.cache)
            verdict = replace(verdict, reward=verdict.reward + punishment)
        return verdict

    def grade(self, gold: str, text: str) -> Verdict:
        """The verdict on a whole response."""
        start, rewards = time.perf_counter(), SCHEMES[self.scheme]
        answer = boxed(text)
        if not answer:
            reward, status = rewards.no_answer, "no_answer"
        elif equal(gold, answer):
            reward, status = rewards.correct, "correct"
        else:
            reward, status = rewards.wrong, "wrong"
        return Verdict(reward, status == "correct", answer, status, time.perf_counter() - start)
