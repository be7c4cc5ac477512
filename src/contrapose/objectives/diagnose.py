"""What a contrast does to a batch, in numbers: for the log, never for the gradient.

Likelihoods and scores are compared between verified right and wrong rollouts, whatever an objective takes for its
positives, so that objectives can be told apart by them; a group without both is left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from contrapose.objectives.advantage import mean_of
from contrapose.objectives.contrast import log_sum_exp
from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.types import Batch, Now


class Scored(NamedTuple):
    """How an objective sees the rollouts of an update, ``[Q, K]``: its score, the margin (None without one), the two
    together, and P_i+ of these (``p_positive``; NaN throughout where scores do not compete)."""

    score_QK: Tensor
    margin_QK: Tensor | None
    raised_QK: Tensor
    p_QK: Tensor


@torch.no_grad()
def scored(objective: Objective, logp_QKT: Tensor, plan: Plan, now: Now) -> Scored:
    """The rollouts at ``logp_QKT``."""
    score_QK = objective.scores(logp_QKT, plan)
    margin_QK = objective.margin(plan, now) if objective.margin else None
    raised_QK = score_QK if margin_QK is None else score_QK + margin_QK
    tau = objective.contrast.temperature
    p_QK = p_positive(raised_QK, plan, tau) if tau else torch.full_like(score_QK, math.nan)
    return Scored(score_QK, margin_QK, raised_QK, p_QK)


def mean_logp(logp_QKT: Tensor, batch: Batch) -> Tensor:
    """Mean log-prob of a rollout's tokens, ``[Q, K]`` (nats); 0 for an empty completion."""
    summed_QK = logp_QKT.masked_fill(batch.mask_QKT == 0, 0.0).sum(-1)
    return summed_QK / batch.mask_QKT.sum(-1).clamp(min=1)


def gap(x_QK: Tensor, side_QK: Tensor) -> Tensor:
    """Mean of ``x`` over the positives of a group minus that over its negatives, one number a group that has both."""
    positive_QK, negative_QK = side_QK > 0, side_QK < 0
    both_Q = positive_QK.any(1) & negative_QK.any(1)
    return (mean_of(x_QK, positive_QK) - mean_of(x_QK, negative_QK))[both_Q]


def auc(x_QK: Tensor, side_QK: Tensor) -> Tensor:
    """P(``x`` of a positive > of a negative), ties half, one number a group that has both.

    Of right and wrong rollouts' mean log-probs: ConSPO's misalignment, a surrogate may grow while this does not.
    """
    pair_QKK = (side_QK > 0).unsqueeze(2) & (side_QK < 0).unsqueeze(1)
    off_QKK = x_QK.unsqueeze(2) - x_QK.unsqueeze(1)
    won_QKK = (off_QKK.sign() + 1) / 2
    both_Q = pair_QKK.flatten(1).any(1)
    return mean_of(won_QKK.flatten(1), pair_QKK.flatten(1))[both_Q]


def p_positive(score_QK: Tensor, plan: Plan, tau: float) -> Tensor:
    """``P_i+ = e^{s_i/tau} / (e^{s_i/tau} + sum_j e^{s_j/tau})`` of every positive (ConSPO Eq. 11), ``[Q, K]``.

    ``score_QK`` is with its margin. NaN for what is no positive, or has no negative beside it.
    """
    logit_QK = score_QK / tau
    above_QK = logit_QK - log_sum_exp(logit_QK, plan.side_QK < 0).unsqueeze(1)
    alive_Q1 = (plan.side_QK < 0).any(1, keepdim=True)
    return torch.sigmoid(above_QK).masked_fill(~((plan.side_QK > 0) & alive_Q1), math.nan)


def effective_negatives(credit_QK: Tensor, plan: Plan) -> Tensor:
    """``e^H`` of each group's distribution of push over its negatives, H its entropy: N- when all are pushed alike.

    ``credit_QK`` is dv/ds; groups that push nothing are left out.
    """
    push_QK = credit_QK.abs().masked_fill(plan.side_QK >= 0, 0.0)
    total_Q1 = push_QK.sum(1, keepdim=True)
    share_QK = push_QK / total_Q1.clamp(min=torch.finfo(push_QK.dtype).tiny)
    entropy_Q: Tensor = torch.special.entr(share_QK).sum(1)
    return entropy_Q.exp()[total_Q1.squeeze(1) > 0]


def margin_share(with_QK: Tensor, without_QK: Tensor) -> float:
    """The share of the credit dv/ds that is there because of the margin: ``sum |c - c without it| / sum |c|``."""
    total = float(with_QK.abs().sum())
    return float((with_QK - without_QK).abs().sum()) / total if total > 0 else 0.0
