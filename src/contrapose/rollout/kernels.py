"""What a decode step on a GPU does in kernels of its own, in Triton: what torch would take several passes for.

Imported only where there is a CUDA device and Triton. Dimensions beside the legend of ``types.py``: G key-value heads,
H query heads, D head size, S columns, B blocks of the vocabulary, I inner size.
"""

from math import e, log2

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Tokens of the vocabulary that one program walks over."""

WARPS = 4
"""Warps that read a row's columns."""

READS = (3, 64), (2, 64), (2, 32), (2, 16)
"""How many reads are under way, and of how many columns each: the best first, for which large heads leave no room."""


def look_back(
    qkv: tuple[Tensor, Tensor, Tensor],
    past: tuple[Tensor, Tensor],
    length_N: Tensor,
    asked: tuple[Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    window: int | None,
) -> Tensor:
    """Attention of a new token of each row, after ``length`` columns of it: ``[N, H * D]``.

    Its query, key and value are as projected, ``[N, H or G, D]``; they are normalised where the layer does that, and
    rotated by their row of the tables ``rope``. Key and value are put into ``past``, ``[R, G, S, D]`` each, where what
    stands before is read, once for all query heads of a group. ``asked``: which row's first columns each row reads in
    place of its own, and how many; rows that read the same find it in the cache.
    """
    q_NHD, (keys, values) = qkv[0], past
    (rows, heads, size), (groups, columns) = q_NHD.shape, keys.shape[1:3]
    assert all(x.stride()[1:] == (size, 1) for x in qkv) and keys.is_contiguous() and values.is_contiguous()
    out_NF = q_NHD.new_empty(rows, heads * size)
    wide = max(16, triton.next_power_of_2(heads // groups)), max(16, triton.next_power_of_2(size))
    about = torch.cuda.get_device_properties(q_NHD.device) if q_NHD.is_cuda else None
    room = getattr(about, "shared_memory_per_block_optin", 1 << 16)
    stages, block = reads(*wide, q_NHD.element_size(), room)
    _look_back[(rows, groups)](
        *(*qkv, *(x.stride(0) for x in qkv), keys, values, length_N, *asked, *rope, *(norms or qkv[:2]), out_NF),
        *(columns, eps, log2(e) * size**-0.5, heads, groups, size, window or 0, norms is not None, *wide, block),
        num_warps=WARPS,
        num_stages=stages,
    )
    return out_NF


def reads(queries: int, wide: int, bytes_each: int, room: int) -> tuple[int, int]:
    """The first of ``READS`` for which ``room`` bytes, what the warps of a program share, are enough."""
    for stages, columns in READS:
        kept = max(stages - 1, 1) * 2 * columns * wide * bytes_each  # keys and values
        if kept + queries * (wide * bytes_each + 4 * columns) + 1024 <= room:
            return stages, columns
    return READS[-1]


def gated(gate_NI: Tensor, up_NI: Tensor) -> Tensor:
    """``silu(gate) * up``; the two may stand side by side."""
    (rows, inner), block = gate_NI.shape, 1024
    out_NI = gate_NI.new_empty(rows, inner)
    _gated[(rows, triton.cdiv(inner, block))](gate_NI, up_NI, out_NI, gate_NI.stride(0), up_NI.stride(0), inner, block)
    return out_NI


def normed(x_NE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """``fused.rms_norm`` of a few short rows."""
    rows, wide = x_NE.shape
    out_NE = torch.empty_like(x_NE)
    _normed[(rows,)](x_NE, weight_E, out_NE, wide, eps, triton.next_power_of_2(wide), num_warps=4)
    return out_NE


def draw(logits_NV: Tensor, seed_N: Tensor, position_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``sampler.sample`` at ``top_p`` 1: the logits are walked over once, and one block of them a row again."""
    rows, vocabulary = logits_NV.shape
    blocks = triton.cdiv(vocabulary, BLOCK)
    top_NB, mass_NB = torch.empty(2, rows, blocks, device=logits_NV.device)
    token_N, logp_N = torch.empty_like(seed_N), torch.empty(rows, device=logits_NV.device)
    scale = 1.0 / (temperature or 1.0)
    _weigh[(rows, blocks)](logits_NV, top_NB, mass_NB, vocabulary, scale, BLOCK, num_warps=4)
    _draw[(rows,)](
        *(logits_NV, top_NB, mass_NB, seed_N, position_N, token_N, logp_N, vocabulary, blocks, scale),
        *(temperature == 0, triton.next_power_of_2(blocks), BLOCK),
        num_warps=8,
    )
    return token_N, logp_N


@triton.jit
def _look_back(
    q_at,
    k_at,
    v_at,
    q_apart,
    k_apart,
    v_apart,
    keys,
    values,
    length,
    source,
    asked,
    cos,
    sin,
    q_norm,
    k_norm,
    out,
    columns,
    eps,
    scale,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    NORMED: tl.constexpr,
    QUERIES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    last = tl.load(length + row).to(tl.int32)
    query, d = tl.arange(0, QUERIES), tl.arange(0, WIDE)
    inside = d < SIZE
    real = (query < HEADS // GROUPS)[:, None] & inside[None, :]
    place = (group * (HEADS // GROUPS) + query)[:, None] * SIZE
    cos += last * SIZE
    sin += last * SIZE
    q = _head(q_at + row * q_apart + place, real, q_norm, cos, sin, eps, SIZE, WIDE, NORMED)
    k_place = row * k_apart + group * SIZE + tl.zeros([1, 1], tl.int64)
    k = _head(k_at + k_place, inside[None, :], k_norm, cos, sin, eps, SIZE, WIDE, NORMED)
    v = tl.load(v_at + row * v_apart + group * SIZE + d, mask=inside, other=0.0)
    q, k = q.to(v.dtype), tl.sum(k, 0).to(v.dtype)
    here = ((row * GROUPS + group) * columns + last) * SIZE + d
    living = inside & (last > 0)  # others may still read what a dead row holds
    tl.store(keys + here, k, mask=living)
    tl.store(values + here, v, mask=living)
    source, asked = tl.load(source + row), tl.load(asked + row)
    # a running softmax that begins with the token itself, so that what was just stored is not read again
    top = tl.sum(q.to(tl.float32) * k.to(tl.float32)[None, :], 1) * scale
    total = tl.full([QUERIES], 1.0, tl.float32)
    mixed = tl.zeros([QUERIES, WIDE], tl.float32) + v.to(tl.float32)[None, :]
    first = 0
    if WINDOW > 0:
        first = tl.maximum(last + 1 - WINDOW, 0)
    for begin in range(first // BLOCK * BLOCK, last, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        before = (column >= first) & (column < last)
        at = ((tl.where(column < asked, source, row) * GROUPS + group) * columns + column) * SIZE
        k_DS = tl.load(keys + at[None, :] + d[:, None], mask=inside[:, None], other=0.0)
        score = tl.dot(q, k_DS, input_precision="ieee") * scale
        score = tl.where(before[None, :], score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        share, fade = tl.exp2(score - higher[:, None]), tl.exp2(top - higher)
        v_SD = tl.load(values + at[:, None] + d[None, :], mask=before[:, None] & inside[None, :], other=0.0)
        mixed = mixed * fade[:, None] + tl.dot(share.to(v.dtype), v_SD, input_precision="ieee")
        total = total * fade + tl.sum(share, 1)
        top = higher
    tl.store(out + row * HEADS * SIZE + place + d[None, :], mixed / total[:, None], mask=real)


@triton.jit
def _head(at, mask, norm, cos, sin, eps, SIZE: tl.constexpr, WIDE: tl.constexpr, NORMED: tl.constexpr):
    """Heads, ``[heads, D]``, normalised where the layer does that, and rotated."""
    d = tl.arange(0, WIDE)
    inside, across = d < SIZE, (d + SIZE // 2) % SIZE  # what rotation mixes in
    x = tl.load(at + d[None, :], mask=mask, other=0.0).to(tl.float32)
    x_across = tl.load(at + across[None, :], mask=mask, other=0.0).to(tl.float32)
    if NORMED:
        scale = tl.rsqrt(tl.sum(x * x, 1) / SIZE + eps)[:, None]
        x *= scale * tl.load(norm + d, mask=inside, other=0.0).to(tl.float32)[None, :]
        x_across *= scale * tl.load(norm + across).to(tl.float32)[None, :]
    c = tl.load(cos + d, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + d, mask=inside, other=0.0).to(tl.float32)
    return x * c[None, :] + x_across * s[None, :]


@triton.jit
def _gated(gate, up, out, gate_apart, up_apart, inner, BLOCK: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(gate + row * gate_apart + at, mask=at < inner, other=0.0).to(tl.float32)
    y = tl.load(up + row * up_apart + at, mask=at < inner, other=0.0).to(tl.float32)
    tl.store(out + row * inner + at, x / (1.0 + tl.exp(-x)) * y, mask=at < inner)


@triton.jit
def _normed(x_at, weight, out, wide, eps, WIDE: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    x = tl.load(x_at + row * wide + at, mask=at < wide, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / wide + eps)
    y = x * scale * tl.load(weight + at, mask=at < wide, other=0.0).to(tl.float32)
    tl.store(out + row * wide + at, y, mask=at < wide)


@triton.jit
def _weigh(logits, top, mass, vocabulary, scale, BLOCK: tl.constexpr):
    """Of each block of tokens the largest logit, and the sum of the exponentials below it."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * vocabulary + token, mask=token < vocabulary, other=-float("inf")).to(tl.float32) * scale
    highest = tl.max(x, 0)
    total = tl.sum(tl.exp(x - highest), 0)
    at = row * tl.num_programs(1) + block
    tl.store(top + at, highest)
    tl.store(mass + at, tl.where(highest == -float("inf"), 0.0, total))


@triton.jit
def _uniform(seed, position):
    """``sampler.uniform``."""
    x = seed.to(tl.uint64) + (position + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x = x ^ (x >> 31)
    return (x >> 11).to(tl.float64) * 1.1102230246251565e-16  # 2 ** -53


@triton.jit
def _passed(weight, target, place, COUNT: tl.constexpr):
    """The first place at which the running sum passes ``target``, or the last that has any weight."""
    found = tl.min(tl.where((tl.cumsum(weight, 0) > target) & (weight > 0), place, COUNT), 0)
    return tl.where(found == COUNT, tl.max(tl.where(weight > 0, place, 0), 0), found)


@triton.jit
def _draw(
    logits,
    tops,
    masses,
    seeds,
    positions,
    tokens,
    logps,
    vocabulary,
    blocks,
    scale,
    GREEDY: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    b, t = tl.arange(0, BLOCKS), tl.arange(0, BLOCK)
    top_B = tl.load(tops + row * blocks + b, mask=b < blocks, other=-float("inf"))
    mass_B = tl.load(masses + row * blocks + b, mask=b < blocks, other=0.0)
    top = tl.max(top_B, 0)
    mass_B = tl.where(mass_B == 0.0, 0.0, mass_B * tl.exp(top_B - top)).to(tl.float64)
    mass = tl.sum(mass_B, 0)
    target = _uniform(tl.load(seeds + row), tl.load(positions + row)) * mass
    block = tl.min(tl.where(top_B == top, b, BLOCKS), 0) if GREEDY else _passed(mass_B, target, b, BLOCKS)
    block = tl.minimum(block, blocks - 1)  # of logits that are not finite, any
    token = block * BLOCK + t
    x = tl.load(logits + row * vocabulary + token, mask=token < vocabulary, other=-float("inf")).to(tl.float32) * scale
    if GREEDY:
        at = tl.min(tl.where(x == top, t, BLOCK), 0)
    else:
        rest = target - tl.sum(tl.where(b < block, mass_B, 0.0), 0)
        at = _passed(tl.exp(x - top).to(tl.float64), rest, t, BLOCK)
    at = tl.minimum(at, tl.minimum(vocabulary - block * BLOCK, BLOCK) - 1)
    tl.store(tokens + row, (block * BLOCK + at).to(tl.int64))
    tl.store(logps + row, tl.sum(tl.where(t == at, x, 0.0), 0) - top - tl.log(mass).to(tl.float32))
