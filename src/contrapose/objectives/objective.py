"""An objective is five factors; calling it is five lines."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from contrapose.objectives.aggregate import Aggregate
from contrapose.objectives.contrast import Contrast
from contrapose.objectives.margin import Margin
from contrapose.objectives.plan import COUPLINGS, Plan, Totals
from contrapose.objectives.score import Score
from contrapose.objectives.trust import Trust
from contrapose.types import Batch, Now


@dataclass(frozen=True)
class Objective:
    """J as the composition of an aggregate, a score, a margin, a contrast and a trust region.

    ``plan`` first, from rewards and masks alone; then the objective is a function of the log-probs.
    """

    aggregate: Aggregate
    score: Score
    margin: Margin | None
    contrast: Contrast
    trust: Trust | None

    @property
    def coupling(self) -> str:
        """The widest coupling of the factors: how much of the step one token's credit depends on."""
        couplings = [self.score.coupling, self.contrast.coupling, self.trust.coupling if self.trust else "token"]
        return max(couplings, key=COUPLINGS.index)

    @cached_property
    def compares(self) -> bool:
        """Whether rollouts count only beside others of their group: one that is alone has no side then."""
        one = torch.ones(1, 1)
        alone = Batch(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), one, one.bool(), one.bool())
        side_QK, _ = self.contrast.sides(alone, torch.Generator())
        return not side_QK.any()

    @property
    def reads_reference(self) -> bool:
        """Whether a factor needs ``reference_logp``."""
        return any(getattr(factor, "reads_reference", False) for factor in (self.score, self.trust))

    def factors(self, settings: bool = True) -> dict[str, str]:
        """Each factor in words: its name, with or without its settings."""
        return {field.name: _words(getattr(self, field.name), settings) for field in fields(self)}

    def start(self) -> Now:
        """The schedule's state before the first step."""
        return Now(progress=0.0, kl_coef=self.trust.coef if self.trust else 0.0)

    def plan(self, batch: Batch, totals: Totals | None = None, generator: torch.Generator | None = None) -> Plan:
        """Sides, advantages and token weights. ``totals`` when ``batch`` is only a part of the optimizer step."""
        side_QK, advantage_QK = self.contrast.sides(batch, generator)
        totals = totals or Totals.of(batch)
        hidden_QKT = ~batch.mask_QKT.bool()
        known = {"old_logp_QKT": batch.old_logp_QKT, "reference_logp_QKT": batch.reference_logp_QKT}
        batch = replace(batch, **{key: torch.where(hidden_QKT, 0.0, x) for key, x in known.items() if x is not None})
        return Plan(batch, side_QK, advantage_QK, self.aggregate(batch, totals), hidden_QKT, totals)

    def scores(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        """``s_QK`` before the margin, whatever the log-probs hold under a zero mask."""
        return self.score(plan.masked(logp_QKT), plan)

    def __call__(self, logp_QKT: Tensor, plan: Plan, now: Now) -> Tensor:
        """J, to be maximised: a scalar, and for a part of a step that part's share of it. Takes masked log-probs."""
        score_QK = self.score(logp_QKT, plan)
        if self.margin:
            score_QK = score_QK + self.margin(plan, now)
        J = self.contrast(score_QK, plan).sum() / max(1, plan.totals.prompts)
        return J - self.trust(logp_QKT, plan, now) if self.trust else J


def _words(factor: Any, settings: bool) -> str:
    if not is_dataclass(factor):
        return "-" if factor is None else factor.__name__
    inner = []
    for field in fields(factor):
        part = getattr(factor, field.name)
        if callable(part):
            inner.append(_words(part, settings))
        elif settings:
            inner.append(f"{field.name}={part!r}")
    return type(factor).__name__ + (f"({', '.join(inner)})" if inner else "")
