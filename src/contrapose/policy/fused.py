"""Two small functions that a Llama layer calls several times, with derivatives that pass over memory once or twice.

Left to autograd, each of their steps would keep its input and walk over it again on the way back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last dimension; the mean in at least float32."""
    if x.is_cuda:
        return F.rms_norm(x, weight.shape, weight, eps)  # one kernel there
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return]
    return _normalised(x, eps)[0].mul_(weight)


def rotate(x_NHD: Tensor, cos_N1D: Tensor, sin_N1D: Tensor) -> Tensor:
    """Rotary embedding: ``x * cos + swap(x) * sin``, where swap exchanges the two halves of each head."""
    if torch.is_grad_enabled():
        return _Rotate.apply(x_NHD, cos_N1D, sin_N1D)  # type: ignore[no-any-return]
    return _turned(x_NHD, cos_N1D, sin_N1D)


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x`` at unit mean square, and what it was multiplied by."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * scale).to(x.dtype), scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        unit, scale = _normalised(x, eps)
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        unit, scale, weight = ctx.saved_tensors
        product = grad * unit
        down = grad * weight
        along = torch.matmul(product, weight.unsqueeze(1)).div_(-unit.shape[-1])  # mean(down * unit)
        down = down.addcmul_(unit, along).mul_(scale.to(down.dtype))
        return down, product.flatten(0, -2).sum(0), None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, _swapped(sin)), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos).addcmul_(_swapped(x), sin)


def _swapped(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([second, first], -1)
