"""Tokens -> log-probs of the chosen tokens, with or without grad, without keeping ``[tokens, vocabulary]`` logits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_LOGITS = 1 << 24
"""Logits are formed this many at a time (64 MiB in float32) and recomputed in the backward pass."""


class Row(NamedTuple):
    """One prompt with one response, as token ids."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.response)


class LogProbs:
    """Log-probs (nats) of response tokens under a causal language model, with logits divided by ``temperature``.

    Rows are padded on the right and causal attention never looks there, so no mask is needed. Logits become
    float32 (or stay float64) before the log-softmax.
    """

    def __init__(self, model: PreTrainedModel, temperature: float = 1.0) -> None:
        self.model = model
        self.temperature = temperature
        self._plain_head = _head_is_plain(model)
        if not self._plain_head:
            logging.getLogger(__name__).warning(
                "%s changes its logits after the head: log-probs come from its full logits, which takes more memory",
                type(model).__name__,
            )

    def __call__(self, rows: Sequence[Row]) -> Tensor:
        """``logp_NT``, zero beyond each response. Differentiable unless grad is off."""
        return self._forward(rows, with_entropy=False)[0]

    def without_grad(self, rows: Sequence[Row], *, entropy: bool = False) -> tuple[Tensor, Tensor]:
        """``logp_NT`` and, if asked for, the policy's entropy (nats) at each response position; else zeros."""
        with torch.no_grad():
            return self._forward(rows, with_entropy=entropy)

    def _forward(self, rows: Sequence[Row], with_entropy: bool) -> tuple[Tensor, Tensor]:
        if not all(row.prompt for row in rows):
            raise ValueError("a row needs a prompt: its first response token is chosen by the state before it")
        device = self.model.device
        width = max(row.length for row in rows)
        ids_NS = torch.tensor([[*r.prompt, *r.response, *[0] * (width - r.length)] for r in rows], device=device)
        # the token at position s is chosen by the state at s - 1
        at = [(i, len(r.prompt) + t - 1, t) for i, r in enumerate(rows) for t in range(len(r.response))]
        row_M, state_M, t_M = torch.tensor(at, dtype=torch.long, device=device).reshape(-1, 3).unbind(1)
        chosen_M = ids_NS[row_M, state_M + 1]
        if self._plain_head:
            hidden_NSH = self.model.base_model(input_ids=ids_NS, use_cache=False).last_hidden_state
            logp_M, entropy_M = self._project(hidden_NSH[row_M, state_M], chosen_M, with_entropy)
        else:
            logits_NSV = self.model(input_ids=ids_NS, use_cache=False).logits
            logp_M, entropy_M = _choose(logits_NSV[row_M, state_M], chosen_M, self.temperature, with_entropy)
        empty_NT = logp_M.new_zeros(len(rows), max(len(r.response) for r in rows))
        return empty_NT.index_put((row_M, t_M), logp_M), empty_NT.index_put((row_M, t_M), entropy_M)

    def _project(self, hidden_MH: Tensor, chosen_M: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
        head = self.model.get_output_embeddings()
        size = max(1, CHUNK_LOGITS // self.model.config.get_text_config().vocab_size)

        def chunk(hidden_MH: Tensor, chosen_M: Tensor) -> tuple[Tensor, Tensor]:
            return _choose(head(hidden_MH), chosen_M, self.temperature, with_entropy)

        if len(chosen_M) <= size:
            return chunk(hidden_MH, chosen_M)
        parts = [
            checkpoint(chunk, h, c, use_reentrant=False) if torch.is_grad_enabled() else chunk(h, c)
            for h, c in zip(hidden_MH.split(size), chosen_M.split(size), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _choose(logits_MV: Tensor, chosen_M: Tensor, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor]:
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)) / temperature
    normalised_MV = logits_MV.log_softmax(-1)
    logp_M = normalised_MV.gather(1, chosen_M.unsqueeze(1)).squeeze(1)
    if not with_entropy:
        return logp_M, torch.zeros_like(logp_M)
    return logp_M, torch.special.entr(normalised_MV.exp()).sum(-1)


@torch.no_grad()
def _head_is_plain(model: PreTrainedModel) -> bool:
    """Whether the head applied to the last hidden state gives the model's logits: measured, not assumed.

    Soft-capped or scaled logits (Gemma, Cohere, Granite) would otherwise be silently wrong.
    """
    head = model.get_output_embeddings()
    if head is None:
        return False
    ids_NS = torch.arange(4, device=model.device).unsqueeze(0)
    expected = model(input_ids=ids_NS, use_cache=False).logits
    found = head(model.base_model(input_ids=ids_NS, use_cache=False).last_hidden_state)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
