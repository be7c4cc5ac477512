"""Sample answers to a set of problems, verify them, and say how good the policy is and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from contrapose.evaluate.majority import majority
from contrapose.evaluate.statistics import Estimate, estimate, pass_at_k, sampling_error
from contrapose.rollout.engine import RolloutEngine
from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.rollout.sampler import Sampling
from contrapose.types import FAULTS, Group, Prompt
from contrapose.verify.verifier import Verifier


@dataclass(frozen=True)
class Answer:
    """What counts of one sample: its length in tokens, whether the limit cut it off, and its verdict's status."""

    tokens: int
    truncated: bool
    status: str


@dataclass(frozen=True)
class Answered:
    """A problem by its prompt's id, its samples, and what their majority is worth (``majority.majority``)."""

    prompt: str
    majority: float
    answers: tuple[Answer, ...]

    @classmethod
    def of(cls, group: Group, verifier: Verifier) -> Answered:
        """What counts of a group."""
        pairs = zip(group.rollouts, group.verdicts, strict=True)
        answers = tuple(Answer(len(r.tokens), r.finished == "length", v.status) for r, v in pairs)
        return cls(group.prompt.id, majority(group, verifier), answers)

    @property
    def correct(self) -> int:
        return sum(a.status == "correct" for a in self.answers)


@dataclass(frozen=True)
class Evaluation:
    """The result of ``summary``; every ``Estimate`` has a 95 % interval over problems.

    ``accuracy`` is avg@samples; ``pass_at`` has pass@k for k = 1, 2, 4 ... samples; ``majority`` is maj@samples.
    Lengths are mean tokens, of all, right and wrong answers (None where there are none). Shares of answers:
    ``truncated`` at the limit; ``no_answer``, without a box; ``unparsed``; ``faults``, beyond the grader's limits
    (``types.FAULTS``). ``statuses`` counts answers by verdict.
    """

    problems: int
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    accuracy: Estimate
    pass_at: dict[str, Estimate]
    majority: Estimate
    length_mean: float
    length_correct: float | None
    length_wrong: float | None
    truncated: float
    no_answer: float
    unparsed: float
    faults: float
    statuses: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``eval.json``."""
        estimates = {"accuracy": self.accuracy._asdict(), "majority": self.majority._asdict()}
        return {**asdict(self), **estimates, "pass_at": {k: e._asdict() for k, e in self.pass_at.items()}}


def answers(
    engine: RolloutEngine,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    samples: int,
    sampling: Sampling,
    seed: int,
    each: Callable[[Group], None],
    ranks: Ranks = ALONE,
) -> list[tuple[Group, Answered]]:
    """What became of every prompt, in their order. ``each`` sees every group that this rank finished (progress)."""

    def work(own: Sequence[Prompt]) -> Iterator[Group]:
        return verifier.groups(engine.generate(own, samples, seed, sampling), samples)

    groups = {group.prompt.id: group for group in ranks.share(prompts, work, each)}
    return [(group, Answered.of(group, verifier)) for group in (groups[prompt.id] for prompt in prompts)]


def summary(problems: Sequence[Answered], sampling: Sampling) -> Evaluation:
    """The numbers of an evaluation. Every problem has as many samples."""
    samples = len(problems[0].answers)
    right = [p.correct for p in problems]
    answers = [a for p in problems for a in p.answers]
    statuses = Counter(a.status for a in answers)
    passing = {k: estimate(pass_at_k(right, samples, k), sampling_error(right, samples, k)) for k in _powers(samples)}

    def share(*of: str) -> float:
        return sum(statuses[status] for status in of) / len(answers)

    return Evaluation(
        problems=len(problems),
        samples=samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        accuracy=passing[1],
        pass_at={str(k): found for k, found in passing.items()},
        majority=estimate([p.majority for p in problems]),
        length_mean=fmean(a.tokens for a in answers),
        length_correct=_mean(a.tokens for a in answers if a.status == "correct"),
        length_wrong=_mean(a.tokens for a in answers if a.status != "correct"),
        truncated=sum(a.truncated for a in answers) / len(answers),
        no_answer=share("no_answer"),
        unparsed=share("unparsed"),
        faults=share(*FAULTS),
        statuses=dict(sorted(statuses.items())),
    )


def _powers(samples: int) -> list[int]:
    """1, 2, 4 ... and ``samples`` itself."""
    return sorted({*(1 << i for i in range(samples.bit_length())), samples})


def _mean(values: Iterable[int]) -> float | None:
    kept = list(values)
    return fmean(kept) if kept else None
