"""Sample answers to a set of problems, verify them, and say how good the policy is and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contrapose.evaluate.statistics import Estimate, average_at_k, pass_at_k
from contrapose.rollout.engine import RolloutEngine
from contrapose.rollout.sampler import Sampling
from contrapose.types import Group, Prompt
from contrapose.verify.verifier import Verifier


@dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate``: accuracy is avg@samples with its 95 % interval, lengths are in tokens. ``no_answer``
    and ``faults`` are shares of answers: without a box, and beyond the grader's limits (``types.FAULTS``)."""

    problems: int
    samples: int
    temperature: float
    top_p: float
    accuracy: Estimate
    pass_at_samples: float
    length_mean: float
    truncated: float
    no_answer: float
    faults: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``eval.json``."""
        return {**asdict(self), "accuracy": self.accuracy._asdict()}


def evaluate(
    engine: RolloutEngine,
    verifier: Verifier,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    sampling: Sampling,
    seed: int = 0,
    each: Callable[[Group], None] = lambda group: None,
) -> Evaluation:
    """Draw ``samples`` answers to every prompt. ``each`` sees every finished group (progress, records)."""
    groups: list[Group] = []
    for group in verifier.groups(engine.generate(prompts, samples, seed, sampling), samples):
        groups.append(group)
        each(group)
    right = [g.correct for g in groups]
    total = len(groups) * samples
    return Evaluation(
        problems=len(groups),
        samples=samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        accuracy=average_at_k(right, samples),
        pass_at_samples=pass_at_k(right, samples, samples),
        length_mean=sum(g.tokens for g in groups) / total,
        truncated=sum(r.finished == "length" for g in groups for r in g.rollouts) / total,
        no_answer=sum(v.status == "no_answer" for g in groups for v in g.verdicts) / total,
        faults=sum(g.faults for g in groups) / total,
    )
