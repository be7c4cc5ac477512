"""How much the policy likes a rollout: ``s_QK`` from log-probs. A leash (clip) inside it sees the rollout's side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from contrapose.objectives.plan import Plan, require

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before any exponential (nats); a ratio of e^20 is already an accident."""


class Score(Protocol):
    """``score(logp_QKT, plan) -> s_QK``, differentiable in ``logp_QKT``."""

    coupling: ClassVar[str]

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor: ...


def log_ratio(logp_QKT: Tensor, plan: Plan) -> Tensor:
    """``d = log pi_theta - log pi_old`` on response tokens, 0 elsewhere."""
    return (logp_QKT - plan.batch.old_logp_QKT).masked_fill(plan.batch.mask_QKT == 0, 0.0)


@dataclass(frozen=True)
class LogProb:
    """``s = sum_t w l``: with ``rollout_mean``, the length-normalised log-likelihood (ConSPO Eq. 10)."""

    coupling: ClassVar[str] = "token"

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        return (plan.weight_QKT * logp_QKT).sum(-1)


@dataclass(frozen=True)
class LogRatio:
    """``s = beta sum_t w (l - l_old)`` (ReNCE Eq. 2 without its margin)."""

    beta: float = 0.1
    coupling: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta must be above 0, found {self.beta}")

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        return self.beta * (plan.weight_QKT * log_ratio(logp_QKT, plan)).sum(-1)


@dataclass(frozen=True)
class ClippedRatio:
    """``s+ = sum_t w min(rho, 1 + high)``, ``s- = sum_t w max(rho, 1 - low)`` (GRPO's clip; ConSPO Eq. 7).

    ``A s`` is then ``min(rho A, clip(rho, 1 - low, 1 + high) A)``. At a tie the gradient flows. ``dual_clip``
    caps the ratio of negatives as well (not in any of the papers).
    """

    low: float = 0.2
    high: float = 0.2
    dual_clip: float | None = None
    coupling: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        require(0 <= self.low <= 1 and self.high >= 0, f"a clip of {self.low} below and {self.high} above 1 is none")
        require(self.dual_clip is None or self.dual_clip >= 1, f"dual_clip must be at least 1, found {self.dual_clip}")

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        ratio_QKT = log_ratio(logp_QKT, plan).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        pulled_QKT = ratio_QKT.clamp(max=1 + self.high)
        pushed_QKT = ratio_QKT.clamp(min=1 - self.low, max=self.dual_clip)
        leashed_QKT = torch.where(plan.side_QK.unsqueeze(-1) > 0, pulled_QKT, pushed_QKT)
        return (plan.weight_QKT * leashed_QKT).sum(-1)
