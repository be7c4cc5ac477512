"""What of a model its ``config.json`` tells: how many weights, and what they are made of. No weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrapose.prompts.abacus import model_folder
from contrapose.types import ContraposeError, nearest

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""What ``policy/llama.py`` computes, as ``model_type`` has it."""

KEYS = {
    "hidden_size": "hidden",
    "intermediate_size": "inner",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "vocab_size": "vocabulary",
}
"""What a ``config.json`` must have."""


@dataclass(frozen=True)
class Shape:
    """A Llama-family model: ``heads`` for queries, ``groups`` of them with a head for keys and values, each of
    ``head_size``."""

    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    head_size: int
    vocabulary: int
    tied: bool
    head_norms: bool = False
    biases: tuple[bool, bool, bool] = (False, False, False)
    """Of queries, keys and values; of what attention gives; of the feed-forward maps."""

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The linear maps of a layer: values in and out."""
        wide, narrow = self.heads * self.head_size, self.groups * self.head_size
        return {
            "q_proj": (self.hidden, wide),
            "k_proj": (self.hidden, narrow),
            "v_proj": (self.hidden, narrow),
            "o_proj": (wide, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    @property
    def layer(self) -> int:
        """Weights of a layer."""
        matrices, kinds = self.matrices, ("qkv", "o", "gate up down")
        biased = " ".join(kind for kind, has in zip(kinds, self.biases, strict=True) if has)
        biases = sum(out for name, (_, out) in matrices.items() if name.removesuffix("_proj") in _names(biased))
        norms = 2 * self.hidden + 2 * self.head_size * self.head_norms
        return sum(a * b for a, b in matrices.values()) + biases + norms

    @property
    def table(self) -> int:
        """Weights of the embedding, and of the head."""
        return self.vocabulary * self.hidden

    @property
    def ends(self) -> int:
        """Weights outside of the layers."""
        return self.table * (1 if self.tied else 2) + self.hidden

    @property
    def weights(self) -> int:
        """All weights."""
        return self.layers * self.layer + self.ends

    @property
    def past(self) -> int:
        """Values that a token leaves in the key-value cache."""
        return 2 * self.layers * self.groups * self.head_size

    def adapters(self, rank: int, targets: str | list[str]) -> int:
        """Weights of LoRA adapters of ``rank`` on ``targets``, all linear maps of a layer or some by name."""
        matrices = self.matrices
        names = list(matrices) if targets == "all-linear" else [targets] if isinstance(targets, str) else targets
        for name in names:
            if name not in matrices:
                raise ContraposeError(f"lora.targets: {name!r} is no linear map{nearest(name, list(matrices))}")
        return self.layers * rank * sum(sum(matrices[name]) for name in names)


def _names(kinds: str) -> list[str]:
    return kinds.replace("qkv", "q k v").split()


def _published(family: str, sizes: str, tied: bool) -> dict[str, Any]:
    hidden, inner, layers, heads, groups, head_size, vocabulary = map(int, sizes.split())
    numbers = dict(zip(KEYS, (hidden, inner, layers, heads, vocabulary), strict=True))
    more = {"model_type": family, "tie_word_embeddings": tied}
    return {**numbers, **more, "num_key_value_heads": groups, "head_dim": head_size}


PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": _published("qwen2", "896 4864 24 14 2 64 151936", True),
    "Qwen/Qwen2.5-1.5B-Instruct": _published("qwen2", "1536 8960 28 12 2 128 151936", True),
    "Qwen/Qwen3-4B": _published("qwen3", "2560 9728 36 32 8 128 151936", True),
    "Qwen/Qwen3-4B-Base": _published("qwen3", "2560 9728 36 32 8 128 151936", True),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _published("llama", "4096 14336 32 32 8 128 128256", False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _published("qwen2", "1536 8960 28 12 2 128 151936", False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _published("qwen2", "3584 18944 28 28 4 128 152064", False),
    "meta-llama/Llama-3.2-3B-Instruct": _published("llama", "3072 8192 28 24 8 128 128256", True),
}
"""What is in ``config.json`` of the models that recipes name, so that they can be planned for without a network."""


def shape_of(path: str, file: Path | None = None) -> Shape:
    """The shape of ``model.path``: a folder, a hub name, or ``abacus``; or, where ``file`` is given, of that
    ``config.json``. Raises ContraposeError that names what cannot be read, and the mend."""
    if file is not None:
        return parsed(_json(file, "--shape"), str(file))
    folder = Path(model_folder(path))
    if folder.is_dir():
        return parsed(_json(folder / "config.json", "model.path"), str(folder))
    if path in PUBLISHED:
        return parsed(PUBLISHED[path], path)
    return parsed(_json(_fetched(path), "model.path"), path)


def parsed(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a ``config.json`` describes."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ContraposeError(f"{name}: no plan for a model of type {family!r}: only for {', '.join(FAMILIES)}")
    for key in KEYS:
        if type(config.get(key)) is not int or config[key] < 1:
            raise ContraposeError(f"{name}: config.json: {key}: expected a number above 0, found {config.get(key)!r}")
    sizes = {ours: config[theirs] for theirs, ours in KEYS.items()}
    own = bool(config.get("attention_bias", False))
    return Shape(
        **sizes,
        groups=config.get("num_key_value_heads") or sizes["heads"],
        head_size=config.get("head_dim") or sizes["hidden"] // sizes["heads"],
        tied=bool(config.get("tie_word_embeddings", False)),
        head_norms=family == "qwen3",
        biases=(own or family == "qwen2", own, bool(config.get("mlp_bias", False))),
    )


def _json(file: Path, key: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ContraposeError(f"{key}: {file} cannot be read ({error}): give a model's config.json") from None
    if not isinstance(found, dict):
        raise ContraposeError(f"{key}: {file} is not a JSON object: give a model's config.json")
    return found


def _fetched(name: str) -> Path:
    """``config.json`` of a hub name, from the cache or the hub."""
    from transformers.utils.hub import cached_file

    try:
        return Path(str(cached_file(name, "config.json")))
    except (OSError, ValueError) as error:
        first = " ".join(str(error).split(". ")[0].split())
        mend = "give its config.json as --shape, or a folder that has one"
        raise ContraposeError(f"model.path: the shape of {name} is not known here ({first}): {mend}") from None
