"""Which token counts how much: ``weight_QKT`` from masks and the step's totals. The only normaliser over tokens.

A rollout's score is ``sum_t weight_QKT * f(logp_QKT)``; a contrast then averages over rollouts or groups. ``m`` is the
mask, ``L_i`` a rollout's length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from contrapose.objectives.plan import Totals, require
from contrapose.types import Batch

Aggregate = Callable[[Batch, Totals], Tensor]


def token_sum(batch: Batch, totals: Totals) -> Tensor:
    """``w = m``: a score is a sum over tokens and grows with length (ReNCE Eq. 2)."""
    return batch.mask_QKT


def rollout_mean(batch: Batch, totals: Totals) -> Tensor:
    """``w = m / L_i``: a score is a mean over the rollout's own tokens (GRPO; ConSPO Eq. 10)."""
    return batch.mask_QKT / batch.mask_QKT.sum(-1, keepdim=True).clamp(min=1)


def token_mean(batch: Batch, totals: Totals) -> Tensor:
    """``w = m N / (all tokens)``, N rollouts in the step: their mean is the mean over all tokens (DAPO's code)."""
    return batch.mask_QKT * (totals.rollouts / max(1, totals.tokens))


def token_mean_group(batch: Batch, totals: Totals) -> Tensor:
    """``w = m (N/Q) / (the group's tokens)``: the mean over groups of each one's token mean (DAPO's paper).

    N/Q, the mean size of a group, rather than its own, keeps groups of unequal size at equal weight.
    """
    group_Q11 = batch.mask_QKT.sum((1, 2), keepdim=True).clamp(min=1)
    return batch.mask_QKT * (totals.rollouts / max(1, totals.prompts)) / group_Q11


@dataclass(frozen=True)
class ConstantLength:
    """``w = m / length``: every token counts the same, however long its rollout (Dr. GRPO)."""

    length: float

    def __post_init__(self) -> None:
        require(self.length > 0, f"length must be above 0, found {self.length}")

    def __call__(self, batch: Batch, totals: Totals) -> Tensor:
        return batch.mask_QKT / self.length
