"""Which token counts how much: ``weight_QKT`` from masks and the step's totals. The only normaliser over tokens.

A rollout's score is ``sum_t weight_QKT * f(logp_QKT)``; a contrast then averages over rollouts or groups.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from contrapose.objectives.plan import Totals
from contrapose.types import Batch

Aggregate = Callable[[Batch, Totals], Tensor]


def token_sum(batch: Batch, totals: Totals) -> Tensor:
    """``w = m``: a score is a sum over tokens and grows with length (ReNCE Eq. 2)."""
    return batch.mask_QKT


def rollout_mean(batch: Batch, totals: Totals) -> Tensor:
    """``w = m / L_i``: a score is a mean over the rollout's own tokens (GRPO; ConSPO Eq. 10)."""
    return batch.mask_QKT / batch.mask_QKT.sum(-1, keepdim=True).clamp(min=1)
