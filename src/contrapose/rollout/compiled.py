"""A whole decoding step in one call of C, with the products of torch's own BLAS: where rows are few, calls cost more
than what they compute."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from contrapose.policy.llama import Layer, Llama
from contrapose.policy.native import LANES, TILE, native, pointers, spread
from contrapose.rollout.past import ChunkedPast

ROWS_A_THREAD = 8
LOCAL = "MKL_Set_Num_Threads_Local"
WEIGHTS = "before q q_bias k k_bias v v_bias q_norm k_norm o o_bias after gate gate_bias up up_bias down down_bias"

REGIONS = 9
"""Pieces that C cuts a row's work space into."""


class _Layer(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in (*WEIGHTS.split(), "keys", "values")] + [("window", c_int64)]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("sgemm", "threads")),
        ("layers", POINTER(_Layer)),
        *((name, c_void_p) for name in ("embedding", "last_norm", "head", "head_bias", "cos", "sin")),
        *(
            (n, c_int64)
            for n in ("depth", "hidden", "inner", "heads", "groups", "vocabulary", "room", "chunk", "stride")
        ),
        ("scale", c_float),
        ("eps", c_float),
    ]


class CompiledStep:
    """``step`` of ``decoding.c`` over the parameters where they are now, and over a past."""

    def __init__(self, kernel: Any, blas: dict[str, int | None], llama: Llama, head: Any, past: ChunkedPast) -> None:
        self._kernel, self._alive = kernel, list[Any]()
        layers, (keys, _) = llama.layers, past.layers[0]
        hidden, size = llama.embedding.shape[1], llama.head_size
        inner, heads = len(layers[0].gate[0]), len(layers[0].q[0]) // size
        self._vocabulary = len(head.weight)
        room = past.width * keys.shape[0]
        self._layers = (_Layer * len(layers))()
        for layer, to, kept in zip(layers, self._layers, past.layers, strict=True):
            places = self._held(*_weights(layer), *kept)
            for name, at in zip([*WEIGHTS.split(), "keys", "values"], places, strict=True):
                setattr(to, name, at)
            to.window = layer.window or room
        ends = self._held(llama.embedding, llama.norm, head.weight, head.bias, *llama.rope)
        sizes = len(layers), hidden, inner, heads, llama.groups, self._vocabulary, room, past.width, keys.stride(0)
        self._model = _Model(blas["sgemm_"], None, self._layers, *ends, *sizes, size**-0.5, layers[0].eps)
        a_row = 2 * hidden + 1 + 2 * (heads + llama.groups) * size + 2 * inner + TILE * room
        a_row += -a_row % LANES + REGIONS * LANES  # each region begins at a whole number of lanes
        self._local, self._past = blas[LOCAL], past
        self._work = _empty(past.rows, a_row)  # new memory costs a step more than what C does there

    def _held(self, *tensors: Tensor | None) -> list[int | None]:
        """Where they are, and will be as long as this is there, whatever becomes of the parameters."""
        self._alive += [None if x is None else x.detach() for x in tensors]
        return pointers(*tensors)

    def __call__(self, token_N: Tensor, length_N: Tensor) -> Tensor:
        """Logits ``[N, V]`` after each row took in a token."""
        token_N, rows = token_N.contiguous(), len(token_N)
        logits_NV = _empty(rows, self._vocabulary)
        alone = torch.get_num_threads() == 1 or not self._local or rows < 2 * ROWS_A_THREAD
        self._model.threads = None if alone else self._local
        given = ctypes.addressof(self._model), *pointers(token_N, self._past.place_R, length_N, logits_NV)

        def part(first: int, last: int) -> None:
            self._kernel(*given, self._work[first].data_ptr(), first, last)

        spread(part, rows, rows if alone else ROWS_A_THREAD)
        return logits_NV


def compiled_step(llama: Llama, head: Any, past: Any) -> CompiledStep | None:
    """The step in C, where all that it is made of is there and is what C knows."""
    layers = [_weights(layer) for layer in llama.layers]
    alike = {(at.eps, *(x if x is None else x.shape for x in of)) for at, of in zip(llama.layers, layers, strict=True)}
    silu = not any(layer.act for layer in llama.layers)
    known = isinstance(past, ChunkedPast) and len(alike) == 1 and silu and len(head.weight) <= len(llama.embedding)
    found = native(llama.head_size, *chain(*layers), llama.embedding, llama.norm, head.weight, head.bias)
    return CompiledStep(found["step"], _blas(), llama, head, past) if found and known and _blas()["sgemm_"] else None


def _weights(layer: Layer) -> list[Tensor | None]:
    """In the order of ``WEIGHTS``."""
    (before, after), mlp = layer.norms, (*layer.gate, *layer.up, *layer.down)
    return [before, *layer.q, *layer.k, *layer.v, *layer.head_norms, *layer.o, after, *mlp]


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


@cache
def _blas() -> dict[str, int | None]:
    """Where torch's product in float32 is, and the function that says how many threads it may use on this one."""
    library = ctypes.CDLL(torch._C.__file__)  # type: ignore[attr-defined]
    return {
        name: ctypes.cast(getattr(library, name), c_void_p).value if hasattr(library, name) else None
        for name in ("sgemm_", LOCAL)
    }
