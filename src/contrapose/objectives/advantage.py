"""From rewards to advantages: what each rollout's score is worth in a linear contrast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from contrapose.objectives.plan import require
from contrapose.types import SAME_REWARD

Advantage = Callable[[Tensor, Tensor], Tensor]
"""``(reward_QK, present_QK) -> advantage_QK``, 0 for absent rollouts."""


def mean_of(x_QK: Tensor, among_QK: Tensor) -> Tensor:
    """Mean over the rollouts ``among_QK``, ``[Q]``; 0 where there are none."""
    return x_QK.masked_fill(~among_QK, 0.0).sum(1) / among_QK.sum(1).clamp(min=1)


def raw(reward_QK: Tensor, present_QK: Tensor) -> Tensor:
    """``A = r``: a group of equal rewards is pulled or pushed as one (REINFORCE)."""
    return reward_QK.masked_fill(~present_QK, 0.0)


def centre(reward_QK: Tensor, present_QK: Tensor) -> Tensor:
    """``A = r - mean r`` (Dr. GRPO); exactly 0 in a group of equal rewards."""
    off_QK = reward_QK - mean_of(reward_QK, present_QK).unsqueeze(1)
    return off_QK.masked_fill(~present_QK | _equal(reward_QK, present_QK), 0.0)


def leave_one_out(reward_QK: Tensor, present_QK: Tensor) -> Tensor:
    """``A_i = r_i - mean of the others' r = K/(K-1) (r_i - mean r)`` (RLOO); 0 for a rollout that is alone."""
    K_Q1 = present_QK.sum(1, keepdim=True).to(reward_QK.dtype)
    return centre(reward_QK, present_QK) * (K_Q1 / (K_Q1 - 1).clamp(min=1))


@dataclass(frozen=True)
class ZScore:
    """``A = (r - mean r) / (std r + eps)`` (GRPO); exactly 0 in a group of equal rewards, whatever ``eps``.

    ``ddof`` 1 is what every released code does; ConSPO's Eq. 1, Proposition 1 and Lemma 1 need 0. It scales all
    advantages by ``sqrt((K-1)/K)``. The released codes' ``eps``: verl 1e-6, TRL 1e-4, oat 1e-8.
    """

    ddof: int = 1
    eps: float = 1e-6

    def __post_init__(self) -> None:
        require(self.ddof in (0, 1), f"ddof is 0 or 1, found {self.ddof}")
        require(self.eps >= 0, f"eps must be at least 0, found {self.eps}")

    def __call__(self, reward_QK: Tensor, present_QK: Tensor) -> Tensor:
        off_QK = centre(reward_QK, present_QK)
        freedom_Q1 = (present_QK.sum(1, keepdim=True) - self.ddof).clamp(min=1)
        std_Q1 = (off_QK.square().sum(1, keepdim=True) / freedom_Q1).sqrt()
        return off_QK / (std_Q1 + self.eps).masked_fill(_equal(reward_QK, present_QK), 1.0)


def _equal(reward_QK: Tensor, present_QK: Tensor) -> Tensor:
    highest_Q1 = reward_QK.masked_fill(~present_QK, -math.inf).amax(1, keepdim=True)
    lowest_Q1 = reward_QK.masked_fill(~present_QK, math.inf).amin(1, keepdim=True)
    return highest_Q1 - lowest_Q1 <= SAME_REWARD
