"""The model and the prompts of benchmarks/gpu.py."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Sizes:
    """The model, what is asked of it, and how large the product and the copy are that the device is measured with."""

    hidden: int = 896
    inner: int = 4864
    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    vocabulary: int = 151_936
    prompts: int = 64
    prompt: int = 64
    answer: int = 512
    micro_batch: int = 25_600
    square: int = 8192
    copied: int = 1 << 30
    trl_rows: tuple[int, ...] = (16, 32)
    rounds: int = 2


FULL = Sizes()
TINY = Sizes(64, 96, 2, 4, 2, 512, 4, 8, 12, 256, 256, 1 << 20, (4, 8), 1)


def built(sizes: Sizes, device: str, dtype: torch.dtype) -> Any:
    """A Qwen2 with random weights."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def words(count: int) -> Any:
    """A tokenizer of so many words, so that decoding the answers costs what it does."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    named = Tokenizer(models.WordLevel({f"t{i}": i for i in range(count)}, unk_token="t0"))
    named.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=named, eos_token="t0", pad_token="t0", padding_side="left")


def random_tokens(sizes: Sizes, counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Lists of so many tokens each."""
    rng = random.Random(len(counts))
    return [tuple(rng.choices(range(sizes.vocabulary), k=count)) for count in counts]


def asked(sizes: Sizes) -> list[tuple[int, ...]]:
    """The prompts: an eighth shorter to an eighth longer than ``sizes.prompt``."""
    rng, most = random.Random(0), sizes.prompt // 8
    return random_tokens(sizes, [sizes.prompt + rng.randint(-most, most) for _ in range(sizes.prompts)])
