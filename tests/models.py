"""Tiny models and a tokenizer, made here with random weights: nothing is downloaded."""

from functools import partial

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "granite": (GraniteConfig, GraniteForCausalLM, {}),
}
PLAIN = ("qwen2", "qwen3", "llama", "mistral")
FOREIGN = ("gemma2", "granite")
"""Families that we leave to the library's own forward pass."""

WINDOW = 6
MIXED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}


def _rope(kind, **kw):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **kw}}


VARIANTS = {
    "qwen2": ("qwen2", {}),
    "qwen2, one layer with a window": ("qwen2", MIXED),
    "qwen3": ("qwen3", {}),
    "qwen3, one layer with a window": ("qwen3", MIXED),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "llama": ("llama", {}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3 rope": (
        "llama",
        _rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    "llama, yarn": ("llama", _rope("yarn", original_max_position_embeddings=32)),
    "llama, linear rope": ("llama", _rope("linear")),
    "llama, a head for each query": ("llama", {"num_key_value_heads": 4}),
    "llama, one head for all queries": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama, wide heads": ("llama", {"head_dim": 12}),
    "mistral": ("mistral", {}),
    "mistral, window": ("mistral", {"sliding_window": WINDOW}),
}
"""What a Llama-family model may have; two layers, and windows shorter than the tests' rows."""


def variant(name, **kw):
    """A tiny model with biases and norms that are not the zeros and ones they begin as."""
    family, special = VARIANTS[name]
    model, generator = tiny(family, **{**special, **kw}), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn(p.shape, generator=generator), alpha=0.3)
    return model


def exact(model):
    """``model`` in float64 throughout: the library's norms would round to float32 on the way."""
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(_norm, module)
    return model.double()


def _norm(module, x):
    return module.weight * x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()


def tiny(family, vocab=64, seed=0, **kw):
    """A two-layer model with grouped attention; its weights are large enough for a lively distribution."""
    make_config, make_model, special = FAMILIES[family]
    sizes = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_model(make_config(**{**sizes, **special, **kw})).eval()


def tokenizer(vocab=64, eos=1):
    """One word a token: id 7 is ``t7``; ``eos`` is a special token."""
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"t{eos}")
