"""One optimizer step: mini-batch -> credit -> micro-batches -> step. The only ``.backward()`` of training.

The credit is known before the gradient pass, so any micro-batch split gives the same gradient, groups may be
cut anywhere, across ranks too, and no denominator appears after the credit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from contrapose.objectives.credit import credit_of
from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.policy.states import put
from contrapose.train.collate import Minibatch
from contrapose.train.guards import Fault, check_weights, fault_of, gradient_of
from contrapose.train.passes import Passes
from contrapose.types import Now


@dataclass(frozen=True)
class Pushed:
    """What one gradient pass saw and gave: the log-probs it started from, the credit of each token, and J.

    ``own_QKT`` are the log-probs that the pass met itself, NaN where it did not go.
    """

    logp_QKT: Tensor
    credit_QKT: Tensor
    J: float
    own_QKT: Tensor


class Updated(NamedTuple):
    """What an update did: with a ``fault`` nothing, but for what it pushed in vain. ``norm`` is the gradient's before
    clipping."""

    plan: Plan
    pushed: Pushed
    norm: float
    fault: Fault | None


def update(
    passes: Passes,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    minibatch: Minibatch,
    now: Now,
    *,
    fresh: bool,
    clip: float,
    generator: torch.Generator | None = None,
    look: Callable[[Pushed], None] = lambda pushed: None,
) -> Updated:
    """Take one step uphill on J, or none where something is not finite. ``look`` may raise before it is taken.

    ``fresh`` says that theta is still theta_old: the old log-probs are then the scores, and no first pass is
    needed. A fault leaves weights and optimizer as they were. Raises NumericalStop at a weight that is not finite.
    """
    plan = objective.plan(minibatch.batch, generator=generator)
    optimizer.zero_grad(set_to_none=True)
    pushed, model = accumulate(passes, objective, minibatch, plan, now, fresh=fresh), passes.logprobs.model
    look(pushed)
    norm, fault = gradient_of(model)
    fault = fault_of(minibatch, pushed) or fault
    if not fault:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), clip, norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # now, so that they take no room while others sample
    check_weights(model)
    return Updated(plan, pushed, float(norm), fault)


def accumulate(
    passes: Passes, objective: Objective, minibatch: Minibatch, plan: Plan, now: Now, *, fresh: bool
) -> Pushed:
    """Add the gradient of -J to the parameters, over any split of the rows into micro-batches and over ranks.

    Objectives whose credit needs no more than the rollout's own log-probs take it from the gradient pass itself;
    the others need the whole group's scores first, from a pass without grad. Rollouts without credit are spared the
    gradient pass.
    """
    rows, shape_QKT, weight_QKT = minibatch.rows, plan.weight_QKT.shape, minibatch.token_weight_QKT
    live = not fresh and objective.coupling in ("token", "rollout")
    if live:
        logp_QKT = torch.zeros_like(plan.batch.old_logp_QKT)
        credit_QKT, J = torch.zeros_like(logp_QKT), 0.0
    else:
        logp_QKT = plan.batch.old_logp_QKT if fresh else passes.without_grad(rows, shape_QKT[2])[0].view(shape_QKT)
        credit_QKT, total_J = credit_of(objective, logp_QKT, plan, now)
        J = float(total_J)
    logp_NT, credit_NT = (x.view(len(rows), -1) for x in (logp_QKT, credit_QKT))
    weight_NT = None if weight_QKT is None else weight_QKT.flatten(0, 1)
    own_NT = torch.zeros_like(logp_NT)
    parts_J: list[Tensor] = []  # looked at last, so that nobody waits for the device in between
    idle_N = _idle(objective, plan) if live else ~credit_NT.any(1)
    if weight_NT is not None and not live:
        credit_NT *= weight_NT
    for index in passes.deal(rows, _where(~idle_N)):
        if not index:
            passes.nothing().loss(own_NT.new_zeros(1, 1)).backward()
            continue
        states = passes.logprobs.states([rows[i] for i in index])
        at, width = put(index, logp_QKT.device), states.shape[1]
        if live:
            live_NT = states.dense(states.logp()[0])
            part_N1T, part_J = credit_of(objective, live_NT.unsqueeze(1), plan.rollouts(at, width), now)
            logp_NT[at, :width], credit_NT[at, :width] = live_NT, part_N1T.squeeze(1)
            parts_J.append(part_J)
            if weight_NT is not None:
                credit_NT[at] *= weight_NT[at]
        loss, own_M = states.loss_and_logp(credit_NT[at, :width])
        (loss * passes.copies).backward()
        own_NT[at, :width] = states.dense(own_M)
    passes.join(own_NT, *((logp_NT, credit_NT) if live else ()), gradient=not idle_N.all())
    if live and idle_N.any():
        logp_NT[idle_N] = passes.without_grad(rows, shape_QKT[2], _where(idle_N))[0][idle_N]
    own_NT[idle_N] = torch.nan
    J += sum(passes.ranks.gather(sum(map(float, parts_J))))
    return Pushed(logp_QKT, credit_QKT, J, own_NT.view(shape_QKT))


def _idle(objective: Objective, plan: Plan) -> Tensor:
    """Rollouts that have no credit whatever their log-probs, ``[N]``: on no side, and nothing else holds them."""
    return (plan.side_QK == 0).flatten() & (objective.trust is None)


def _where(chosen_N: Tensor) -> list[int]:
    return chosen_N.nonzero().flatten().tolist()
