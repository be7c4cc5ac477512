"""What another trainer is given: the credit of an optimizer step's rollouts, which come as rows in any order.

Whoever holds the rows gathers all of an optimizer step, wherever they lie; whole groups are checked here, and every row
gets its credit. The trainer's loss is ``-(credit * logp).sum()`` over whatever micro-batches it likes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from contrapose.objectives.credit import credit_of
from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.objectives.trust import kl_seen
from contrapose.types import Batch, ContraposeError, Now


class BrokenGroups(ContraposeError):
    """An optimizer step that holds a part of a group: its credit would be another objective's."""


@dataclass(frozen=True)
class Rows:
    """All rollouts of one optimizer step, ``[N]`` and ``[N, T]``, in any order.

    ``group_N`` says which rollouts answer one prompt. ``logp_NT`` are log-probs (nats) under the policy as it is now,
    ``old_NT`` under the one that sampled; ``mask_NT`` is 1 on response tokens. ``present_N`` is False for rollouts that
    nobody could judge: their groups are the smaller by them, and they get no credit.
    """

    group_N: Tensor
    logp_NT: Tensor
    old_NT: Tensor
    mask_NT: Tensor
    reward_N: Tensor
    correct_N: Tensor
    reference_NT: Tensor | None = None
    present_N: Tensor | None = None


@dataclass(frozen=True)
class Credited:
    """The credit of each row as they came, J, and the plan it follows from with its log-probs ``[Q, K, T]``.

    ``adapted`` is for steps that had left pi_old: before, the KL is 0 by construction and says nothing.
    """

    credit_NT: Tensor
    J: float
    plan: Plan
    logp_QKT: Tensor

    def adapted(self, objective: Objective, now: Now) -> Now:
        """The trust region's next coefficient."""
        if objective.trust is None:
            return now
        return objective.trust.adapt(now, kl_seen(self.logp_QKT, self.plan), self.plan.totals.rollouts)


def credit_rows(
    objective: Objective, rows: Rows, k: int, now: Now, generator: torch.Generator | None = None
) -> Credited:
    """The credit of every row. Raises BrokenGroups where ``rows`` are not whole groups of ``k``."""
    order_N = _whole(rows.group_N, k)
    sorted_rows = replace(
        rows, **{f.name: x[order_N] for f in fields(rows) if (x := getattr(rows, f.name)) is not None}
    )
    known_N = torch.ones_like(order_N) if sorted_rows.present_N is None else sorted_rows.present_N
    present_QK = known_N.bool().view(-1, k)
    wide = torch.promote_types(rows.logp_NT.dtype, torch.float32)

    def grouped(x: Tensor) -> Tensor:
        wide_N: Tensor = x.detach().to(wide)
        return wide_N.view(-1, k, *x.shape[1:])

    batch = Batch(
        old_logp_QKT=grouped(sorted_rows.old_NT),
        mask_QKT=grouped(sorted_rows.mask_NT) * present_QK.unsqueeze(-1),
        reward_QK=grouped(sorted_rows.reward_N),
        correct_QK=sorted_rows.correct_N.bool().unflatten(0, (-1, k)),
        present_QK=present_QK,
        reference_logp_QKT=None if sorted_rows.reference_NT is None else grouped(sorted_rows.reference_NT),
    )
    plan = objective.plan(batch, generator=generator)
    logp_QKT = grouped(sorted_rows.logp_NT)
    credit_QKT, J = credit_of(objective, logp_QKT, plan, now)
    credit_NT = torch.empty_like(credit_QKT.flatten(0, 1)).index_copy_(0, order_N, credit_QKT.flatten(0, 1))
    return Credited(credit_NT, float(J), plan, logp_QKT)


def _whole(group_N: Tensor, k: int) -> Tensor:
    """Where the rows of each group are, group by group."""
    ids_Q, inverse_N, size_Q = torch.unique(group_N, return_inverse=True, return_counts=True)
    if bool((size_Q != k).any()):
        worst = int((size_Q != k).nonzero()[0])
        raise BrokenGroups(
            f"an optimizer step of {len(group_N)} rollouts holds {int(size_Q[worst])} of the {k} rollouts of group "
            f"{int(ids_Q[worst])}: its batches must hold whole groups, in any order and on any rank"
        )
    order_N: Tensor = torch.argsort(inverse_N, stable=True)
    return order_N
