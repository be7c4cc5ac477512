"""Prompt and text in, verdict out. What is rewarded is a scheme; what is true is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from contrapose.types import Group, Prompt, Rollout, Sampled, Verdict
from contrapose.verify.grading import Finding, Grading, grading_of
from contrapose.verify.processes import Limits
from contrapose.verify.workers import Workers, shared


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
    """Judges rollouts, in processes of their own. ``scheme`` names one of ``SCHEMES``.

    Only ``correct`` earns the right answer's reward and only ``no_answer`` that of no answer: whatever else became of
    an answer is worth a wrong one; in domains with partial credit, a score between is worth as much of the way.
    With ``truncated_is_wrong`` a rollout cut off at the limit is wrong whatever it boxed, so that a policy cannot
    box its answer and never stop; without it, the grader decides. With a ``cache`` above 0, the last so many
    tokens before ``limit`` cost reward (``overlong_punishment``); what is correct stays correct.
    """

    scheme: str = "format"
    truncated_is_wrong: bool = False
    limit: int = 0
    cache: int = 0
    grading: Grading = Grading()
    limits: Limits = Limits()

    @classmethod
    def configured(cls, settings: Mapping[str, Any], scheme: str, **rest: Any) -> Verifier:
        """From the keys of ``[verify]``. Raises ContraposeError that names one that is not valid."""
        grading = grading_of(settings["domain"], settings["answer"], settings["conventions"])
        limits = Limits(**{key: settings[key] for key in Limits.__dataclass_fields__})
        return cls(scheme, **rest, grading=grading, limits=limits)

    @property
    def workers(self) -> Workers:
        """Where the grading is done, shared by all verifiers of these settings."""
        return shared(self.grading, self.limits)

    def start(self) -> None:
        """Start the workers in the background; otherwise the first response does."""
        shared(self.grading, self.limits)

    def __call__(self, prompt: Prompt, rollout: Rollout) -> Verdict:
        [group] = self.groups([[Sampled(prompt, 0, rollout)]], 1)
        return group.verdicts[0]

    def groups(
        self,
        sampled: Iterable[Sequence[Sampled]],
        k: int,
        watch: Callable[[Prompt, list[Verdict]], None] | None = None,
    ) -> Iterator[Group]:
        """The groups of ``k`` in the order in which they are complete; each answer is graded while others are sampled.

        Where somebody watches, sampling waits at each step for the verdicts on what finished in it, and ``watch`` is
        told all verdicts so far on each prompt concerned: what it then does cannot depend on how long grading takes.
        Raises GraderError before the first verdict if the grader fails its self-test.
        """
        workers = self.workers
        growing: dict[str, _Growing] = {}
        waiting: deque[_Growing] = deque()
        for step in sampled:
            touched = {s.prompt.id: growing.setdefault(s.prompt.id, _Growing(s.prompt)) for s in step}
            for s in step:
                touched[s.prompt.id].add(s.index, s.rollout, workers)
            for group in touched.values():
                if watch:
                    watch(group.prompt, self._verdicts(group))
                if len(group.rollouts) == k:
                    waiting.append(growing.pop(group.prompt.id))
            while waiting and all(future.done() for future in waiting[0].futures.values()):
                yield self._group(waiting.popleft())
        while waiting:
            yield self._group(waiting.popleft())

    def grade(self, gold: str, text: str) -> Verdict:
        """The verdict on a whole response."""
        self.workers.check()
        return self.verdict(self.workers.submit(gold, text).result())

    def verdict(self, found: Finding) -> Verdict:
        """What a finding is worth."""
        rewards = SCHEMES[self.scheme]
        if found.status == "no_answer":
            reward = rewards.no_answer
        else:
            reward = rewards.wrong + found.score * (rewards.correct - rewards.wrong)
        return Verdict(reward, found.status == "correct", found.answer, found.status, found.seconds)

    def _group(self, group: _Growing) -> Group:
        finished = [group.rollouts[i] for i in sorted(group.futures)]
        cancelled = [group.rollouts[i] for i in sorted(group.rollouts.keys() - group.futures.keys())]
        return Group(group.prompt, tuple(finished), tuple(self._verdicts(group)), tuple(cancelled))

    def _verdicts(self, group: _Growing) -> list[Verdict]:
        self.workers.check()
        return [self._verdict(group.rollouts[i], group.futures[i].result()) for i in sorted(group.futures)]

    def _verdict(self, rollout: Rollout, found: Finding) -> Verdict:
        cut = self.truncated_is_wrong and rollout.finished == "length"
        if cut and (found.status == "correct" or found.score > 0):
            found = found._replace(status="wrong", score=0.0)
        verdict = self.verdict(found)
        if not self.cache:
            return verdict
        punishment = overlong_punishment(len(rollout.tokens), self.limit, self.cache)
        return replace(verdict, reward=verdict.reward + punishment)


@dataclass
class _Growing:
    """What is there of a group: its rollouts by index, and the findings to come on those that were not cancelled."""

    prompt: Prompt
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    futures: dict[int, Future[Finding]] = field(default_factory=dict)

    def add(self, index: int, rollout: Rollout, workers: Workers) -> None:
        """Take in a rollout, and have it graded."""
        self.rollouts[index] = rollout
        if rollout.finished != "cancelled":
            self.futures[index] = workers.submit(self.prompt.answer, rollout.text)
