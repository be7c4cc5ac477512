"""The numbers of a step, from what was drawn and what was pushed. Names and meanings: ``report/metrics.py``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, get_args

import torch

from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.objectives.score import log_ratio
from contrapose.objectives.trust import KLAggregate, kl_old
from contrapose.train.collect import Collected
from contrapose.train.update import Pushed
from contrapose.types import Now


@torch.no_grad()
def kl_seen(pushed: Pushed, plan: Plan) -> dict[KLAggregate, float]:
    """KL(pi_old || pi_theta) of one optimizer step before it was taken, under each normaliser."""
    return {how: float(kl_old(pushed.logp_QKT, plan, how)) for how in get_args(KLAggregate)}


@torch.no_grad()
def update_row(
    objective: Objective, plan: Plan, pushed: Pushed, now: Now, kl: dict[KLAggregate, float], norm: float
) -> dict[str, Any]:
    """One entry of ``updates``."""
    mask_QKT, side_QK = plan.batch.mask_QKT, plan.side_QK
    score_QK = objective.scores(pushed.logp_QKT, plan)
    summed_QK = pushed.logp_QKT.masked_fill(mask_QKT == 0, 0.0).sum(-1)
    mean_QK = summed_QK / mask_QKT.sum(-1).clamp(min=1)
    moved_QK = log_ratio(pushed.logp_QKT, plan).sum(-1)
    margin_QK = objective.margin(plan, now) if objective.margin else torch.zeros_like(score_QK)
    positive_QK, negative_QK = side_QK > 0, side_QK < 0
    both_Q = positive_QK.any(1) & negative_QK.any(1)
    gaps = [
        float(score[p].mean() - score[n].mean())
        for score, p, n in zip(score_QK[both_Q], positive_QK[both_Q], negative_QK[both_Q], strict=True)
    ]
    return {
        "J": pushed.J,
        "kl": kl["token_mean"],
        "kl_sequence_sum": kl["sequence_sum"],
        "kl_sequence": kl["sequence"],
        "kl_coef": now.kl_coef,
        "margin": _mean(margin_QK, negative_QK),
        "score_gap": fmean(gaps) if gaps else None,
        "logp_positive": _mean(mean_QK, positive_QK),
        "logp_negative": _mean(mean_QK, negative_QK),
        "log_ratio_positive": _mean(moved_QK, positive_QK),
        "log_ratio_negative": _mean(moved_QK, negative_QK),
        "grad_norm": norm,
    }


def step_row(
    step: int, drawn: Collected, mastered: int, entropy: float | None, updates: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A row of ``metrics.jsonl`` but for its times."""
    rollouts = [r for g, _, _ in drawn.judged for r in g.rollouts]
    verdicts = [v for g, _, _ in drawn.judged for v in g.verdicts]

    def over_updates(key: str) -> float | None:
        values = [u[key] for u in updates if u[key] is not None]
        return fmean(values) if values else None

    return {
        "step": step,
        "reward_mean": fmean(v.reward for v in verdicts),
        "accuracy": fmean(v.correct for v in verdicts),
        "drawn_groups": len(drawn.judged),
        "accepted_groups": len(drawn.accepted),
        "rounds": drawn.rounds,
        "mastered_prompts": mastered,
        "generated_tokens": sum(len(r.tokens) for r in rollouts),
        "kept_tokens": sum(g.tokens for g in drawn.accepted),
        "length_mean": fmean(len(r.tokens) for r in rollouts),
        "truncated": fmean(r.finished == "length" for r in rollouts),
        "no_answer": fmean(not v.boxed for v in verdicts),
        "entropy": entropy,
        "kl": updates[-1]["kl"] if updates else None,
        **{key: over_updates(key) for key in ("margin", "score_gap", "logp_positive", "logp_negative", "grad_norm")},
        "updates": list(updates),
    }


def _mean(x_QK: torch.Tensor, among_QK: torch.Tensor) -> float | None:
    return float(x_QK[among_QK].mean()) if bool(among_QK.any()) else None
