"""How much the policy likes a rollout: ``s_QK`` from log-probs. A leash (clip, gate, cap) sees the rollout's side.

``w`` is the aggregate's token weight, ``l`` a token's log-prob, ``d = l - l_old`` and ``rho = e^d``. A linear contrast
multiplies the score by an advantage, so a leash is written for ``s+`` (side above 0) and ``s-``. Log-probs are 0 where
the mask is 0 (``Plan.masked``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from contrapose.objectives.plan import Plan, require
from contrapose.types import Batch

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before any exponential (nats); a ratio of e^20 is already an accident."""


class Score(Protocol):
    """``score(logp_QKT, plan) -> s_QK``, differentiable in ``logp_QKT``."""

    coupling: ClassVar[str]

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor: ...


def log_ratio(logp_QKT: Tensor, plan: Plan) -> Tensor:
    """``d = log pi_theta - log pi_old``, nats."""
    return logp_QKT - plan.batch.old_logp_QKT


def ratio(logp_QKT: Tensor, plan: Plan) -> Tensor:
    """``rho = pi_theta / pi_old`` of each token."""
    return log_ratio(logp_QKT, plan).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def leash(d: Tensor, side: Tensor, low: float, high: float, highest: float = MAX_LOG_RATIO) -> Tensor:
    """Log-ratios held from above at ``high`` (side above 0) or from below at ``low``: the clip of every ratio score.

    Beyond its bound a log-ratio has no gradient, at the bound it has. ``highest`` bounds the other sides from above.
    """
    least = torch.full_like(side, max(low, -MAX_LOG_RATIO)).masked_fill(side > 0, -MAX_LOG_RATIO)
    most = torch.full_like(side, min(highest, MAX_LOG_RATIO)).masked_fill(side > 0, min(high, MAX_LOG_RATIO))
    return d.clamp(least, most)


def reference_of(batch: Batch) -> Tensor:
    """The reference policy's log-probs ``[Q, K, T]``. Raises ValueError where they were not given."""
    if batch.reference_logp_QKT is None:
        raise ValueError("this objective compares with a reference policy: pass reference_logp")
    return batch.reference_logp_QKT


@dataclass(frozen=True)
class LogProb:
    """``s = sum_t w l``: with ``rollout_mean``, the length-normalised log-likelihood (ConSPO Eq. 10)."""

    coupling: ClassVar[str] = "token"

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        return (plan.weight_QKT * logp_QKT).sum(-1)


@dataclass(frozen=True)
class LogRatio:
    """``s = beta sum_t w (l - l_old)`` (ReNCE Eq. 2 without its margin), or to the ``"initial"`` policy (DPO)."""

    beta: float = 0.1
    to: Literal["old", "initial"] = "old"
    coupling: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        require(self.beta > 0, f"beta must be above 0, found {self.beta}")

    @property
    def reads_reference(self) -> bool:
        return self.to == "initial"

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        base_QKT = plan.batch.old_logp_QKT if self.to == "old" else reference_of(plan.batch)
        return self.beta * (plan.weight_QKT * (logp_QKT - base_QKT)).sum(-1)


@dataclass(frozen=True)
class Ratio:
    """``s = sum_t w rho``: with ``rollout_mean``, the mean likelihood ratio, on no leash (DisCO's L-ratio)."""

    coupling: ClassVar[str] = "token"

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        return (plan.weight_QKT * ratio(logp_QKT, plan)).sum(-1)


@dataclass(frozen=True)
class ClippedRatio:
    """``s+ = sum_t w min(rho, 1 + high)``, ``s- = sum_t w max(rho, 1 - low)`` (GRPO's clip; ConSPO Eq. 7).

    ``A s`` is then ``min(rho A, clip(rho, 1 - low, 1 + high) A)``. At a tie the gradient flows. ``dual_clip``
    caps the ratio of negatives as well (verl's guard; not in any of the papers).
    """

    low: float = 0.2
    high: float = 0.2
    dual_clip: float | None = None
    coupling: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high)
        require(self.dual_clip is None or self.dual_clip >= 1, f"dual_clip must be at least 1, found {self.dual_clip}")

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        highest = MAX_LOG_RATIO if self.dual_clip is None else math.log(self.dual_clip)
        side_QK1, bounds = plan.side_QK.unsqueeze(-1), _in_logs(self.low, self.high)
        held_QKT = leash(log_ratio(logp_QKT, plan), side_QK1, *bounds, highest)
        return (plan.weight_QKT * held_QKT.exp()).sum(-1)


@dataclass(frozen=True)
class SequenceRatio:
    """``s = e^{sum_t w d}``, clipped as a whole to ``1 + high`` (s+) or ``1 - low`` (s-) (GSPO).

    With ``rollout_mean`` the geometric mean of the token ratios, hence clips of a few 1e-4.
    """

    low: float = 3e-4
    high: float = 4e-4
    coupling: ClassVar[str] = "rollout"

    def __post_init__(self) -> None:
        _check_clip(self.low, self.high)

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        mean_QK = (plan.weight_QKT * log_ratio(logp_QKT, plan)).sum(-1)
        return _scored(leash(mean_QK, plan.side_QK, *_in_logs(self.low, self.high)).exp(), plan)


@dataclass(frozen=True)
class GeometricRatio:
    """``s = e^{sum_t w d'}``, ``d' = min(d, high)`` for s+ and ``max(d, -low)`` for s- (GMPO).

    The clip is of each token, in log space; a clipped token still shapes the mean.
    """

    low: float = 0.4
    high: float = 0.4
    coupling: ClassVar[str] = "rollout"

    def __post_init__(self) -> None:
        require(self.low >= 0 and self.high >= 0, f"a clip of {self.low} below and {self.high} above 0 is none")

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        held_QKT = leash(log_ratio(logp_QKT, plan), plan.side_QK.unsqueeze(-1), -self.low, self.high)
        return _scored((plan.weight_QKT * held_QKT).sum(-1).exp(), plan)


@dataclass(frozen=True)
class CappedLogProb:
    """``s = sum_t w min(rho, cap) l`` with the capped ratio detached (CISPO): every token keeps a gradient.

    Only the gradient has a meaning; the value of J does not.
    """

    cap: float = 5.0
    coupling: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        require(self.cap > 0, f"cap must be above 0, found {self.cap}")

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        return (plan.weight_QKT * ratio(logp_QKT, plan).clamp(max=self.cap).detach() * logp_QKT).sum(-1)


@dataclass(frozen=True)
class SoftGate:
    """``s = sum_t w (4/tau) sigmoid(tau (rho - 1))``, tau by side: the pull fades smoothly away from rho = 1 (SAPO)."""

    tau_positive: float = 1.0
    tau_negative: float = 1.05
    coupling: ClassVar[str] = "token"

    def __post_init__(self) -> None:
        lowest = min(self.tau_positive, self.tau_negative)
        require(lowest > 0, f"tau_positive and tau_negative must be above 0, found {lowest}")

    def __call__(self, logp_QKT: Tensor, plan: Plan) -> Tensor:
        tau_QK = torch.full_like(plan.side_QK, self.tau_negative).masked_fill(plan.side_QK > 0, self.tau_positive)
        tau_QK1 = tau_QK.unsqueeze(-1)
        gated_QKT = 4 / tau_QK1 * torch.sigmoid(tau_QK1 * (ratio(logp_QKT, plan) - 1))
        return (plan.weight_QKT * gated_QKT).sum(-1)


def _check_clip(low: float, high: float) -> None:
    require(0 <= low <= 1 and high >= 0, f"a clip of {low} below and {high} above 1 is none")


def _in_logs(low: float, high: float) -> tuple[float, float]:
    """``log(1 - low)`` and ``log(1 + high)``: near 1, single precision tells log-ratios apart better than ratios."""
    return math.log1p(-low) if low < 1 else -math.inf, math.log1p(high)


def _scored(score_QK: Tensor, plan: Plan) -> Tensor:
    """0 for an empty completion, where the exponential of an empty sum would say 1."""
    return score_QK.masked_fill(plan.hidden_QKT.all(-1), 0.0)
