"""From logits to a token and its log-prob. A draw depends on the rollout's seed and the position alone."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from contrapose.policy.native import ANY_SIZE, LANES, Kernel, native, pointers, power, spread

BLOCK = LANES
"""Tokens whose probabilities are summed first, where one is drawn."""

LOGITS_A_THREAD = 1 << 16
"""Fewer are not worth another thread."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. ``temperature`` 0 is greedy; ``max_tokens`` bounds a response, its EOS included."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any values, the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def uniform(seed_N: Tensor, position_N: Tensor) -> Tensor:
    """Uniform float64 numbers in [0, 1): the SplitMix64 hash of ``(seed, position)``.

    A counter-based draw does not depend on which other rows are in the batch, as one from a shared generator would.
    """
    x = seed_N + (position_N + 1) * _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).double() * 2.0**-53


def _signed(x: int) -> int:
    """The low 64 bits of ``x`` as torch's signed integer; its arithmetic then wraps as SplitMix64's does."""
    return (x + 2**63) % 2**64 - 2**63


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def sample(logits_NV: Tensor, seed_N: Tensor, position_N: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """``(token_N, logp_N)``: one token a row by inverse CDF, and its log-prob under softmax(logits / temperature).

    ``top_p`` restricts the draw to the most likely tokens that reach that mass; the log-prob stays that of the
    whole distribution, as the policy's is.
    """
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    if sampling.temperature not in (0, 1):
        logits_NV = logits_NV / sampling.temperature
    logits_NV = logits_NV.contiguous()
    compiled = native(ANY_SIZE, logits_NV)
    if compiled and sampling.temperature and sampling.top_p == 1:
        return _choose(compiled["choose"], logits_NV, seed_N, position_N)
    gap_NV = logits_NV - logits_NV.amax(1, keepdim=True)
    weight_NV = power(gap_NV).masked_fill(gap_NV < -87, 0.0)
    blocks_NB = _blocks(weight_NV)
    if sampling.temperature == 0:
        token_N = logits_NV.argmax(-1)
    elif sampling.top_p == 1:
        token_N = _draw(weight_NV, blocks_NB, uniform(seed_N, position_N))
    else:
        kept_NV = _nucleus(weight_NV / blocks_NB[:, -1:], sampling.top_p)
        token_N = _draw(kept_NV, _blocks(kept_NV), uniform(seed_N, position_N))
    gap_N = gap_NV.gather(1, token_N.unsqueeze(1)).squeeze(1)
    return token_N, (gap_N - _log(blocks_NB[:, -1])).to(logits_NV.dtype)


def _choose(kernel: Kernel, logits_NV: Tensor, seed_N: Tensor, position_N: Tensor) -> tuple[Tensor, Tensor]:
    """``uniform`` and ``_draw`` in C, and the log-prob of what was drawn."""
    rows, size = logits_NV.shape
    seed_N, position_N = (x.expand(rows).contiguous() for x in (seed_N, position_N))
    token_N, logp_N = torch.empty_like(seed_N), logits_NV.new_empty(rows)

    def part(first: int, last: int) -> None:
        blocks = torch.empty(-(-size // BLOCK), dtype=torch.float64)
        kernel(*pointers(logits_NV, seed_N, position_N, token_N, logp_N, blocks), first, last, size)

    spread(part, rows, max(1, LOGITS_A_THREAD // size))
    return token_N, logp_N


def _log(x_N: Tensor) -> Tensor:
    """Natural logarithms; on a CPU those of C, where torch's own may round otherwise."""
    return x_N.log() if x_N.is_cuda else torch.tensor([math.log(x) for x in x_N.tolist()], dtype=x_N.dtype)


def _blocks(weight_NV: Tensor) -> Tensor:
    """Running sums of the weights of ``BLOCK`` tokens each, in double precision."""
    padded_NBC: Tensor = F.pad(weight_NV, (0, -weight_NV.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))  # type: ignore[no-untyped-call]
    return padded_NBC.double().cumsum(-1)[..., -1].cumsum(-1)  # one after the other: sum() has an order of its own


def _draw(weight_NV: Tensor, blocks_NB: Tensor, uniform_N: Tensor) -> Tensor:
    """The token at which the running sum of a row's weights passes ``uniform`` times their total.

    First the block of tokens in which it does, then the token.
    """
    weight_NBC = F.pad(weight_NV, (0, -weight_NV.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    target_N1 = uniform_N.unsqueeze(1) * blocks_NB[:, -1:]
    block_N1 = torch.searchsorted(blocks_NB, target_N1, right=True).clamp_(max=blocks_NB.shape[1] - 1)
    before_N1 = F.pad(blocks_NB, (1, 0)).gather(1, block_N1)
    within_NC = weight_NBC[torch.arange(len(block_N1), device=block_N1.device), block_N1.squeeze(1)].double().cumsum(-1)
    # the two sums round apart: never beyond the last token that has any weight
    rest_N1 = torch.minimum(target_N1 - before_N1, within_NC[:, -1:].nextafter(target_N1.new_zeros(())))
    token_N1 = block_N1 * BLOCK + torch.searchsorted(within_NC, rest_N1, right=True)
    return token_N1.squeeze(1).clamp_(max=weight_NV.shape[1] - 1)  # of logits that are not finite, any


def _nucleus(weight_NV: Tensor, top_p: float) -> Tensor:
    """``weight_NV`` with everything below the smallest set of tokens of mass ``top_p`` set to zero."""
    sorted_NV, order_NV = weight_NV.sort(dim=-1, descending=True)
    before_NV = sorted_NV.cumsum(-1) - sorted_NV
    kept_NV = sorted_NV.masked_fill(before_NV >= top_p, 0.0)
    return torch.zeros_like(weight_NV).scatter(1, order_NV, kept_NV)
