"""Attention of short rows whose tokens lie in one list, on a CPU in float32: in C where there is a compiler.

Rows are lists of places, so that a prompt's tokens stand in the rows of all its answers and attend once, in its own.
Both give the same bits. Dimensions: N tokens, H query heads, G key-value heads, D head size, R rows of S columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrapose.policy.fused import once
from contrapose.policy.native import LANES, TILE, native, pointers, power, spread, total


class Rows(NamedTuple):
    """Where the tokens of each row are, the rows one after the other; ``known``: how many of each do not attend."""

    place: Tensor
    start: Tensor
    known: Tensor
    longest: int


def rows_of(places: Sequence[Sequence[int]], known: Sequence[int]) -> Rows:
    """Rows of these tokens; every token attends in one of them."""
    lengths = list(map(len, places))
    lists = chain.from_iterable(places), accumulate(lengths, initial=0), known
    place, start, at = (torch.from_numpy(np.fromiter(numbers, np.int64)) for numbers in lists)
    return Rows(place, start, at, max(lengths))


def attend(q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, rows: Rows, window: int | None) -> Tensor:
    """``[N, H * D]``: each token attends to itself and what stands before it, at most ``window`` tokens."""
    out: Tensor = _Attend.apply(q_NHD, k_NGD, v_NGD, rows, window or rows.longest)
    return out.flatten(1)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Rows, window: int) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        ctx.compiled = compiled = native(q.shape[2], q, k, v)
        if compiled:
            _in_c(compiled["attend"], (q, k, v, out), rows, (q.shape, k.shape[1], window), columns=2)
        else:
            _Torch(q, k, rows, window).fill(v, out)
        ctx.save_for_backward(q, k, v, out)
        ctx.rows, ctx.window = rows, window
        return out

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out = ctx.saved_tensors
        grad, dq, dk, dv = grad.contiguous(), torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        if ctx.compiled:
            shape = q.shape, k.shape[1], ctx.window
            _in_c(ctx.compiled["attend_back"], (grad, q, k, v, out, dq, dk, dv), ctx.rows, shape, columns=5)
        else:
            _Torch(q, k, ctx.rows, ctx.window).fill_back(grad, v, out, dq, dk, dv)
        return dq, dk, dv, None, None


def _in_c(kernel: Any, tensors: Sequence[Tensor], rows: Rows, shape: tuple[torch.Size, int, int], columns: int) -> None:
    """``columns`` times a head's padded size, and scores of two tiles, is what a column takes of the work space."""
    (_, heads, size), groups, window = shape
    room = -(-rows.longest // LANES) * LANES
    given = pointers(*tensors, rows.place, rows.start, rows.known)

    def part(first: int, last: int) -> None:
        work = tensors[0].new_empty(room * (columns * -(-size // LANES) * LANES + 2 * TILE))
        numbers = len(rows.known), heads, groups, room, window, size**-0.5
        kernel(*given, work.data_ptr(), *numbers, first, last)

    spread(part, groups)


class _Torch:
    """The same, sum by sum in the same order: scores of all rows, ``[R, G, heads of a group, S queries, S]``."""

    def __init__(self, q: Tensor, k: Tensor, rows: Rows, window: int) -> None:
        self.rows = [part.tolist() for part in rows.place.tensor_split(rows.start[1:-1])]
        self.place_RS = torch.tensor([row + row[:1] * (rows.longest - len(row)) for row in self.rows])
        column, length = torch.arange(rows.longest), rows.start.diff()
        back = column[:, None] - column
        attends = (column >= rows.known[:, None]) & (column < length[:, None])
        self.seen = ((back >= 0) & (back < window) & attends[:, :, None])[:, None, None]
        self.scale, self.groups = q.shape[2] ** -0.5, k.shape[1]
        self.q, self.k = self._queries(q), self._keys(k)
        score = self._dots(self.q, self.k) * self.scale
        score = score.masked_fill(~self.seen, -torch.inf)
        top = score.amax(-1, keepdim=True).clamp(min=torch.finfo(q.dtype).min)  # of those that do not attend
        self.share = power(score - top).masked_fill(~self.seen, 0.0)
        self.sum = total(self.share)
        self.attends = attends

    def fill(self, v: Tensor, out: Tensor) -> None:
        """Fill ``out``."""
        self._store(out, self._mixed(self.share, self._keys(v)) / self.sum)

    def fill_back(self, grad: Tensor, v: Tensor, out: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> None:
        """Fill ``dq``, and add to ``dk`` and ``dv``."""
        back, given = self._queries(grad), self._queries(out)
        p = (self.share / self.sum).masked_fill(~self.seen, 0.0)
        slope = (p * (self._dots(back, self._keys(v)) - total(back * given))) * self.scale
        self._store(dq, self._mixed(slope, self.k))
        for to, weight, vectors in ((dk, slope, self.q), (dv, p, back)):
            sums = torch.zeros_like(self.k)
            for head in range(vectors.shape[2]):
                for i in range(vectors.shape[3]):
                    sums += weight[:, :, head, i, :, None] * vectors[:, :, head, i, None, :]
            for row, own in zip(self.rows, sums, strict=True):
                to[row] += own.transpose(0, 1)[: len(row)]

    def _queries(self, x_NHD: Tensor) -> Tensor:
        put: Tensor = x_NHD[self.place_RS].unflatten(2, (self.groups, -1))  # type: ignore[no-untyped-call]
        return put.permute(0, 2, 3, 1, 4)

    def _keys(self, x_NGD: Tensor) -> Tensor:
        return x_NGD[self.place_RS].transpose(1, 2)

    def _dots(self, vectors: Tensor, columns: Tensor) -> Tensor:
        found = vectors.new_zeros(*vectors.shape[:-1], columns.shape[2])
        for d in range(vectors.shape[-1]):
            found += vectors[..., d, None] * columns[:, :, None, None, :, d]
        return found

    def _mixed(self, weight: Tensor, columns: Tensor) -> Tensor:
        found = weight.new_zeros(*weight.shape[:-1], columns.shape[3])
        for s in range(weight.shape[-1]):
            found += weight[..., s, None] * columns[:, :, None, None, s]
        return found

    def _store(self, out: Tensor, x: Tensor) -> None:
        out[self.place_RS[self.attends]] = x.permute(0, 3, 1, 2, 4).flatten(2, 3)[self.attends]
