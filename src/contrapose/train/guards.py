"""What must be finite, what must be fresh, and what happens when it is not.

A faulty update is skipped: no optimizer step, no word to the trust region's controller, and what it was made of is
written to ``faults/``. A third skip within the last 20 updates, or a weight that is not finite, stops the run: its last
checkpoint is what is good. So does an engine whose log-probs are not the trainer's: it samples from other weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import get_total_norm

from contrapose.policy.sharding import whole
from contrapose.report.log import write_json
from contrapose.rollout.engine import MAX_DRIFT, StaleEngine
from contrapose.train.collate import Minibatch, dense
from contrapose.train.folders import whole as whole_folder
from contrapose.types import ContraposeError, Now

if TYPE_CHECKING:
    from contrapose.train.update import Pushed

SKIPS, WITHIN = 2, 20
"""So many of the last so many updates may be skipped. One may be bad luck; more are not the data's fault."""


class NumericalStop(ContraposeError):
    """Something that must be finite is not, and training on cannot mend it."""

    exit_code = 5


@dataclass(frozen=True)
class Fault:
    """A number that must be finite and is not, or is beyond what squares can hold. Its text is one line.

    ``prompt`` is the prompt's id, ``rollout`` the rollout's index in its group, ``token`` the position in the response;
    of a gradient ``parameter`` is the name.
    """

    tensor: str
    value: float
    prompt: str | None = None
    rollout: int | None = None
    token: int | None = None
    parameter: str | None = None

    def __str__(self) -> str:
        token = "" if self.token is None else f" of token {self.token}"
        rollout = "" if self.rollout is None else f" of rollout {self.rollout} of {self.prompt!r}"
        parameter = "" if self.parameter is None else f" of {self.parameter}"
        return f"the {self.tensor}{parameter}{token}{rollout} is {self.value:g}"


def fault_of(minibatch: Minibatch, pushed: Pushed) -> Fault | None:
    """The first number that is not finite where it counts, in the order in which one follows from the other."""
    batch = minibatch.batch
    named = {
        "reward": batch.reward_QK,
        "old log-prob": batch.old_logp_QKT,
        "reference's log-prob": batch.reference_logp_QKT,
        "log-prob": pushed.logp_QKT,
        "credit": pushed.credit_QKT,
    }
    given = {name: x for name, x in named.items() if x is not None}
    if math.isfinite(sum(float(x.sum()) for x in given.values()) + pushed.J):
        return None  # hardly ever otherwise
    for name, x in given.items():
        counts = batch.present_QK if name == "reward" else batch.mask_QKT > 0
        if bool((bad := counts & ~x.isfinite()).any()):
            q, k, *t = at = bad.nonzero()[0].tolist()
            return Fault(name, float(x[tuple(at)]), minibatch.groups[q].prompt.id, k, *t)
    return None if math.isfinite(pushed.J) else Fault("value of the objective", pushed.J)


def gradient_of(model: torch.nn.Module) -> tuple[Tensor, Fault | None]:
    """The gradient's norm, and what is wrong with it."""
    norm = whole(get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    if math.isfinite(norm):
        return norm, None
    name, value = _culprit((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return norm, Fault("gradient", value, parameter=name)


def check_weights(model: torch.nn.Module) -> None:
    """Raise NumericalStop that names the first weight that is not finite."""
    if not math.isfinite(whole(get_total_norm(model.parameters()))):
        name, value = _culprit(model.named_parameters())
        raise NumericalStop(
            f"a weight of {name} is {value:g}, and nothing was saved since the last checkpoint: lower optim.lr"
        )


@torch.no_grad()
def _culprit(named: Iterable[tuple[str, Tensor]]) -> tuple[str, float]:
    """The first tensor that holds what is not finite, and that; the largest number where only its square is not."""
    largest = "", 0.0
    for name, part in named:
        x = whole(part)
        odd = x[~x.isfinite()]
        if len(odd):
            return name, float(odd[0])
        largest = max(largest, (name, float(x.abs().max())), key=lambda found: found[1])
    return largest


def check_skips(updates: Sequence[Mapping[str, Any]], dumped: Path) -> None:
    """Raise NumericalStop when too many updates were skipped, the last of which is ``dumped`` there.

    ``updates`` are the entries of all rows so far.
    """
    recent = updates[-WITHIN:]
    skipped = [update["skipped"] for update in recent if update.get("skipped")]
    if len(skipped) > SKIPS:
        raise NumericalStop(
            f"{len(skipped)} of the last {len(recent)} updates were skipped, this one because {skipped[-1]}: see "
            f"{dumped}, and lower optim.lr"
        )


def dump(
    run: Path,
    step: int,
    number: int,
    fault: Fault,
    minibatch: Minibatch,
    pushed: Pushed,
    now: Now,
    settings: Mapping[str, Any],
) -> Path:
    """Write what update ``number`` of ``step`` (both from 1) was made of, and return where: enough for its credit.

    ``fault.json`` has the fault, the schedules, ``settings`` and the groups as in ``rollouts.jsonl``;
    ``batch.safetensors`` the batch's dense tensors under the names of their fields without dimensions, and token ids
    one list after the other with their lengths.
    """
    from contrapose.train.record import group_row  # which knows of updates, which know of guards

    named = {**vars(minibatch.batch), "token_weight_QKT": minibatch.token_weight_QKT, **vars(pushed)}
    tensors = {name.rpartition("_")[0]: x for name, x in named.items() if isinstance(x, Tensor)}
    tensors |= {"J": torch.tensor(pushed.J), "engine_logp": engine_logp(minibatch)}
    prompts, responses = [g.prompt.tokens for g in minibatch.groups], [r.response for r in minibatch.rows]
    told = {"line": str(fault), **asdict(fault), "value": str(fault.value), "step": step, "update": number}
    told |= {**vars(now), "settings": settings, "groups": [group_row(step, g, "train") for g in minibatch.groups]}
    folder = run / "faults" / f"step-{step:06d}-update-{number:02d}"
    with whole_folder(folder) as beside:
        save_file(
            {name: x.cpu().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
            | _flat("prompt_tokens", prompts)
            | _flat("tokens", responses),
            beside / "batch.safetensors",
        )
        write_json(beside / "fault.json", told)
    return folder


def _flat(name: str, lists: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    return {
        name: torch.tensor([x for values in lists for x in values], dtype=torch.int64),
        f"{name}_lengths": torch.tensor([len(values) for values in lists], dtype=torch.int64),
    }


def engine_logp(minibatch: Minibatch) -> Tensor:
    """The log-probs that the engine stated, ``[Q, K, T]``."""
    old_QKT = minibatch.batch.old_logp_QKT
    stated_NT = dense([r.logp for g in minibatch.groups for r in g.rollouts], old_QKT.flatten(0, 1))
    return stated_NT.view_as(old_QKT)


def check_drift(
    minibatch: Minibatch, own_QKT: Tensor, dtype: torch.dtype, step: int, most: float = 0.0
) -> float | None:
    """The canary: the mean gap between the engine's and the trainer's log-probs of a fresh batch, nats a token.

    ``own_QKT`` are the trainer's. Where they are not finite nobody looked, or it is not the engine's fault and left to
    ``fault_of``: without any other there is no gap, None. ``dtype`` is what they compute in. Raises StaleEngine, naming
    the worst rollout, above ``most``, or, where that is 0, ``MAX_DRIFT``.
    """
    most = most or MAX_DRIFT[dtype]
    counts_QKT = (minibatch.batch.mask_QKT > 0) & own_QKT.isfinite()
    gap_QKT = (engine_logp(minibatch) - own_QKT).abs().masked_fill(~counts_QKT, 0.0)
    tokens = int(counts_QKT.sum())
    drift = float(gap_QKT.sum()) / max(1, tokens)
    if drift <= most:
        return drift if tokens else None
    worst_QK = (gap_QKT.sum(-1) / counts_QKT.sum(-1).clamp(min=1)).nan_to_num(nan=math.inf)
    q, k = divmod(int(worst_QK.argmax()), worst_QK.shape[1])
    worst = float(worst_QK[q, k])
    raise StaleEngine(
        f"step {step}: the engine's log-probs are {drift:.2g} nats a token from the trainer's (at most {most:g} in "
        f"{dtype}), most in rollout {k} of {minibatch.groups[q].prompt.id!r} ({worst:.2g}): it samples "
        "from other weights, or rounds otherwise (then raise rollout.max_drift); nothing was learned from it"
    )
