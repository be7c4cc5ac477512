"""How rows go through a policy: dealt out over the ranks, in micro-batches, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contrapose.policy.logprobs import LogProbs, Row, States
from contrapose.policy.states import put
from contrapose.rollout.ranks import ALONE, Ranks

NOTHING = Row((0,), (0,))


@dataclass(frozen=True)
class Passes:
    """Passes through ``logprobs``, at most ``max_tokens`` padded tokens at a time."""

    logprobs: LogProbs
    max_tokens: int
    ranks: Ranks = ALONE

    def deal(self, rows: Sequence[Row], chosen: Sequence[int] | None = None) -> list[list[int]]:
        """This rank's micro-batches of the ``chosen`` rows (None: all), as indices, sorted by length to waste little.

        Where weights are split, every rank has as many, and the last may be empty.
        """
        order = sorted(range(len(rows)) if chosen is None else chosen, key=lambda i: rows[i].length)
        hands = [self._packed(rows, order[rank :: self.ranks.world]) for rank in range(self.ranks.world)]
        mine = hands[self.ranks.rank]
        most = max(map(len, hands)) if self.logprobs.split else len(mine)
        return [*mine, *([] for _ in range(most - len(mine)))]

    def nothing(self) -> States:
        """What a rank passes through the policy in an empty micro-batch: weights that are split are gathered by all."""
        return self.logprobs.states([NOTHING])

    @property
    def copies(self) -> int:
        """How many times a rank's loss counts, so that gradients are sums: what is split takes the mean over ranks."""
        return self.ranks.world if self.logprobs.split else 1

    def join(self, *parts: Tensor, gradient: bool) -> None:
        """Put together what the ranks found, each of its rows: ``parts``, zero elsewhere, and the ``gradient``, where
        there is one; otherwise it is zero."""
        for part in parts:
            self.ranks.sum_(part)
        weights = [weight for weight in self.logprobs.model.parameters() if weight.requires_grad]
        if gradient and not self.logprobs.split:
            self.ranks.sum_gradients(weights)
        for weight in weights if not gradient else ():  # nobody pushed, and the optimizer's moments go on all the same
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad

    def without_grad(
        self, rows: Sequence[Row], length: int, chosen: Sequence[int] | None = None, *, entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """``(logp, entropy)`` of the chosen rows among all, each ``[N, length]``, zero elsewhere. No grad."""
        logp_NT = self.zeros(len(rows), length)
        entropy_NT = torch.zeros_like(logp_NT)
        for index in self.deal(rows, chosen):
            logp, entropies = self.logprobs.without_grad([rows[i] for i in index] or [NOTHING], entropy=entropy)
            if index:
                at = put(index, logp_NT.device)
                logp_NT[at, : logp.shape[1]] = logp
                entropy_NT[at, : logp.shape[1]] = entropies
        self.ranks.sum_(logp_NT)
        return logp_NT, self.ranks.sum_(entropy_NT) if entropy else entropy_NT

    def zeros(self, *shape: int) -> Tensor:
        """Room for log-probs."""
        wide = torch.promote_types(self.logprobs.model.dtype, torch.float32)
        return torch.zeros(shape, device=self.logprobs.device, dtype=wide)

    def _packed(self, rows: Sequence[Row], order: Sequence[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        for i in order:
            if batches and (len(batches[-1]) + 1) * rows[i].length <= self.max_tokens:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches
