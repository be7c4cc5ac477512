"""Attention of one new token of each row to the row's past, on a CPU in float32: in C where there is a compiler.

Both give the same bits. torch's attention is made for many queries a row; for one it takes more than twice as long.
Dimensions: N rows, G key-value heads, H query heads, D head size, C chunks of columns, W times L (``LANES``) each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from contrapose.policy.fused import Rope, turned
from contrapose.policy.native import LANES, TILE, Kernel, native, pointers, power, spread, total


class Heads(NamedTuple):
    """What a layer does to its heads: weights of the norms of queries and keys, angles, and its window, or None."""

    norms: tuple[Tensor | None, Tensor | None]
    eps: float
    rope: Rope
    window: int | None


def look_back(
    q: Tensor, k: Tensor, v: Tensor, heads: Heads, keys: Tensor, values: Tensor, place_R: Tensor, length_N: Tensor
) -> Tensor:
    """``(q_NHD, k_NGD, v_NGD, _, keys_CRGWDL, values_CRGWLD, _, _) -> [N, H * D]``: appends, then attends.

    Queries and keys are as projected. Row n's past lies at ``place[n]``; there may be more places than rows.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    compiled = native(q.shape[2], q, k, v, *heads.norms, *heads.rope)
    given = q, k, v, heads, keys, values, place_R, length_N
    return _in_c(compiled["look_back"], *given) if compiled else in_torch(*given)


def _in_c(
    kernel: Kernel,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: Heads,
    keys: Tensor,
    values: Tensor,
    place: Tensor,
    length: Tensor,
) -> Tensor:
    (rows, count, size), (chunks, _, groups, wide) = q.shape, values.shape[:4]
    assert keys.dim() == values.dim() == 6 and keys.stride(0) == values.stride(0)
    out = q.new_empty(rows, count * size)
    given = pointers(q, k, v, *heads.norms, *heads.rope, keys, values, place, length, out)
    room = chunks * wide * LANES
    rest = count, groups, room, wide * LANES, keys.stride(0), heads.window or room, size**-0.5, heads.eps

    def part(first: int, last: int) -> None:
        share = out.new_empty(TILE * room)
        kernel(*given, share.data_ptr(), first, last, *rest)

    spread(part, rows)
    return out


def in_torch(
    q: Tensor, k: Tensor, v: Tensor, heads: Heads, keys: Tensor, values: Tensor, place: Tensor, length: Tensor
) -> Tensor:
    """The same, sum by sum in the same order."""
    (rows, count, size), (groups, wide) = q.shape, values.shape[2:4]
    (q_D, k_D), eps, rope, window = heads
    q, k = turned(q, q_D, eps, rope, length), turned(k, k_D, eps, rope, length)
    width, place = wide * LANES, place[:rows]
    column = length // width, place, slice(None), length % width // LANES
    keys[*column, :, length % LANES], values[*column, length % LANES] = k, v
    seen = int(length.max()) + 1
    used = -(-seen // width)
    q_NGHD = q.view(rows, groups, -1, size)
    scores = []
    for past in keys[:used, place]:
        score = torch.zeros(*q_NGHD.shape[:3], wide, LANES)
        for d in range(size):
            score += q_NGHD[..., d, None, None] * past[:, :, None, :, d]
        scores.append(score.flatten(3))
    s_S, scale = torch.arange(used * width), size**-0.5
    hidden = (s_S > length[:, None]) | (s_S <= length[:, None] - (window or seen))
    score = torch.cat(scores, 3).mul_(scale).masked_fill_(hidden[:, None, None], -torch.inf)
    share = power(score - score.amax(3, keepdim=True)).masked_fill_(hidden[:, None, None], 0.0)
    out = torch.zeros_like(q_NGHD)
    for s in range(max(0, int(length.min()) + 1 - (window or seen)), seen):
        p, value = share[..., s : s + 1], values[s // width, place, :, None, s % width // LANES, s % LANES]
        out += torch.where(p > 0, p * value, 0.0)  # what is not seen may never have been written
    return (out / total(share)).view(rows, count * size)
