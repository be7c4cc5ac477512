"""Decoding of models that ``cached.py`` does not know, through their own forward pass and the library's cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrapose.rollout.cached import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ForeignDecoder:
    """A ``Decoder`` for any causal language model with a key-value cache."""

    joins = False

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.device = model, model.device
        self._past: Any = None  # a DynamicCache
        self._attend_NS = torch.empty(0)

    def open(self, rows: int, columns: int) -> None:
        """See ``Decoder.open``. The library's cache grows by itself."""

    def admit(self, prompts: Sequence[Tokens], k: int, rows: Sequence[int]) -> Tensor:
        """See ``Decoder.admit``. Prompts are padded on the left; ``rows`` are all there are."""
        from transformers import DynamicCache

        width, device = max(map(len, prompts)), self.device
        ids_PS = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
        attend_PS = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        self._past = DynamicCache(config=self.model.config)
        logits_PV = self._forward(ids_PS, attend_PS, (attend_PS.cumsum(1) - 1).clamp(min=0), logits_to_keep=1)
        self._past.batch_repeat_interleave(k)
        self._attend_NS = attend_PS.repeat_interleave(k, 0)
        return logits_PV.repeat_interleave(k, 0)

    def step(self, token_N: Tensor) -> Tensor:
        """See ``Decoder.step``."""
        attend_NS = self._attend_NS = torch.cat([self._attend_NS, self._attend_NS.new_ones(len(token_N), 1)], dim=1)
        return self._forward(token_N.unsqueeze(1), attend_NS, attend_NS.sum(1, keepdim=True) - 1)

    def free(self, rows: Sequence[int]) -> None:
        """See ``Decoder.free``."""

    def keep(self, rows: Sequence[int]) -> None:
        """See ``Decoder.keep``."""
        kept = torch.tensor(rows, device=self.device)
        self._past.batch_select_indices(kept)
        self._attend_NS = self._attend_NS[kept]

    def close(self) -> None:
        """See ``Decoder.close``."""
        self._past, self._attend_NS = None, torch.empty(0)

    @torch.inference_mode()
    def bytes_per_token(self) -> float:
        """See ``Decoder.bytes_per_token``; measured on a prompt of two tokens, cloned to two rows.

        Raises AttributeError, TypeError, ValueError or NotImplementedError where the model's past cannot be cloned.
        """
        self.admit([(0, 1)], 2, (0, 1))
        self.keep([0])
        past: list[Tensor] = [t for layer in self._past.layers for t in (layer.keys, layer.values)]
        self.close()
        return sum(t.numel() * t.element_size() for t in past) / 2

    def _forward(self, ids_NS: Tensor, attend_NS: Tensor, position_NS: Tensor, **rest: int) -> Tensor:
        logits: Tensor = self.model(
            input_ids=ids_NS,
            attention_mask=attend_NS,
            position_ids=position_NS,
            past_key_values=self._past,
            use_cache=True,
            **rest,
        ).logits
        return logits[:, -1]
