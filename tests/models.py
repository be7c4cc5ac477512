"""Tiny models and a tokenizer, made here with random weights: nothing is downloaded."""

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
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "granite": (GraniteConfig, GraniteForCausalLM, {}),
}
PLAIN = ("qwen2", "qwen3", "llama")


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
