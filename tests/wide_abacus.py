"""The abacus base model with heads that vLLM's attention has kernels for: the same function, within rounding."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from contrapose.policy.model import load_model, load_tokenizer, save_model
from contrapose.prompts.abacus import BASE_MODEL

SIZE = 32


def write_wide_abacus(folder: Path) -> Path:
    """Each head gets dimensions that are zero. Rotations keep their frequencies, norms and scores their scale.

    A longer context, so that a prompt can be longer than a block of vLLM's cache.
    """
    base = load_model(BASE_MODEL, device="cpu")
    config, size = base.config, base.config.head_dim
    base_theta = config.rope_parameters["rope_theta"]
    wide = type(config)(**{**config.to_dict(), "head_dim": SIZE, "max_position_embeddings": 512})
    wide.rope_parameters = {"rope_type": "default", "rope_theta": base_theta ** (SIZE / size)}
    model, weights = Qwen3ForCausalLM(wide).eval(), base.state_dict()
    longer = (SIZE / size) ** 0.5  # so much more a norm gives, and by so much more scores are divided: q may stay
    for name, x in weights.items():
        if "k_norm" in name:
            weights[name] = _spread(x, size) / longer
        elif any(part in name for part in ("q_proj", "k_proj", "v_proj", "q_norm")):
            weights[name] = _spread(x, size)
        elif "o_proj" in name:
            weights[name] = _spread(x.t(), size).t()
    model.load_state_dict(weights)
    save_model(model, load_tokenizer(BASE_MODEL), folder)
    return folder


def _spread(x: Tensor, size: int) -> Tensor:
    """Zeros after each half of each head: a rotation turns one half into the other."""
    halves = x.reshape(-1, size // 2, *x.shape[1:])
    zeros = halves.new_zeros(len(halves), (SIZE - size) // 2, *x.shape[1:])
    return torch.cat([halves, zeros], 1).reshape(-1, *x.shape[1:])
