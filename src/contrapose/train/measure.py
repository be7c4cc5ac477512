"""The numbers of a step, from what was drawn and what was pushed. Names and meanings: ``report/metrics.py``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from contrapose.objectives.contrast import partition
from contrapose.objectives.credit import score_credit_of
from contrapose.objectives.diagnose import Scored, auc, effective_negatives, gap, margin_share, mean_logp
from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.objectives.score import log_ratio
from contrapose.objectives.trust import KLAggregate
from contrapose.report.metrics import UPDATE
from contrapose.train.collect import Collected
from contrapose.train.guards import Fault
from contrapose.train.update import Pushed
from contrapose.types import FAULTS, Group, Now, Verdict

OVER_UPDATES = (
    *("margin", "margin_share", "effective_negatives", "score_gap", "logp_positive", "logp_negative"),
    *("score_gap_after", "likelihood_auc", "likelihood_auc_after", "pull", "push", "grad_norm"),
)
"""What a step's row repeats of its updates, as a mean."""

KL_KEYS: dict[KLAggregate, str] = {"token_mean": "kl", "sequence_sum": "kl_sequence_sum", "sequence": "kl_sequence"}
"""The KL of an update under each normaliser."""


@torch.no_grad()
def update_row(
    objective: Objective,
    plan: Plan,
    pushed: Pushed,
    found: Scored,
    now: Now,
    kl: dict[KLAggregate, float],
    norm: float,
) -> dict[str, Any]:
    """One entry of ``updates``."""
    moved_QKT, side_QK = log_ratio(plan.masked(pushed.logp_QKT), plan), partition(plan.batch, "correct")
    moved_QK, far_M = moved_QKT.sum(-1), moved_QKT[~plan.hidden_QKT].abs()
    return {
        "J": pushed.J,
        **{KL_KEYS[how]: value for how, value in kl.items()},
        "kl_coef": now.kl_coef,
        **_likelihoods(found.score_QK, mean_logp(pushed.logp_QKT, plan.batch), side_QK),
        "log_ratio_positive": _mean(moved_QK[side_QK > 0]),
        "log_ratio_negative": _mean(moved_QK[side_QK < 0]),
        "log_ratio_99": float(far_M.kthvalue(max(1, round(0.99 * len(far_M)))).values) if len(far_M) else None,
        "log_ratio_max": float(far_M.max()) if len(far_M) else None,
        **_contrast(objective, plan, found),
        "pull": float(pushed.credit_QKT.clamp(min=0).sum()),
        "push": -float(pushed.credit_QKT.clamp(max=0).sum()),
        "grad_norm": norm,
        "skipped": None,
    }


def skipped_row(fault: Fault) -> dict[str, Any]:
    """The entry of ``updates`` for one that was not taken."""
    return {**dict.fromkeys(UPDATE), "skipped": str(fault)}


@torch.no_grad()
def after_row(objective: Objective, plan: Plan, logp_QKT: Tensor) -> dict[str, float | None]:
    """What an entry of ``updates`` says of likelihoods, once more at the log-probs after the update."""
    score_QK, logp_QK = objective.scores(logp_QKT, plan), mean_logp(logp_QKT, plan.batch)
    found = _likelihoods(score_QK, logp_QK, partition(plan.batch, "correct"))
    return {f"{key}_after": value for key, value in found.items()}


def _likelihoods(score_QK: Tensor, logp_QK: Tensor, side_QK: Tensor) -> dict[str, float | None]:
    """How the policy tells right from wrong: by the objective's own score, and by mean log-prob."""
    return {
        "score_gap": _mean(gap(score_QK, side_QK)),
        "likelihood_auc": _mean(auc(logp_QK, side_QK)),
        "logp_positive": _mean(logp_QK[side_QK > 0]),
        "logp_negative": _mean(logp_QK[side_QK < 0]),
    }


def _contrast(objective: Objective, plan: Plan, found: Scored) -> dict[str, float | None]:
    """Who pushed whom: of the contrast alone, whatever the score and the trust region."""
    score_QK, margin_QK, raised_QK, p_QK = found
    credit_QK = score_credit_of(objective, raised_QK, plan)
    p = p_QK[~p_QK.isnan()]
    low, middle, high = torch.quantile(p, p.new_tensor([0.1, 0.5, 0.9])).tolist() if len(p) else (None, None, None)
    return {
        "p_positive_10": low,
        "p_positive_50": middle,
        "p_positive_90": high,
        "effective_negatives": _mean(effective_negatives(credit_QK, plan)),
        "margin": 0.0 if margin_QK is None else _mean(margin_QK[plan.side_QK < 0]),
        "margin_share": 0.0 if margin_QK is None else _margin_share(objective, score_QK, credit_QK, plan),
    }


def _margin_share(objective: Objective, score_QK: Tensor, credit_QK: Tensor, plan: Plan) -> float | None:
    return margin_share(credit_QK, score_credit_of(objective, score_QK, plan)) if credit_QK.any() else None


def step_row(
    step: int, drawn: Collected, mastered: int, entropy: float | None, updates: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A row of ``metrics.jsonl`` but for its times."""
    groups = [group for group, _, _ in drawn.judged]
    rollouts = [r for g in groups for r in g.rollouts]
    verdicts = [v for g in groups for v in g.verdicts]

    taken = [u for u in updates if u["skipped"] is None]

    def over_updates(key: str) -> float | None:
        values = [u[key] for u in taken if u.get(key) is not None]
        return fmean(values) if values else None

    return {
        "step": step,
        "reward_mean": _over_all_drawn(groups, lambda v: v.reward),
        "accuracy": _over_all_drawn(groups, lambda v: v.correct),
        "drawn_groups": len(drawn.judged),
        "accepted_groups": len(drawn.accepted),
        "mixed_groups": fmean(group.mixed for group in groups),
        "rounds": drawn.rounds,
        "mastered_prompts": mastered,
        **token_ledger(drawn),
        "length_mean": fmean(len(r.tokens) for r in rollouts),
        "truncated": fmean(r.finished == "length" for r in rollouts),
        "no_answer": fmean(v.status == "no_answer" for v in verdicts),
        "unparsed": fmean(v.status == "unparsed" for v in verdicts),
        "verifier_faults": fmean(v.status in FAULTS for v in verdicts),
        "seconds_verify": sum(v.seconds for v in verdicts),
        "verdicts": dict(Counter(v.status for v in verdicts).most_common()),
        "entropy": entropy,
        "kl": taken[-1]["kl"] if taken else None,
        "skipped_updates": len(updates) - len(taken),
        **{key: over_updates(key) for key in OVER_UPDATES},
        "updates": list(updates),
    }


def _over_all_drawn(groups: Sequence[Group], value: Callable[[Verdict], float]) -> float:
    """The mean over all rollouts drawn; one that was cancelled counts as its group's others do."""
    count = sum(len(g.rollouts) + len(g.cancelled) for g in groups)
    known = [value(v) for g in groups for v in g.verdicts]
    guessed = [len(g.cancelled) * fmean(map(value, g.verdicts)) for g in groups if g.cancelled]
    return math.fsum([*known, *guessed]) / count


def token_ledger(drawn: Collected) -> dict[str, Any]:
    """Where a step's tokens went: generated = kept + surplus + filtered, whatever the method."""
    spent: Counter[str] = Counter(dict.fromkeys(("too_hard", "too_easy", "mastered", "kept", "surplus"), 0))
    for group, fate, kept in drawn.judged:
        spent[fate if fate != "train" else "kept" if kept else "surplus"] += group.tokens
    cancelled = [len(r.tokens) for group, _, _ in drawn.judged for r in group.cancelled]
    return {
        "generated_tokens": spent.total(),
        "kept_tokens": spent.pop("kept"),
        "surplus_tokens": spent.pop("surplus"),
        "filtered_tokens": dict(spent),
        "cancelled_rollouts": len(cancelled),
        "cancelled_tokens": sum(cancelled),
        "saved_tokens": _saved(cancelled, [len(r.tokens) for g, _, _ in drawn.judged for r in g.rollouts]),
    }


def _saved(cancelled: Sequence[int], finished: Sequence[int]) -> float:
    """What cancelled rollouts would have grown by: each as much, on average, as the finished ones that got as far."""
    rest = {n: [m - n for m in finished if m > n] for n in set(cancelled)}
    return math.fsum(fmean(rest[n]) for n in cancelled if rest[n])


def verifier_alarm(groups: Sequence[Group], rate: float, shown: int = 3) -> str | None:
    """One line when more than ``rate`` of the answers could not be graded within limits, with examples."""
    found = [
        f"{verdict.status} for {group.prompt.id}: {_tail(verdict.boxed or rollout.text)}"
        for group in groups
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
        if verdict.status in FAULTS
    ]
    share = len(found) / max(1, sum(len(group.verdicts) for group in groups))
    if share <= rate:
        return None
    return f"{share:.1%} of the answers could not be graded within limits (verify.alarm {rate:.1%}): " + "; ".join(
        found[:shown]
    )


def _tail(text: str, width: int = 60) -> str:
    """The end of a text, quoted, whatever it holds."""
    return repr(text if len(text) <= width else "..." + text[-width:])


def _mean(x: Tensor) -> float | None:
    return float(x.mean()) if x.numel() else None
