"""What rows keep of the tokens they have read and chosen: keys and values of every layer.

Dimensions beside the legend of ``types.py``: R rows there is room for, G key-value heads, H query heads, D head size,
S columns (positions).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from contrapose.policy.llama import Llama
from contrapose.policy.native import LANES
from contrapose.policy.states import put
from contrapose.rollout.look_back import Heads, look_back

CHUNKS = 8
PADDING = 33 * LANES
"""Values between two chunks."""


class Past(Protocol):
    """The keys and values of all layers. ``rows`` and ``columns``: what there is room for."""

    rows: int
    columns: int

    def forget(self) -> None:
        """Make ready for other rows, whatever stands there."""
        ...

    def write(self, layer: int, rows_N: Tensor, k_PSGD: Tensor, v_PSGD: Tensor) -> None:
        """Put P prompts into the first columns of ``rows``, each into as many of them in turn."""
        ...

    def look_back(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, length_N: Tensor, seen: int) -> Tensor:
        """Append a token a row after ``length`` columns, and attend to it and to what stands before: ``[N, H * D]``.

        Queries and keys are as projected: ``Llama.heads`` is still to come. No row has more than ``seen`` columns then.
        """
        ...

    def keep(self, rows: Sequence[int], seen: int) -> None:
        """Let go of all rows but these, which are the first ones from now on: each stays, or follows one that is let go
        of. None has more than ``seen`` columns."""
        ...


class PlainPast:
    """For any device and dtype, by torch's own attention, under a mask."""

    def __init__(self, llama: Llama, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        shape = rows, llama.groups, columns, llama.head_size
        self.layers = [(llama.embedding.new_zeros(shape), llama.embedding.new_zeros(shape)) for _ in llama.layers]
        self.llama, self.windows = llama, [layer.window for layer in llama.layers]

    def forget(self) -> None:
        """See ``Past.forget``. Zero times what a broken model left under the mask would not be zero."""
        for past in (past for layer in self.layers for past in layer):
            past.zero_()

    def write(self, layer: int, rows_N: Tensor, k_PSGD: Tensor, v_PSGD: Tensor) -> None:
        """See ``Past.write``."""
        for past, x_PSGD in zip(self.layers[layer], (k_PSGD, v_PSGD), strict=True):
            past[rows_N, :, : x_PSGD.shape[1]] = cloned(x_PSGD.transpose(1, 2), rows_N)

    def look_back(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, length_N: Tensor, seen: int) -> Tensor:
        """See ``Past.look_back``. The heads of a group are so many queries to its keys: none is copied for them."""
        q_NHD, k_NGD = self.llama.heads(layer, q_NHD, k_NGD, length_N)
        (keys, values), window, rows = self.layers[layer], self.windows[layer], len(q_NHD)
        width = min(-(-seen // 64) * 64, self.columns)
        every_N, column_S = (torch.arange(n, device=q_NHD.device) for n in (rows, width))
        keys[every_N, :, length_N], values[every_N, :, length_N] = k_NGD, v_NGD
        back_NS = length_N.unsqueeze(1) - column_S
        seen_NS = back_NS >= 0 if window is None else (back_NS >= 0) & (back_NS < window)
        keys, values = (x[:rows, :, :width] for x in (keys, values))
        q_NGHD = q_NHD.unflatten(1, (k_NGD.shape[1], -1))
        return F.scaled_dot_product_attention(q_NGHD, keys, values, attn_mask=seen_NS[:, None, None]).flatten(1)

    def keep(self, rows: Sequence[int], seen: int) -> None:
        """See ``Past.keep``."""
        if moved := moves(rows):
            from_N, to_N = put(moved, self.layers[0][0].device)
            for past in (past for layer in self.layers for past in layer):
                past[to_N, :, :seen] = past[from_N, :, :seen]


class ChunkedPast:
    """For a CPU and float32, as ``look_back`` reads it: columns in chunks, so that what is read lies dense.

    Chunks are of ``width`` columns: 16, or where there are many columns of more, so that no more than ``CHUNKS`` places
    are read in turn.
    """

    def __init__(self, llama: Llama, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        groups, size = llama.groups, llama.head_size
        self._wide = -(-columns // (LANES * CHUNKS))  # lanes of a chunk
        self.width = LANES * self._wide
        chunks = -(-columns // self.width)
        keys, values = (rows, groups, self._wide, size, LANES), (rows, groups, self._wide, LANES, size)
        self.layers = [
            (_apart(chunks, keys, llama.embedding), _apart(chunks, values, llama.embedding)) for _ in llama.layers
        ]
        self.llama, self.windows = llama, [layer.window for layer in llama.layers]
        self.forget()

    def forget(self) -> None:
        """See ``Past.forget``. What is not seen is not read."""
        self.place_R = torch.arange(self.rows)

    def write(self, layer: int, rows_N: Tensor, k_PSGD: Tensor, v_PSGD: Tensor) -> None:
        """See ``Past.write``."""
        keys, values = self.layers[layer]
        width, place_N = self.width, self.place_R[rows_N]
        for past, x_PSGD, order in ((keys, k_PSGD, (0, 1, 4, 2, 5, 3)), (values, v_PSGD, (0, 1, 4, 2, 3, 5))):
            x = F.pad(x_PSGD, (0, 0, 0, 0, 0, -x_PSGD.shape[1] % width)).unflatten(1, (-1, self._wide, LANES))
            for chunk, filled in zip(past, x.permute(order).contiguous().unbind(1), strict=False):
                chunk.index_copy_(0, place_N, cloned(filled, rows_N))

    def look_back(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, length_N: Tensor, seen: int) -> Tensor:
        """See ``Past.look_back``."""
        (q_D, k_D), eps = self.llama.layers[layer].head_norms, self.llama.layers[layer].eps
        heads = Heads((q_D, k_D), eps, self.llama.rope, self.windows[layer])
        return look_back(q_NHD, k_NGD, v_NGD, heads, *self.layers[layer], self.place_R, length_N)

    def keep(self, rows: Sequence[int], seen: int) -> None:
        """See ``Past.keep``. No more is moved than the numbers of places."""
        kept_N = put(rows, self.place_R.device)
        free_R = torch.ones_like(self.place_R, dtype=torch.bool).index_fill_(0, kept_N, False)
        self.place_R = torch.cat([self.place_R[kept_N], self.place_R[free_R]])


def moves(rows: Sequence[int]) -> list[list[int]]:
    """Which rows move where they are kept in this order, and where to; empty for none."""
    return [list(side) for side in zip(*((row, to) for to, row in enumerate(rows) if row != to), strict=True)]


def cloned(x_P: Tensor, rows_N: Tensor) -> Tensor:
    """Each of ``x_P`` as many times in turn as there are rows for it."""
    return x_P.repeat_interleave(len(rows_N) // len(x_P), 0)


def past_for(llama: Llama, rows: int, columns: int) -> Past:
    """The past that this machine reads fastest."""
    on_cpu = llama.device.type == "cpu" and llama.embedding.dtype == torch.float32
    return (ChunkedPast if on_cpu else PlainPast)(llama, rows, columns)


def _apart(chunks: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Memory for so many chunks, with some between them: where they lie a multiple of a page apart, what is read in
    turn competes for the same few lines of a processor's caches. And the last head is read a whole number of lanes at
    a time."""
    padded: Tensor = like.new_empty(chunks, prod(shape) + PADDING)[:, :-PADDING]
    return padded.unflatten(1, shape)  # type: ignore[no-any-return]
