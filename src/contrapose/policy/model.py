"""Load and save Hugging Face causal language models: safetensors only, never any code that came with a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contrapose.types import ContraposeError, nearest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
DTYPES = ("float32", "bfloat16", "float16", "float64")


def torch_dtype(name: str) -> torch.dtype:
    """``"float32"`` -> ``torch.float32``; raises ContraposeError for a name that is not in ``DTYPES``."""
    import torch

    if name not in DTYPES:
        raise ContraposeError(f"model.dtype: {name!r} is not a dtype{nearest(name, list(DTYPES))}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, which splits text as its ``tokenizer.json`` says.

    transformers puts a family's own rules in place of the file's for some model types (every ``qwen2``), and a
    model with another tokenizer would then read other tokens than it was trained on, or none at all.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    _refuse_bad_folder(path)
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in TOKENIZERS):
        raise ContraposeError(f"model.path: {path} has no tokenizer (none of {', '.join(TOKENIZERS)})")
    with _plain_errors(path):
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
        if not _splits_as_its_file(tokenizer, path):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path))
        return tokenizer


def _splits_as_its_file(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> bool:
    from tokenizers import Tokenizer
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(str(path), "tokenizer.json")
    except OSError:
        file = None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if file is None or backend is None:
        return True  # an older format without that file

    def rules(backend: Any) -> list[Any]:
        return [part and part.__getstate__() for part in (backend.normalizer, backend.pre_tokenizer)]

    return rules(Tokenizer.from_file(file)) == rules(backend)


def load_model(path: str | Path, dtype: str = "float32", device: str | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode (dropout off: both passes of an update must agree).

    ``path`` is a folder in Hugging Face format with safetensors weights, or a hub name. ``device`` defaults to
    the GPU where there is one. Raises ContraposeError with the path and the mend.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _refuse_bad_folder(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _plain_errors(path):
        auto: Any = AutoModelForCausalLM
        model, loaded = auto.from_pretrained(
            str(path),
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    if loaded["missing_keys"]:  # they would be drawn at random
        raise ContraposeError(f"model.path: the weights in {path} lack {min(loaded['missing_keys'])}")
    return cast("PreTrainedModel", model.to(device).eval())


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write ``model`` and ``tokenizer`` as a folder that ``AutoModelForCausalLM.from_pretrained`` loads."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's EOS and those of the generation config.

    Chat models list several; with one alone most of their answers would look cut off.
    """
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    ids = {i for i in [tokenizer.eos_token_id, *listed] if isinstance(i, int)}
    if not ids:
        raise ContraposeError("the tokenizer has no EOS token: set eos_token in its tokenizer_config.json")
    return tuple(sorted(ids))


def context_length(model: PreTrainedModel) -> int | None:
    """The most positions the model was built for, or None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _refuse_bad_folder(path: str | Path) -> None:
    """Say in one line why a local folder cannot be a model, before any library tries to read it."""
    folder = Path(path)
    if not folder.is_dir():
        if str(path).startswith((".", "/", "~")) or str(path).count("/") > 1:
            raise ContraposeError(f"model.path: {path} is not a folder")
        return  # a hub name
    if not (folder / "config.json").is_file():
        raise ContraposeError(f"model.path: {folder} has no config.json, so it is not a Hugging Face model folder")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ContraposeError(f"model.path: {folder / 'config.json'} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ContraposeError(f"model.path: {folder / 'config.json'} is not a JSON object")
    if "auto_map" in config:
        raise ContraposeError(f"model.path: {folder} wants to run its own code (auto_map), which is never allowed")
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(p.name for p in folder.glob("*.bin")) or "no weights at all"
        raise ContraposeError(f"model.path: {folder} holds {found}; safetensors are required: convert it first")


class _plain_errors:
    """Turn a library's page of advice into the one line that names the path."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        from transformers.utils import logging

        logging.disable_progress_bar()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, (ContraposeError, ImportError, MemoryError)):
            first = next((line for line in str(error).splitlines() if line.strip()), kind.__name__)
            raise ContraposeError(f"model.path: cannot load {self.path}: {first.strip()}") from error
