"""From groups of rollouts to dense tensors and token rows, with log-probs under the trainer's own numerics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from contrapose.policy.logprobs import Row
from contrapose.train.passes import Passes
from contrapose.types import Batch, Group


@dataclass(frozen=True)
class Minibatch:
    """The rollouts of one optimizer step: ``rows[q * K + k]`` is rollout k of group q of ``batch``.

    ``token_weight_QKT`` is a detached factor on the credit, or None.
    """

    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    batch: Batch
    token_weight_QKT: Tensor | None = None

    def split(self, parts: int) -> list[Minibatch]:
        """``parts`` mini-batches of whole groups in order, as even as can be; fewer when there are fewer groups."""
        parts = min(parts, len(self.groups))
        edges = [round(i * len(self.groups) / parts) for i in range(parts + 1)]
        return [self.groups_from(start, stop) for start, stop in pairwise(edges)]

    def groups_from(self, start: int, stop: int) -> Minibatch:
        """The mini-batch of groups ``start`` to ``stop``."""
        k = len(self.groups[0].rollouts)
        weight = self.token_weight_QKT
        return Minibatch(
            self.groups[start:stop],
            self.rows[start * k : stop * k],
            self.batch.map(lambda x: x[start:stop]),
            None if weight is None else weight[start:stop],
        )


def logp_of(minibatch: Minibatch, passes: Passes) -> Tensor:
    """Log-probs of a mini-batch's responses under the policy as it is now, ``[Q, K, T]``. No grad."""
    shape_QKT = minibatch.batch.mask_QKT.shape
    return passes.without_grad(minibatch.rows, shape_QKT[2])[0].view(shape_QKT)


def dense(values: Sequence[Sequence[float]], like_NT: Tensor) -> Tensor:
    """Ragged rows as a tensor of the shape and type of ``like_NT``, zero beyond each."""
    padded_NT = np.zeros(like_NT.shape)
    for row_T, row in zip(padded_NT, values, strict=True):
        row_T[: len(row)] = row
    return torch.from_numpy(padded_NT).to(like_NT)


def collate(
    groups: Sequence[Group],
    passes: Passes,
    *,
    stated: bool = False,
    reference: Passes | None = None,
    mask_truncated: bool = False,
    is_cap: float = 0.0,
) -> tuple[Minibatch, float]:
    """The batch of ``groups`` with its old log-probs, and the policy's mean entropy (nats a token).

    Old log-probs come from a pass of the trainer's own, or, ``stated``, from the engine: the entropy is then what the
    sampled tokens estimate, the mean of ``-log pi_old``.
    ``mask_truncated`` takes rollouts cut off at the limit out of the loss. ``is_cap`` above 0 weighs each token
    by ``min(pi_old under the trainer / under the engine, is_cap)``.
    """
    shape_QK = (len(groups), len(groups[0].rollouts))
    rollouts = [r for g in groups for r in g.rollouts]
    verdicts = [v for g in groups for v in g.verdicts]
    rows = tuple(Row(g.prompt.tokens, r.tokens) for g in groups for r in g.rollouts)
    length = max(1, *(len(r.tokens) for r in rollouts))
    like_NT = passes.zeros(len(rows), length)
    mask_NT, told = dense([r.mask for r in rollouts], like_NT), [r.logp for r in rollouts]
    if stated:
        old_NT = dense(told, like_NT)
        entropy_NT = -old_NT
    else:
        old_NT, entropy_NT = passes.without_grad(rows, length, entropy=True)
    entropy = float((entropy_NT * mask_NT).sum() / mask_NT.sum().clamp(min=1))
    weight_NT = (old_NT - dense(told, like_NT)).exp().clamp(max=is_cap) if is_cap > 0 else None
    if mask_truncated:
        stopped = torch.tensor([r.finished == "stop" for r in rollouts]).to(mask_NT)
        mask_NT = mask_NT * stopped.unsqueeze(1)
    batch = Batch(
        old_logp_QKT=old_NT.unflatten(0, shape_QK),
        mask_QKT=mask_NT.unflatten(0, shape_QK),
        reward_QK=torch.tensor([v.reward for v in verdicts]).to(old_NT).unflatten(0, shape_QK),
        correct_QK=torch.tensor([v.correct for v in verdicts], device=old_NT.device).unflatten(0, shape_QK),
        present_QK=torch.ones(shape_QK, dtype=torch.bool, device=old_NT.device),
    )
    if reference is not None:
        reference_NT, _ = reference.without_grad(rows, length)
        batch = replace(batch, reference_logp_QKT=reference_NT.unflatten(0, shape_QK))
    return Minibatch(
        tuple(groups), rows, batch, None if weight_NT is None else weight_NT.unflatten(0, shape_QK)
    ), entropy
