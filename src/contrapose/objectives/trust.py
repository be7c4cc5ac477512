"""How far from pi_old (or a reference) the policy may go: a penalty subtracted from J, and its controller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from contrapose.objectives.plan import Plan, require
from contrapose.objectives.score import MAX_LOG_RATIO, log_ratio, reference_of
from contrapose.types import Now

KLAggregate = Literal["token_mean", "sequence_sum", "sequence"]
MAX_SEQUENCE_LOG_RATIO = 10.0

COEF_BOUNDS = (1e-6, 1e3)
"""How far a controller alone takes a coefficient: below it no trust region is left, above it nothing else."""


class Trust(Protocol):
    """``trust(logp_QKT, plan, now) -> penalty`` (a scalar: this part's share of the step's) and its controller."""

    @property
    def coef(self) -> float: ...
    @property
    def coupling(self) -> str: ...
    def __call__(self, logp_QKT: Tensor, plan: Plan, now: Now) -> Tensor: ...
    def adapt(self, now: Now, kl: Mapping[KLAggregate, float], rollouts: int) -> Now: ...


class _K3(torch.autograd.Function):
    """``e^d - 1 - d`` and its derivative ``e^d - 1``, both without the cancellation that autograd would bring."""

    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        held = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        slope = torch.expm1(held)
        ctx.save_for_backward(slope)
        value = (d - held).mul_(slope).add_(slope).sub_(held)  # in place: fresh memory costs more than arithmetic
        series = d.mul(1 / 6).add_(1 / 2).mul_(d).mul_(d)  # d^2/2 + d^3/6
        return torch.where(held.abs_() < 1e-3, series, value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.saved_tensors[0]


def k3(d: Tensor) -> Tensor:
    """``e^d - 1 - d``, unbiased and never negative: KL(q || p) per sample from q, with d = log p - log q.

    For the trust region the samples are pi_old's, so ``d = new - old``; the swapped order estimates something
    else. Below 1e-3 the value is its series, where the subtraction would cancel. Beyond 20 nats it goes on as a
    straight line: the pull back is bounded, and never lost.
    """
    return cast(Tensor, _K3.apply(d))


def kl_old(logp_QKT: Tensor, plan: Plan, aggregate: KLAggregate = "token_mean") -> Tensor:
    """This part's share of the step's KL(pi_old || pi_theta), in nats; ``logp_QKT`` masked.

    ``token_mean``: over all tokens of the step. ``sequence_sum``: summed over a rollout's tokens, mean over
    rollouts. ``sequence``: k3 of the whole rollout's log-ratio (clamped to 10 nats), mean over rollouts.
    """
    d_QKT = log_ratio(logp_QKT, plan)
    if aggregate == "sequence":
        d_QK = d_QKT.sum(-1).clamp(-MAX_LOG_RATIO, MAX_SEQUENCE_LOG_RATIO)
        return k3(d_QK).sum() / max(1, plan.totals.rollouts)
    return k3(d_QKT).sum() / max(1, plan.totals.tokens if aggregate == "token_mean" else plan.totals.rollouts)


@torch.no_grad()
def kl_seen(logp_QKT: Tensor, plan: Plan) -> dict[KLAggregate, float]:
    """KL(pi_old || pi_theta) of a whole step under each normaliser, for ``Trust.adapt``."""
    live_QKT = plan.masked(logp_QKT)
    return {how: float(kl_old(live_QKT, plan, how)) for how in get_args(KLAggregate)}


@dataclass(frozen=True)
class KLOld:
    """``lambda KL(pi_old || pi_theta)`` with k3, and Ziegler's controller for lambda (ReNCE Eq. 1, Sec. 3.5).

    After an optimizer step ``lambda <- lambda (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon)``, n the
    step's rollouts. The paper names neither the estimator nor the normaliser; ``aggregate`` chooses it.
    """

    coef: float = 0.001
    target: float = 0.01
    horizon: float = 25600.0
    aggregate: KLAggregate = "token_mean"

    def __post_init__(self) -> None:
        require(self.coef >= 0, f"the KL's coefficient must be at least 0, found {self.coef}")
        require(self.target > 0, f"the KL's target must be above 0, found {self.target}")
        require(self.horizon > 0, f"the KL's horizon must be above 0, found {self.horizon}")

    @property
    def coupling(self) -> str:
        return "rollout" if self.aggregate == "sequence" else "token"

    def __call__(self, logp_QKT: Tensor, plan: Plan, now: Now) -> Tensor:
        return now.kl_coef * kl_old(logp_QKT, plan, self.aggregate)

    def adapt(self, now: Now, kl: Mapping[KLAggregate, float], rollouts: int) -> Now:
        """The next lambda, from this step's KL under each aggregate; call it only when theta had left pi_old.

        A KL that is not finite says nothing, and leaves lambda. It stays within ``COEF_BOUNDS``; where somebody set it
        beyond (0: no trust region), it goes no further out.
        """
        if not math.isfinite(kl[self.aggregate]):
            return now
        error = min(max(kl[self.aggregate] / self.target - 1, -0.2), 0.2)
        coef = now.kl_coef * (1 + error * rollouts / self.horizon)
        low, high = min(COEF_BOUNDS[0], now.kl_coef), max(COEF_BOUNDS[1], now.kl_coef)
        return replace(now, kl_coef=min(max(coef, low), high))


class Unadapted:
    """A penalty whose coefficient stays what it is."""

    def adapt(self, now: Now, kl: Mapping[KLAggregate, float], rollouts: int) -> Now:
        return now


@dataclass(frozen=True)
class KLReference(Unadapted):
    """``beta k3`` of KL(pi_theta || pi_ref), weighted like the loss (GRPO's third term). Needs ``reference_logp``."""

    coef: float = 0.04
    coupling: ClassVar[str] = "token"
    reads_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.coef >= 0, f"the KL's coefficient must be at least 0, found {self.coef}")

    def __call__(self, logp_QKT: Tensor, plan: Plan, now: Now) -> Tensor:
        d_QKT = reference_of(plan.batch) - logp_QKT
        return now.kl_coef * (plan.weight_QKT * k3(d_QKT)).sum() / max(1, plan.totals.rollouts)


@dataclass(frozen=True)
class KLHinge(Unadapted):
    """``(coef/2) [KL - delta]_+^2`` of KL(pi_old || pi_theta), its gradient ``coef [KL - delta]_+ dKL`` (DisCO).

    KL is the mean of ``log pi_old - log pi_theta`` (k1) over all tokens of the optimizer step, so one number couples
    them all; a part of a step finds it in ``plan.totals.log_ratio``.
    """

    delta: float = 1e-4
    coef: float = 1e3
    coupling: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        require(self.delta >= 0, f"delta must be at least 0, found {self.delta}")
        require(self.coef >= 0, f"hinge must be at least 0, found {self.coef}")

    def __call__(self, logp_QKT: Tensor, plan: Plan, now: Now) -> Tensor:
        tokens, part = max(1, plan.totals.tokens), -log_ratio(logp_QKT, plan).sum()
        kl = float(part.detach() if plan.totals.log_ratio is None else -plan.totals.log_ratio) / tokens
        if kl <= self.delta or now.kl_coef == 0:
            return part.new_zeros(())
        excess = kl - self.delta
        share = float(plan.batch.mask_QKT.sum()) / tokens
        return now.kl_coef * excess * ((part - part.detach()) / tokens + share * excess / 2)
