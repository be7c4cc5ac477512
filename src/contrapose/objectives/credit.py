"""From J to the credit of every token: the only ``autograd.grad`` in the house, on a small dense tensor.

    credit_QKT = dJ / dlogp_QKT        loss = -(credit * logp).sum() has exactly the gradient of -J

The trainer knows nothing but the credit, so any micro-batch split gives the same gradient.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan, Totals, tokens_of
from contrapose.objectives.score import log_ratio
from contrapose.objectives.zoo import hyperparameters_of
from contrapose.objectives.zoo import objective as objective_by_name
from contrapose.types import SAME_REWARD, Batch, Now, nearest

CHUNK_ELEMENTS = 1 << 20
"""Groups are differentiated in chunks of at most this many log-probs, so that temporaries stay small."""


def credit_of(objective: Objective, logp_QKT: Tensor, plan: Plan, now: Now) -> tuple[Tensor, Tensor]:
    """``(credit_QKT, J)`` of a plan at the given log-probs; both detached, same dtype and device as ``logp_QKT``."""
    plan = with_sums(objective, logp_QKT, plan)
    chunks = list(_chunks(logp_QKT))
    if len(chunks) == 1:
        return _credit_of_chunk(objective, logp_QKT, plan, now)
    credit_QKT, J = torch.empty_like(logp_QKT), logp_QKT.new_zeros(())
    for start, stop in chunks:
        credit_QKT[start:stop], part_J = _credit_of_chunk(
            objective, logp_QKT[start:stop], plan.groups(start, stop), now
        )
        J += part_J
    return credit_QKT, J


def _credit_of_chunk(objective: Objective, logp_QKT: Tensor, plan: Plan, now: Now) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        live_QKT = plan.masked(logp_QKT.detach()).requires_grad_()
        J = objective(live_QKT, plan, now)
    (credit_QKT,) = torch.autograd.grad(J, live_QKT)
    return credit_QKT.contiguous().masked_fill_(plan.hidden_QKT, 0.0), J.detach()


def with_sums(objective: Objective, logp_QKT: Tensor, plan: Plan) -> Plan:
    """The plan, with the step's sums over log-probs in its totals where the objective couples the step."""
    if objective.coupling != "step" or plan.totals.log_ratio is not None:
        return plan
    if plan.totals.tokens != tokens_of(plan.batch):
        raise ValueError("totals.log_ratio: a trust region over the step needs it when this call holds only a part")
    return replace(plan, totals=replace(plan.totals, log_ratio=log_ratio_sum(logp_QKT, plan)))


def log_ratio_sum(logp_QKT: Tensor, plan: Plan) -> float:
    """``Totals.log_ratio`` of what is at hand: the sum of ``log pi_theta - log pi_old`` over its response tokens."""
    total = logp_QKT.new_zeros((), dtype=torch.float64)
    for start, stop in _chunks(logp_QKT):
        part = plan.groups(start, stop)
        total += log_ratio(part.masked(logp_QKT[start:stop]), part).sum(dtype=torch.float64)
    return float(total)


def score_credit_of(objective: Objective, score_QK: Tensor, plan: Plan) -> Tensor:
    """``dv_q / ds_QK``: what the contrast alone gives to each rollout of a group, margin included in ``score_QK``.

    ConSPO's Lemmas 1 and 2 speak of this credit; that of a token follows by the chain rule.
    """
    with torch.enable_grad():
        live_QK = score_QK.detach().requires_grad_()
        value = objective.contrast(live_QK, plan).sum()
    return torch.autograd.grad(value, live_QK)[0]


def _chunks(logp_QKT: Tensor) -> Iterator[tuple[int, int]]:
    size = max(1, CHUNK_ELEMENTS // max(1, logp_QKT[:1].numel()))
    for start in range(0, len(logp_QKT), size):
        yield start, start + size


def credit(
    objective: str | Objective,
    logp_QKT: Tensor,
    *,
    token_weight: Tensor | None = None,
    **arguments: Any,
) -> Tensor:
    """The credit ``dJ/dlogp`` of every token under an objective, shaped and typed like ``logp_QKT``.

    ``objective`` is a name (see ``contrapose.objectives()``) or an ``Objective``; ``logp_QKT`` the ``[Q, K, T]``
    log-probs (nats) of the chosen tokens under the policy. Keyword arguments:

    - ``mask`` ``[Q, K, T]``, 1 on response tokens (default: all);
    - ``reward``, ``correct`` ``[Q, K]``: one may be left out (``correct`` is then ``reward >= 1``, or ``reward`` is
      ``correct``);
    - ``old_logp`` ``[Q, K, T]`` under the policy that sampled (default: on-policy, ``logp_QKT`` itself);
    - ``reference_logp`` ``[Q, K, T]``, for objectives that compare with a reference;
    - ``present`` ``[Q, K]``, False where a group has fewer rollouts;
    - ``progress`` (0 to 1) and ``kl_coef``, the state of schedules; ``generator`` for ``random_pair``;
    - ``totals``, the step's counts (``Totals``) when this call holds only part of it;
    - ``token_weight`` ``[Q, K, T]``, a detached factor on the credit;
    - with a name, its hyper-parameters.

    Raises ValueError or TypeError, naming the nearest valid choice. Warns of log-probs in half precision, and computes
    in float32 then.
    """
    built, logp, plan, now = _arrange(objective, logp_QKT, **arguments)
    credit_QKT, _ = credit_of(built, logp, plan, now)
    if token_weight is not None:
        if token_weight.shape != logp_QKT.shape:
            raise ValueError(f"token_weight: expected {list(logp_QKT.shape)}, found {list(token_weight.shape)}")
        credit_QKT = plan.masked(credit_QKT * token_weight.to(credit_QKT))
    return credit_QKT.to(logp_QKT.dtype)


def value(objective: str | Objective, logp_QKT: Tensor, **arguments: Any) -> Tensor:
    """The scalar J (to be maximised) whose gradient ``credit`` gives; the same arguments.

    ``token_weight`` has no part in J.
    """
    arguments.pop("token_weight", None)
    return credit_of(*_arrange(objective, logp_QKT, **arguments))[1].to(logp_QKT.dtype)


def _arrange(
    objective: str | Objective,
    logp_QKT: Tensor,
    *,
    reward: Tensor | None = None,
    correct: Tensor | None = None,
    old_logp: Tensor | None = None,
    mask: Tensor | None = None,
    reference_logp: Tensor | None = None,
    present: Tensor | None = None,
    progress: float = 0.0,
    kl_coef: float | None = None,
    generator: torch.Generator | None = None,
    totals: Totals | None = None,
    **hyperparameters: Any,
) -> tuple[Objective, Tensor, Plan, Now]:
    """What ``credit_of`` takes, in at least float32: sums over thousands of tokens drown in bfloat16."""
    if isinstance(objective, Objective) and hyperparameters:
        raise TypeError(f"{', '.join(hyperparameters)}: hyper-parameters go with a name, not with an Objective")
    built = objective if isinstance(objective, Objective) else _by_name(objective, hyperparameters)
    if reward is None:
        if correct is None:
            raise TypeError("pass reward, correct, or both")
        reward = correct
    _warn_of_half_precision(logp=logp_QKT, old_logp=old_logp, reference_logp=reference_logp)
    logp_QKT = logp_QKT.detach().to(torch.promote_types(logp_QKT.dtype, torch.float32))
    right = reward >= 1 - SAME_REWARD if correct is None else _flags("correct", correct)
    there = torch.ones(logp_QKT.shape[:2]) if present is None else present
    batch = Batch(
        old_logp_QKT=logp_QKT if old_logp is None else old_logp.detach().to(logp_QKT),
        mask_QKT=torch.ones_like(logp_QKT) if mask is None else mask.to(logp_QKT),
        reward_QK=reward.to(logp_QKT),
        correct_QK=right.to(logp_QKT.device),
        present_QK=_flags("present", there).to(logp_QKT.device),
        reference_logp_QKT=None if reference_logp is None else reference_logp.detach().to(logp_QKT),
    )
    _check(batch, logp_QKT)
    if present is not None:
        batch = replace(batch, mask_QKT=batch.mask_QKT * batch.present_QK.unsqueeze(-1))
    now = _now(built, progress, kl_coef)
    part = Totals.of(batch)
    if totals is not None and any(getattr(totals, n) < getattr(part, n) for n in ("prompts", "rollouts", "tokens")):
        raise ValueError(f"totals: {totals} of the step are fewer than those of this part, {part}")
    return built, logp_QKT, built.plan(batch, totals or part, generator), now


def _now(objective: Objective, progress: float, kl_coef: float | None) -> Now:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected 0 to 1, found {progress}")
    now = replace(objective.start(), progress=progress)
    if kl_coef is None:
        return now
    if objective.trust is None:
        raise ValueError("kl_coef: this objective has no trust region whose coefficient it could be")
    if kl_coef < 0:
        raise ValueError(f"kl_coef: must be at least 0, found {kl_coef}")
    return replace(now, kl_coef=kl_coef)


def _flags(name: str, x: Tensor) -> Tensor:
    """``x`` as bool. Raises ValueError when it is anything but yes or no."""
    if x.dtype != torch.bool and not bool(((x == 0) | (x == 1)).all()):
        raise ValueError(f"{name}: expected true and false, or 1 and 0")
    return x.bool()


def _warn_of_half_precision(**logps: Tensor | None) -> None:
    for name, logp in logps.items():
        if logp is not None and logp.dtype in (torch.float16, torch.bfloat16):
            warnings.warn(
                f"{name} is {logp.dtype}, whose rounding exceeds GSPO's whole clip range: "
                "take the log-softmax of logits.float()",
                stacklevel=4,
            )


def _by_name(name: str, hyperparameters: dict[str, Any]) -> Objective:
    arguments = inspect.signature(_arrange).parameters.values()
    named = [p.name for p in arguments if p.kind is inspect.Parameter.KEYWORD_ONLY]
    valid = [*hyperparameters_of(name), *named, "token_weight"]
    for key in hyperparameters:
        if key not in valid:
            raise TypeError(f"{key}: neither an argument nor a hyper-parameter of {name}{nearest(key, valid)}")
    return objective_by_name(name, **hyperparameters)


def _check(batch: Batch, logp_QKT: Tensor) -> None:
    """Raise ValueError when shapes do not fit, a mask is not of 0 and 1, or a reward is no number."""
    for field in fields(batch):
        x = getattr(batch, field.name)
        expected = logp_QKT.shape if field.name.endswith("_QKT") else logp_QKT.shape[:2]
        if x is not None and x.shape != expected:
            raise ValueError(f"{field.name}: expected {list(expected)} beside log-probs, found {list(x.shape)}")
    mask_QKT = batch.mask_QKT
    if mask_QKT.numel():
        low, high = mask_QKT.aminmax()
        between = (mask_QKT.sum(-1) != mask_QKT.bool().sum(-1)).any()
        if low < 0 or high > 1 or between:
            raise ValueError("mask: expected 1 on response tokens and 0 elsewhere")
    if not bool((batch.reward_QK.isfinite() | ~batch.present_QK).all()):
        raise ValueError("reward: not a finite number")
