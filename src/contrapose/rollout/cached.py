"""Decoding of Llama-family models on the policy's own parameters, with a past whose rows come and go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from contrapose.policy.llama import Llama
from contrapose.policy.states import put
from contrapose.rollout.compiled import CompiledStep, compiled_step
from contrapose.rollout.past import Past, past_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFILL_TOKENS = 1 << 14
"""Prompts are read so many padded tokens at a time."""

LEAST = 16
"""Rows of a product, at least: BLAS sums a handful in another order, and no log-prob must change when others end."""

KEPT_BYTES = 1 << 28
"""A past of at most so many bytes is kept from one generation to the next."""

Tokens = Sequence[int]


class Decoder(Protocol):
    """Rows that grow by a token a step. ``joins``: whether prompts may join while other rows are growing."""

    joins: bool
    device: torch.device

    def bytes_per_token(self) -> float:
        """What the past takes for one token of one row."""
        ...

    def open(self, rows: int, columns: int) -> None:
        """Make room for ``rows`` rows of so many tokens, and forget what was there."""
        ...

    def admit(self, prompts: Sequence[Tokens], k: int, rows: Sequence[int]) -> Tensor:
        """Read each prompt once, clone it to ``k`` of ``rows`` in turn, and return the logits of their first tokens."""
        ...

    def step(self, token_N: Tensor) -> Tensor:
        """Take in the token that each row chose, and return the logits of the next, ``[N, V]``."""
        ...

    def free(self, rows: Sequence[int]) -> None:
        """Nobody asks for these rows any more: others may join in their place."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Let go of all rows but these, which close up in this order: each stays, or moves to a row that is free."""
        ...

    def close(self) -> None:
        """Give memory back that is not small."""
        ...


class LlamaDecoder:
    """A ``Decoder`` for models of which ``policy.llama.is_llama`` holds."""

    joins = True

    def __init__(self, model: PreTrainedModel) -> None:
        self.llama = Llama(model)
        self.head: Any = model.get_output_embeddings()
        self.device = model.device
        self._past: Past | None = None
        self._compiled: CompiledStep | None = None

    def bytes_per_token(self) -> float:
        """See ``Decoder.bytes_per_token``."""
        return bytes_per_token(self.llama)

    def open(self, rows: int, columns: int) -> None:
        """See ``Decoder.open``."""
        self.llama.reach(columns)
        if self._past is None or self._past.rows < rows or self._past.columns < columns:
            self._past = self._compiled = None  # before there is another
            self._past = past_for(self.llama, max(rows, LEAST), columns)
        else:
            self._past.forget()
        self._length_N = torch.zeros(rows, dtype=torch.long, device=self.device)
        self._grows_N, self._seen = torch.zeros_like(self._length_N), 0
        self._compiled = compiled_step(self.llama, self.head, self._past)

    def admit(self, prompts: Sequence[Tokens], k: int, rows: Sequence[int]) -> Tensor:
        """See ``Decoder.admit``."""
        self._seen = max(self._seen, *map(len, prompts))
        parts = [(prompts[start:stop], rows[start * k : stop * k]) for start, stop in parts_of(prompts)]
        return torch.cat([self._read(asked, k, put(taken, self.device)) for asked, taken in parts])

    def step(self, token_N: Tensor) -> Tensor:
        """See ``Decoder.step``."""
        past, rows = self._open, len(token_N)
        token_N, length_N = _filled_up(token_N), _filled_up(self._length_N)  # rows beyond these are free
        self._seen += 1  # no row has more columns: known without asking the device

        def attend(layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
            return past.look_back(layer, q_NHD, k_NGD, v_NGD, length_N, self._seen)

        compiled = self._compiled
        logits_NV = compiled(token_N, length_N) if compiled else self._logits(self.llama(token_N, attend))
        self._length_N += self._grows_N
        return logits_NV[:rows]

    def free(self, rows: Sequence[int]) -> None:
        """See ``Decoder.free``. A row that nobody asks for goes on without a past."""
        freed_N = put(rows, self.device)
        for x_N in (self._length_N, self._grows_N):
            x_N.index_fill_(0, freed_N, 0)

    def keep(self, rows: Sequence[int]) -> None:
        """See ``Decoder.keep``."""
        kept_N = put(rows, self.device)
        self._length_N, self._grows_N = self._length_N[kept_N], self._grows_N[kept_N]
        self._seen = int(self._length_N.max())
        self._open.keep(rows, self._seen)

    def close(self) -> None:
        """See ``Decoder.close``. A small past stays: new memory costs as much as what is then decoded into it."""
        if self._past and self._past.rows * self._past.columns * self.bytes_per_token() > KEPT_BYTES:
            self._past = self._compiled = None

    @property
    def _open(self) -> Past:
        assert self._past, "open comes first"
        return self._past

    def _read(self, prompts: Sequence[Tokens], k: int, rows_N: Tensor) -> Tensor:
        length_P = put([len(p) for p in prompts], self.device)
        self._length_N[rows_N], self._grows_N[rows_N] = length_P.repeat_interleave(k), 1
        last_PE = read(self.llama, self._open, prompts, rows_N)
        return self._logits(_filled_up(last_PE))[: len(prompts)].repeat_interleave(k, 0)

    def _logits(self, hidden_NE: Tensor) -> Tensor:
        return F.linear(hidden_NE, self.head.weight, self.head.bias)


def bytes_per_token(llama: Llama) -> float:
    """See ``Decoder.bytes_per_token``."""
    return float(2 * len(llama.layers) * llama.groups * llama.head_size * llama.embedding.element_size())


def read(llama: Llama, past: Past, prompts: Sequence[Tokens], rows_N: Tensor) -> Tensor:
    """Prompts, padded on the right, through all layers: their last states, ``[P, E]``. The rows get their pasts."""
    count, width, device = len(prompts), max(map(len, prompts)), llama.device
    ids_PS = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], device=device)

    def keep(layer: int, k_NGD: Tensor, v_NGD: Tensor) -> None:
        past.write(layer, rows_N, *(x.unflatten(0, (-1, width))[:count] for x in (k_NGD, v_NGD)))

    hidden_PSE = llama.rows(_filled_up(ids_PS, -(-LEAST // width)), keep)
    return hidden_PSE[torch.arange(count, device=device), torch.tensor([len(p) - 1 for p in prompts], device=device)]


def _filled_up(x_N: Tensor, least: int = LEAST) -> Tensor:
    """At least so many rows, the last of them zero."""
    missing = least - len(x_N)
    return x_N if missing <= 0 else torch.cat([x_N, x_N.new_zeros(missing, *x_N.shape[1:])])


def parts_of(prompts: Sequence[Tokens]) -> Iterator[tuple[int, int]]:
    """Where to cut ``prompts`` so that each part has at most ``PREFILL_TOKENS`` padded tokens, or one prompt."""
    start = longest = 0
    for stop, prompt in enumerate(prompts):
        longest = max(longest, len(prompt))
        if stop > start and (stop + 1 - start) * longest > PREFILL_TOKENS:
            yield start, stop
            start, longest = stop, len(prompt)
    yield start, len(prompts)
