"""What an objective decides before it sees a log-prob: sides, advantages, token weights, and the step's totals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from contrapose.types import Batch

COUPLINGS = ("token", "rollout", "group", "step")
"""What a token's credit may depend on, narrow to wide: its own log-prob, its rollout's, its group's, the step's."""


def require(holds: bool, text: str) -> None:
    """Raise ValueError when a factor's setting makes no sense."""
    if not holds:
        raise ValueError(text)


def tokens_of(batch: Batch) -> int:
    """How many response tokens. Summed by rollout first: single precision counts no further than 16.7 million."""
    return int(batch.mask_QKT.sum(-1).sum(dtype=torch.float64))


@dataclass(frozen=True)
class Totals:
    """Global counts of one optimizer step: the denominators, whatever part of the step is at hand.

    ``prompts`` and ``rollouts`` count those present (dead groups and empty completions included), ``tokens``
    the response tokens under the mask. ``log_ratio`` is the sum over those tokens of ``log pi_theta - log pi_old``,
    which a trust region of coupling ``step`` needs (DisCO's hinge); None: the part at hand is the whole step.
    """

    prompts: int
    rollouts: int
    tokens: int
    log_ratio: float | None = None

    @classmethod
    def of(cls, batch: Batch) -> Totals:
        """The totals of a step that ``batch`` holds whole."""
        return cls(
            prompts=int(batch.present_QK.any(1).sum()),
            rollouts=int(batch.present_QK.sum()),
            tokens=tokens_of(batch),
        )


@dataclass(frozen=True)
class Plan:
    """A batch as an objective sees it, constant in theta.

    It may be cut by group, and by rollout where no factor couples a whole group.

    ``side_QK`` is +1 for a positive, -1 for a negative, 0 for neither; ``advantage_QK`` weights the score of
    each rollout in a linear contrast and is 0 elsewhere; ``weight_QKT`` comes from the aggregate; ``hidden_QKT`` is
    True where the mask is 0.
    """

    batch: Batch
    side_QK: Tensor
    advantage_QK: Tensor
    weight_QKT: Tensor
    hidden_QKT: Tensor
    totals: Totals

    def masked(self, logp_QKT: Tensor) -> Tensor:
        """Log-probs with 0 where the mask is 0, whatever stood there; those in ``batch`` are so already."""
        return torch.where(self.hidden_QKT, 0.0, logp_QKT)

    def groups(self, start: int, stop: int) -> Plan:
        """The plan of groups ``start`` to ``stop``; the totals stay those of the step."""
        return self._map(lambda x: x[start:stop])

    def rollouts(self, rows: Tensor, length: int) -> Plan:
        """The plan of single rollouts, as ``[N, 1, length]``. ``rows`` indexes the flattened ``[Q * K]``."""

        def cut(x: Tensor) -> Tensor:
            x = x.flatten(0, 1)[rows].unsqueeze(1)
            return x[:, :, :length] if x.dim() == 3 else x

        return self._map(cut)

    def _map(self, f: Callable[[Tensor], Tensor]) -> Plan:
        return replace(
            self,
            batch=self.batch.map(f),
            side_QK=f(self.side_QK),
            advantage_QK=f(self.advantage_QK),
            weight_QKT=f(self.weight_QKT),
            hidden_QKT=f(self.hidden_QKT),
        )
