"""The forward pass of Llama-family models on their own parameters, which training and decoding share.

    h  = embed(ids)
    h += O attend(rotate(norm(Q x)), rotate(norm(K x)), V x)      x = norm(h)
    h += W_down (act(W_gate x) * W_up x)                          x = norm(h)

What attention attends to is the caller's: whole rows in training, a cache in decoding. Nothing is copied: every pass
reads the parameters as they are. Dimensions beside the legend of ``types.py``: H heads, D head size, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from contrapose.policy.adapters import is_adapted
from contrapose.policy.fused import Rope, gated, rms_norm, turned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

SILU = ("SiLU", "SiLUActivation")
"""Classes of the usual activation."""

SHIFTING_ROPE = ("dynamic", "longrope")
"""Kinds of rotary embedding whose angles depend on the longest row at hand, not on the position alone."""

WHOLE = 16
"""Padded rows have a multiple of so many columns in attention: how BLAS sums then says less of the longest of them."""

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""``(layer, q_NHD, k_NGD, v_NGD) -> [N, H * D]``; queries and keys as projected: ``Llama.heads`` is still to come."""

Watch = Callable[[int, Tensor, Tensor], None]
"""``(layer, k_NGD, v_NGD)``, keys rotated."""

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far our hidden states may be from the library's, relative to the largest of them; it takes norms in float32."""

Linear = tuple[Tensor, Tensor | None]
"""Weight and bias."""


def _linear(name: str) -> Any:
    return property(lambda layer: (layer.maps[name].weight, layer.maps[name].bias))


class Layer:
    """One layer's sliding window, or None, and its parameters. They are looked up whenever they are asked for: where
    weights are split they are there only while the layer computes."""

    q, k, v, o, gate, up, down = map(_linear, ("q", "k", "v", "o", "gate", "up", "down"))

    def __init__(self, config: Any, number: int, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.module = layer
        self.maps: dict[str, Any] = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
        self.maps |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
        self.eps = layer.input_layernorm.variance_epsilon
        self.act = None if type(mlp.act_fn).__name__ in SILU else mlp.act_fn
        kinds = getattr(config, "layer_types", None)
        slides = not kinds or kinds[number] == "sliding_attention"
        self.window: int | None = getattr(config, "sliding_window", None) if slides else None

    @property
    def norms(self) -> tuple[Tensor, Tensor]:
        """Before attention, and before what follows it."""
        return self.module.input_layernorm.weight, self.module.post_attention_layernorm.weight

    @property
    def head_norms(self) -> tuple[Tensor | None, Tensor | None]:
        """Of queries and of keys."""
        attention = self.module.self_attn
        return (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else (None, None)


class Llama:
    """The blocks of a model of which ``is_llama`` holds.

    With ``checkpointing`` a layer's activations are computed again on the way back instead of kept.
    """

    def __init__(self, model: PreTrainedModel, checkpointing: bool = False) -> None:
        self._body: Any = model.model
        self.checkpointing = checkpointing
        self.layers = [Layer(model.config, number, layer) for number, layer in enumerate(self._body.layers)]
        self.compute = [partial(self._layer, number) for number in range(len(self.layers))]
        """What each layer does, ``(h_NE, attend) -> h_NE``; sharding puts its hooks around it."""
        self.head_size: int = self._body.layers[0].self_attn.head_dim
        self.groups: int = model.config.num_key_value_heads
        self.rope: Rope = torch.empty(0), torch.empty(0)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.device

    @property
    def embedding(self) -> Tensor:
        weight: Tensor = self._body.embed_tokens.weight
        return weight

    @property
    def norm(self) -> Tensor:
        """Of the last norm."""
        weight: Tensor = self._body.norm.weight
        return weight

    @torch.no_grad()
    def reach(self, length: int) -> None:
        """Have the angles of positions below ``length`` at hand, scaling included."""
        if len(self.rope[0]) < length or self.rope[0].device != self.device:
            position_1T = torch.arange(length, device=self.device).unsqueeze(0)
            cos_TD, sin_TD = (x[0] for x in self._body.rotary_emb(self.embedding, position_1T))
            sin_TD[:, : self.head_size // 2].neg_()
            self.rope = cos_TD.contiguous(), sin_TD.contiguous()

    def heads(self, number: int, q_NHD: Tensor, k_NGD: Tensor, position_N: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys as attention compares them: normalised where the layer does that, and rotated."""
        (q_D, k_D), eps = self.layers[number].head_norms, self.layers[number].eps
        return turned(q_NHD, q_D, eps, self.rope, position_N), turned(k_NGD, k_D, eps, self.rope, position_N)

    def __call__(self, ids_N: Tensor, attend: Attend) -> Tensor:
        """Hidden states ``[N, E]`` after the last norm. ``ids_N`` are tokens of any rows, one after the other."""
        h_NE = F.embedding(ids_N, self.embedding)
        recompute = self.checkpointing and torch.is_grad_enabled()
        for compute in self.compute:
            h_NE = checkpoint(compute, h_NE, attend, use_reentrant=False) if recompute else compute(h_NE, attend)
        return rms_norm(h_NE, self.norm, self.layers[0].eps)

    def _layer(self, number: int, h_NE: Tensor, attend: Attend) -> Tensor:
        layer = self.layers[number]
        x_NE = rms_norm(h_NE, layer.norms[0], layer.eps)
        q_NHD, k_NGD, v_NGD = (_map(x_NE, layer.maps[name]).unflatten(1, (-1, self.head_size)) for name in "qkv")
        h_NE = _onto(h_NE, attend(number, q_NHD, k_NGD, v_NGD), layer.maps["o"])
        x_NE = rms_norm(h_NE, layer.norms[1], layer.eps)
        gate_NF, up_NF = _map(x_NE, layer.maps["gate"]), _map(x_NE, layer.maps["up"])
        return _onto(h_NE, layer.act(gate_NF) * up_NF if layer.act else gated(gate_NF, up_NF), layer.maps["down"])

    def rows(self, ids_NS: Tensor, watch: Watch = lambda layer, k_NGD, v_NGD: None) -> Tensor:
        """Hidden states ``[N, S, E]`` of whole rows, padded on the right; each token sees what stands before it.

        ``watch`` is shown the keys and values of each layer.
        """
        rows, length = ids_NS.shape
        self.reach(length)
        position_N = torch.arange(length, device=ids_NS.device).repeat(rows)

        def attend(number: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
            q_NHD, k_NGD = self.heads(number, q_NHD, k_NGD, position_N)
            watch(number, k_NGD, v_NGD)
            q, k, v = (x.view(rows, length, *x.shape[1:]).transpose(1, 2) for x in (q_NHD, k_NGD, v_NGD))
            q, k, v = (F.pad(x, (0, 0, 0, -length % WHOLE)) for x in (q, k, v))
            return heads_last(causal(q, k, v, self.layers[number].window)[:, :, :length])

        return self(ids_NS.flatten(), attend).view(rows, length, -1)


def heads_last(x_RHSD: Tensor) -> Tensor:
    """What attention gives, as tokens of one row after the other: ``[R * S, H * D]``."""
    return x_RHSD.transpose(1, 2).flatten(0, 1).flatten(1)


def causal(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Attention of ``[rows, heads, S, D]`` to what stands before, at most ``window`` tokens back, itself included."""
    length, grouped = q.shape[2], q.shape[1] != k.shape[1]
    if window is None or window >= length:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    seen_SS = torch.ones(length, length, dtype=torch.bool, device=q.device).tril().triu(1 - window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen_SS, enable_gqa=grouped)


def is_llama(model: PreTrainedModel, adapters: bool = False) -> bool:
    """Whether ``Llama`` computes what the model computes: by its class and parts, and measured on a few tokens.

    ``adapters`` beside its linear maps are allowed to whoever calls these, and does not read their weights alone.
    """
    if type(model).__name__ not in FAMILY or model.config.rope_parameters.get("rope_type") in SHIFTING_ROPE:
        return False
    linear = [model.get_output_embeddings()]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        linear += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        linear += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    known = all(type(part) is nn.Linear or (adapters and is_adapted(part)) for part in linear)
    if not known or type(model.model.embed_tokens) is not nn.Embedding:
        return False  # an adapter may do nothing yet, so that no measurement sees it
    with torch.no_grad():
        ids_NS = torch.arange(8, device=model.device).remainder(model.config.vocab_size).view(2, 4)
        expected = model.base_model(input_ids=ids_NS, use_cache=False).last_hidden_state
        found = Llama(model).rows(ids_NS)
    far, scale = (found - expected).abs().max(), expected.abs().max()
    return bool(far <= TOLERANCE[model.dtype] * scale) or not bool(scale.isfinite())


def _map(x: Tensor, linear: Any) -> Tensor:
    """``linear(x)``; an adapter's own call adds what it has learned."""
    mapped: Tensor = F.linear(x, linear.weight, linear.bias) if type(linear) is nn.Linear else linear(x)
    return mapped


def _onto(h_NE: Tensor, x: Tensor, linear: Any) -> Tensor:
    """``h + linear(x)``, added where the product is written."""
    if type(linear) is not nn.Linear:
        return h_NE + _map(x, linear)
    return torch.addmm(h_NE if linear.bias is None else h_NE + linear.bias, x, linear.weight.t())
