"""Two passes over logits on a GPU, in Triton: what the softmax says of a chosen token, and its slope in place.

Imported only where ``fused.runs_kernels`` says so. C tokens of a chunk, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Logits of a token that are walked over at a time."""


def weigh(logits_CV: Tensor, chosen_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``softmax(logits / temperature)`` the logarithm of the sum of exponentials, the log-prob of the chosen token
    and the entropy (nats), ``[C]`` each."""
    rows, vocabulary = logits_CV.shape
    out = torch.empty(3, rows, device=logits_CV.device)
    _weigh[(rows,)](logits_CV, chosen_C, *out, vocabulary, 1.0 / temperature, BLOCK, num_warps=8)
    sum_C, logp_C, entropy_C = out
    return sum_C, logp_C, entropy_C


def slope_(logits_CV: Tensor, chosen_C: Tensor, sum_C: Tensor, credit_C: Tensor, temperature: float) -> Tensor:
    """``credit * (softmax - one at the chosen token) / temperature`` in place of the logits; ``sum_C`` of ``weigh``."""
    rows, vocabulary = logits_CV.shape
    grid = rows, triton.cdiv(vocabulary, BLOCK)
    _slope[grid](logits_CV, chosen_C, sum_C, credit_C / temperature, vocabulary, 1.0 / temperature, BLOCK, num_warps=8)
    return logits_CV


@triton.jit
def _weigh(logits, chosen, sums, logps, entropies, vocabulary, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    top, total, mixed = -3.0e38, 0.0, 0.0
    for start in range(0, vocabulary, BLOCK):
        token = start + tl.arange(0, BLOCK)
        x = tl.load(logits + token, mask=token < vocabulary, other=-float("inf")).to(tl.float32) * scale
        higher = tl.maximum(top, tl.max(x, 0))
        share, fade = tl.exp(x - higher), tl.exp(top - higher)
        total = total * fade + tl.sum(share, 0)
        mixed = mixed * fade + tl.sum(tl.where(share > 0, share * x, 0.0), 0)
        top = higher
    all_of_it = top + tl.log(total)
    tl.store(sums + row, all_of_it)
    tl.store(logps + row, tl.load(logits + tl.load(chosen + row)).to(tl.float32) * scale - all_of_it)
    tl.store(entropies + row, all_of_it - mixed / total)


@triton.jit
def _slope(logits, chosen, sums, credits, vocabulary, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logits += row * vocabulary
    x = tl.load(logits + token, mask=token < vocabulary, other=0.0).to(tl.float32) * scale
    p = tl.exp(x - tl.load(sums + row))
    p = tl.where(token == tl.load(chosen + row), p - 1.0, p)
    tl.store(logits + token, p * tl.load(credits + row), mask=token < vocabulary)
