"""Who is pushed against whom: ``v_Q`` from scores. A contrast also says which rollouts are positive and negative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from contrapose.objectives.advantage import Advantage, mean_of
from contrapose.objectives.plan import Plan, require
from contrapose.types import SAME_REWARD, Batch

Positives = Literal["best", "correct"]


class Contrast(Protocol):
    """``sides(batch) -> side_QK, advantage_QK`` before any log-prob is known; ``contrast(s_QK, plan) -> v_Q``."""

    coupling: ClassVar[str]

    @property
    def temperature(self) -> float | None:
        """At which scores compete with each other; None where they do not."""

    def sides(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]: ...
    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor: ...


def partition(batch: Batch, positives: Positives) -> Tensor:
    """``side_QK``: +1 for the positives, -1 for the rest, 0 for padding and empty completions (they have no score).

    ``"best"``: every rollout within 1e-6 of its group's highest reward (ReNCE Eq. 1). ``"correct"``: verified
    right (ConSPO Eq. 15). A group without both kinds is dead: all its sides are 0.
    """
    if positives == "best":
        reward_QK = batch.reward_QK.masked_fill(~batch.present_QK, -math.inf)
        right_QK = reward_QK >= reward_QK.amax(1, keepdim=True) - SAME_REWARD
    else:
        right_QK = batch.correct_QK.bool()
    scored_QK = batch.present_QK & (batch.mask_QKT.sum(-1) > 0)
    positive_QK, negative_QK = right_QK & scored_QK, ~right_QK & scored_QK
    alive_Q1 = positive_QK.any(1, keepdim=True) & negative_QK.any(1, keepdim=True)
    return ((positive_QK.int() - negative_QK.int()) * alive_Q1).to(batch.reward_QK.dtype)


def log_sum_exp(x_QK: Tensor, among_QK: Tensor) -> Tensor:
    """Log-sum-exp over the rollouts ``among_QK``, ``[Q]``; rows with none are finite and to be thrown away.

    Rollouts that are impossible (-inf) have no share, even where there are no others.
    """
    none_Q1 = ~among_QK.any(1, keepdim=True)
    finite_QK = x_QK.clamp(min=torch.finfo(x_QK.dtype).min / 4)
    return finite_QK.masked_fill(~(among_QK | none_Q1), -math.inf).logsumexp(1)


@dataclass(frozen=True)
class OneAgainstOther:
    """What the contrasts of positives with negatives share: how the sides are chosen."""

    positives: Positives = "best"
    coupling: ClassVar[str] = "group"

    @property
    def temperature(self) -> float | None:
        return 1.0

    def sides(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return partition(batch, self.positives), torch.zeros_like(batch.reward_QK)


@dataclass(frozen=True)
class Tempered(OneAgainstOther):
    """A contrast in which scores compete at a temperature."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        require(self.tau > 0, f"tau must be above 0, found {self.tau}")

    @property
    def temperature(self) -> float | None:
        return self.tau


@dataclass(frozen=True)
class NCE(Tempered):
    """``v = mean over positives i of tau log[ e^{s_i/tau} / (e^{s_i/tau} + sum over negatives j of e^{s_j/tau}) ]``.

    ReNCE Eq. 1 (tau 1, positives the best) and ConSPO Eq. 15 (tau 10, positives the correct). Each positive is
    contrasted with all negatives and with no other positive.
    """

    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor:
        logit_QK = score_QK / self.tau
        negatives_Q1 = log_sum_exp(logit_QK, plan.side_QK < 0).unsqueeze(1)
        return mean_of(self.tau * F.logsigmoid(logit_QK - negatives_Q1), plan.side_QK > 0)


@dataclass(frozen=True)
class Softmax(OneAgainstOther):
    """``v = mean over positives i of s_i - LSE over the whole group``: positives compete too (ReNCE Table 4)."""

    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor:
        everyone_Q1 = log_sum_exp(score_QK, plan.side_QK != 0).unsqueeze(1)
        return mean_of(score_QK - everyone_Q1, plan.side_QK > 0)


@dataclass(frozen=True)
class AllPairs(OneAgainstOther):
    """``v = mean over pairs (i, j) of log sigmoid(s_i - s_j)`` (ReNCE Table 4; Group-DPO)."""

    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor:
        pair_QKK = (plan.side_QK > 0).unsqueeze(2) & (plan.side_QK < 0).unsqueeze(1)
        gap_QKK = (score_QK.unsqueeze(2) - score_QK.unsqueeze(1)).masked_fill(~pair_QKK, 0.0)
        return mean_of(F.logsigmoid(gap_QKK).flatten(1), pair_QKK.flatten(1))


@dataclass(frozen=True)
class RandomPair(OneAgainstOther):
    """``v = log sigmoid(s_i - s_j)`` of one pair a group, drawn uniformly at each visit (ReNCE Table 4)."""

    def sides(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        side_QK = partition(batch, self.positives)
        # drawn on the CPU in float64, so that a generator gives the same pairs on every device and dtype
        lot_QK = torch.rand(side_QK.shape, generator=generator, dtype=torch.float64).to(side_QK.device)
        pair_QK = torch.zeros_like(side_QK)
        for sign in (1, -1):
            drawn_Q1 = lot_QK.masked_fill(side_QK != sign, -1.0).argmax(1, keepdim=True)
            pair_QK.scatter_(1, drawn_Q1, side_QK.gather(1, drawn_Q1))
        return pair_QK, torch.zeros_like(batch.reward_QK)

    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor:
        return NCE()(score_QK, plan)


@dataclass(frozen=True)
class DRO(Tempered):
    """``v = mean_i s_i - tau log( mean_j e^{s_j/tau} )``: the likelier a negative, the harder its push (DisCO).

    The positives' gate of NCE held wide open; a high ``tau`` makes it ``MeanDifference``.
    """

    tau: float = 10.0

    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor:
        negative_QK = plan.side_QK < 0
        several_Q = negative_QK.sum(1).clamp(min=1).to(score_QK.dtype)
        negatives_Q = self.tau * (log_sum_exp(score_QK / self.tau, negative_QK) - several_Q.log())
        alive_Q = (plan.side_QK != 0).any(1)
        return (mean_of(score_QK, plan.side_QK > 0) - negatives_Q).masked_fill(~alive_Q, 0.0)


@dataclass(frozen=True)
class MeanDifference(OneAgainstOther):
    """``v = mean_i s_i - mean_j s_j`` (DisCO-b): weight 1 for every group that has both, however hard it is."""

    @property
    def temperature(self) -> float | None:
        return None

    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor:
        return mean_of(score_QK, plan.side_QK > 0) - mean_of(score_QK, plan.side_QK < 0)


@dataclass(frozen=True)
class Linear:
    """``v = (1/K) sum_i A_i s_i`` with the advantage ``A`` of each rollout (GRPO and its kin).

    ``of`` chooses what the advantage is taken of: the shaped reward or verified correctness. The sign of ``A`` is
    the side. Rollouts are averaged over the whole step, so that groups of unequal K weigh by their size.
    """

    advantage: Advantage
    of: Literal["reward", "correct"] = "reward"
    coupling: ClassVar[str] = "token"

    @property
    def temperature(self) -> float | None:
        return None

    def sides(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x_QK = (batch.reward_QK if self.of == "reward" else batch.correct_QK).to(batch.reward_QK.dtype)
        advantage_QK = self.advantage(x_QK, batch.present_QK)
        return advantage_QK.sign(), advantage_QK

    def __call__(self, score_QK: Tensor, plan: Plan) -> Tensor:
        weighed_QK = score_QK.masked_fill(plan.advantage_QK == 0, 0.0)  # 0 times -inf is 0 here
        return (plan.advantage_QK * weighed_QK).sum(1) * (plan.totals.prompts / max(1, plan.totals.rollouts))
