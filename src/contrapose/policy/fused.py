"""Norms, rotations and gates of a Llama layer, with derivatives that pass over memory once or twice.

On a CPU in float32 they are C where there is a compiler (``c/layer.c``), and elsewhere torch, sum by sum in the same
order. Left to autograd, each of their steps would keep its input and walk over it again on the way back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contrapose.policy.native import ANY_SIZE, LANES, NARROW, native, pointers, power, spread, total

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

ROWS_A_THREAD = 1 << 10
"""Fewer are not worth another thread."""

Backward = Callable[..., tuple[Tensor | None, ...]]

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of all positions at hand, ``[T, D]``; the sines of a head's first half are negated."""


def runs_kernels(x: Tensor) -> bool:
    """Whether kernels of our own can work on ``x``: it is on a GPU, and there is Triton."""
    return x.is_cuda and x.dtype in KERNEL_DTYPES and _has_triton()


@cache
def _has_triton() -> bool:
    found = find_spec("triton") is not None
    if not found:
        logging.getLogger(__name__).warning(
            "everything on the GPU is slower by far: there is no Triton (pip install triton)"
        )
    return found


def rms_norm(x_NE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last dimension; the mean in at least float32."""
    if x_NE.is_cuda:
        return F.rms_norm(x_NE, weight_E.shape, weight_E, eps)  # one kernel there
    return _apply(_Norm, x_NE, weight_E, eps)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    if gate.is_cuda:
        return F.silu(gate) * up
    return _apply(_Gated, gate, up)


def turned(x_NHD: Tensor, weight_D: Tensor | None, eps: float, rope: Rope, position_N: Tensor) -> Tensor:
    """Heads as attention compares them: ``rms_norm`` where there are weights for it, then the rotary embedding

    ``x * cos + swap(x) * sin``, where swap exchanges the two halves of each head.
    """
    if x_NHD.is_cuda:
        x_NHD = x_NHD if weight_D is None else rms_norm(x_NHD, weight_D, eps)
        return _rotated(x_NHD, *_angles(rope, position_N))
    return _apply(_Turned, x_NHD, weight_D, eps, rope, position_N)


def once(way_back: Backward) -> Backward:
    """A way back that has none itself. torch's ``once_differentiable`` says so too, and costs as much as small work."""

    def guarded(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the policy's log-probs can be differentiated once, not twice")
        return way_back(ctx, *grads)

    return guarded


class _Alone:
    """What a function keeps for the way back, where there is none."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Nothing."""


def _apply(function: Any, *arguments: Any) -> Tensor:
    """Autograd costs a call that needs no gradient as much as a small kernel."""
    return function.apply(*arguments) if torch.is_grad_enabled() else function.forward(_Alone(), *arguments)  # type: ignore[no-any-return]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, size, scale = x.contiguous(), x.shape[-1], _scales(x)
        ctx.compiled = compiled = native(ANY_SIZE, x, weight)
        if compiled:
            out = torch.empty_like(x)
            given = pointers(x, weight, out, scale)
            spread(lambda *part: compiled["norm"](*given, *part, size, eps), scale.numel(), ROWS_A_THREAD)
        else:
            scale = _scale_of(x, eps)
            out = ((x * scale) * weight).to(x.dtype)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        grad, size = grad.contiguous(), x.shape[-1]
        if ctx.compiled:
            dx, d_weight = torch.empty_like(x), torch.empty_like(weight)
            ctx.compiled["norm_back"](*pointers(grad, x, weight, scale, dx, d_weight), 0, scale.numel(), size)
            return dx, d_weight, None
        return *_norm_back(grad, x, weight, scale), None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.compiled = compiled = native(ANY_SIZE, gate, up)
        if compiled:
            out = torch.empty_like(gate)
            given = pointers(gate, up, out)
            spread(lambda *part: compiled["gated"](*given, *part), gate.numel(), ROWS_A_THREAD * LANES)
            return out
        return (gate * _sigmoid(gate)) * up

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        grad = grad.contiguous()
        if compiled := ctx.compiled:
            d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
            given = pointers(grad, gate, up, d_gate, d_up)
            spread(lambda *part: compiled["gated_back"](*given, *part), gate.numel(), ROWS_A_THREAD * LANES)
            return d_gate, d_up
        s = _sigmoid(gate)
        a = gate * s
        return (grad * up) * (s + a * (1.0 - s)), grad * a


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, rope: Rope, position: Tensor) -> Tensor:
        x, (rows, heads, size), scale = x.contiguous(), x.shape, _scales(x)
        ctx.compiled = compiled = native(size, x, weight)
        if compiled:
            out = torch.empty_like(x)
            given = pointers(x, weight, *rope, position, out, scale)
            spread(lambda *part: compiled["turn"](*given, *part, heads, eps), rows, ROWS_A_THREAD)
        else:
            scale = scale if weight is None else _scale_of(x, eps)
            unit = x if weight is None else ((x * scale) * weight).to(x.dtype)
            out = _rotated(unit, *_angles(rope, position))
        ctx.save_for_backward(x, weight, scale, *rope, position)
        return out

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, scale, cos, sin, position = ctx.saved_tensors
        grad, (rows, heads, _) = grad.contiguous(), x.shape
        if ctx.compiled:
            dx, d_weight = torch.empty_like(x), None if weight is None else torch.empty_like(weight)
            given = pointers(grad, x, weight, cos, sin, position, scale, dx, d_weight)
            ctx.compiled["turn_back"](*given, 0, rows, heads)
        else:
            cos_N1D, sin_N1D = _angles((cos, sin), position)
            dx, d_weight = _rotated(grad, cos_N1D, _swapped(sin_N1D)), None
            if weight is not None:
                dx, d_weight = _norm_back(dx, x, weight, scale)
        return dx, d_weight, None, None, None


def _scales(x: Tensor) -> Tensor:
    """Room for what each row is multiplied by."""
    return x.new_empty(*x.shape[:-1], 1, dtype=torch.promote_types(x.dtype, torch.float32))


def _scale_of(x: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = _sum(wide * wide, x.dtype) / x.shape[-1] + eps
    return 1.0 / mean.double().sqrt().to(wide.dtype)  # torch's root of a float32 is not always the nearest


def _norm_back(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    unit = x * scale
    along = _sum((grad * weight) * unit, x.dtype) / x.shape[-1]
    dx, product_NE = ((grad * weight - unit * along) * scale).to(x.dtype), (grad * unit).flatten(0, -2)
    if x.dtype != torch.float32:
        return dx, product_NE.sum(0).to(weight.dtype)
    rows_BLE = F.pad(product_NE, (0, 0, 0, -len(product_NE) % LANES)).unflatten(0, (-1, LANES))
    part_LE = rows_BLE[0].clone()
    for block in rows_BLE[1:]:
        part_LE += block
    return dx, total(part_LE.t()).squeeze(1).to(weight.dtype)


def _sum(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Over the last dimension, which stays; in C's order for a type that C knows."""
    return total(x, NARROW) if dtype == torch.float32 else x.sum(-1, keepdim=True)


def _sigmoid(x: Tensor) -> Tensor:
    e = power(-x.abs())
    r = 1.0 / (e + 1.0)
    return torch.where(x < 0, e * r, r)


def _angles(rope: Rope, position_N: Tensor) -> tuple[Tensor, Tensor]:
    cos_N1D, sin_N1D = (x[position_N].unsqueeze(1) for x in rope)
    return cos_N1D, sin_N1D


def _rotated(x_NHD: Tensor, cos_N1D: Tensor, sin_N1D: Tensor) -> Tensor:
    return x_NHD * cos_N1D + _swapped(x_NHD) * sin_N1D


def _swapped(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([second, first], -1)
