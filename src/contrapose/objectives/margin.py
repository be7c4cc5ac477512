"""How far apart right and wrong must be: an offset in score units, added to every negative.

ConSPO Eq. 15 subtracts its margin from the positive instead; in a contrast of differences that is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from contrapose.objectives.plan import Plan, require
from contrapose.types import Now


class Margin(Protocol):
    """``margin(plan, now) -> offset_QK``: 0 except on negatives."""

    def __call__(self, plan: Plan, now: Now) -> Tensor: ...


@dataclass(frozen=True)
class RewardGap:
    """``alpha (r_max - r_i)``: the worse a negative, the further away it must go (ReNCE Eq. 2)."""

    alpha: float = 0.5

    def __post_init__(self) -> None:
        require(self.alpha >= 0, f"alpha must be at least 0, found {self.alpha}")

    def __call__(self, plan: Plan, now: Now) -> Tensor:
        reward_QK = plan.batch.reward_QK
        best_Q1 = reward_QK.masked_fill(~plan.batch.present_QK, -math.inf).amax(1, keepdim=True)
        return torch.where(plan.side_QK < 0, self.alpha * (best_Q1 - reward_QK), 0.0)


@dataclass(frozen=True)
class Constant:
    """The same ``gap`` for every negative (ReNCE Table 2 "Constant Margin"; ConSPO Table 6 "w/ fixed margin")."""

    gap: float

    def __post_init__(self) -> None:
        require(self.gap >= 0, f"a margin must be at least 0, found {self.gap}")

    def __call__(self, plan: Plan, now: Now) -> Tensor:
        return torch.where(plan.side_QK < 0, self.gap, torch.zeros_like(plan.batch.reward_QK))


@dataclass(frozen=True)
class Cosine:
    """``m_t = M/2 (1 - cos(pi min(progress / warmup, 1)))``: from 0 to M over the warm-up (ConSPO Eq. 16)."""

    M: float = 0.01
    warmup: float = 0.3

    def __post_init__(self) -> None:
        require(self.M >= 0, f"M must be at least 0, found {self.M}")
        require(self.warmup >= 0, f"warmup must be at least 0, found {self.warmup}")

    def __call__(self, plan: Plan, now: Now) -> Tensor:
        risen = min(now.progress / self.warmup, 1.0) if self.warmup > 0 else 1.0
        return Constant(self.M / 2 * (1 - math.cos(math.pi * risen)))(plan, now)
