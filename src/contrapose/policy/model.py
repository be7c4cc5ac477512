"""Load and save Hugging Face causal language models: safetensors only, never any code that came with a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contrapose.types import ContraposeError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
WEIGHTS = "model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz")
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
        tokenizer.encode("")  # what is wrong with its settings shows here
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
    if Path(path).is_dir():
        _refuse_bad_weights(Path(path))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _plain_errors(path):
        auto: Any = AutoModelForCausalLM
        model, loaded = auto.from_pretrained(
            str(path),
            dtype=torch_dtype(dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
        )
    if loaded["missing_keys"]:  # they would be drawn at random
        raise ContraposeError(f"model.path: the weights in {path} lack {min(loaded['missing_keys'])}: copy it anew")
    for name, found, expected in sorted(loaded["mismatched_keys"]):
        raise ContraposeError(
            f"model.path: {name} in {path} is of shape {list(found)}, and its config.json asks for {list(expected)}: "
            "one of the two is another model's"
        )
    model = model.to(device).eval()
    for name, weight in model.named_parameters():
        # until here it may be a view of the file: aligned as that is, so that products round otherwise, and alive
        weight.data = weight.data.clone()
        if not torch.isfinite(weight).all():
            raise ContraposeError(f"model.path: {name} in {path} holds NaN or infinity: start from sound weights")
    return cast("PreTrainedModel", model)


def blank_model(folder: str | Path, dtype: str = "float32") -> PreTrainedModel:
    """A model as the ``config.json`` in ``folder`` has it, on the GPU where there is one, for weights still to come."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    _refuse_bad_folder(folder)
    with _plain_errors(folder):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config, dtype=torch_dtype(dtype), trust_remote_code=False)
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return cast("PreTrainedModel", model.to("cuda" if torch.cuda.is_available() else "cpu").eval())


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write ``model`` and ``tokenizer`` as a folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    ``weights`` are the model's where it does not hold them whole.
    """
    model.save_pretrained(str(folder), state_dict=weights)
    tokenizer.save_pretrained(str(folder))


def save_about(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """The same without any weights."""
    model.config.save_pretrained(str(folder))
    model.generation_config.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def weights_of(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its name in a Hugging Face checkpoint, where the model has it: detached, not copied.

    The head is among them also where it is tied to the embeddings, and no checkpoint has it: an engine that takes
    weights in place may keep a head of its own.
    """
    for name, weight in model.state_dict().items():
        yield name, weight.detach()


def pieces(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[str]:
    """The text of each of ``tokens``, together that of all; the last token of a character has the whole of it."""
    from tokenizers.decoders import DecodeStream

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [str(tokenizer.decode([token])) for token in tokens]
    stream = DecodeStream(skip_special_tokens=False)
    found = [stream.step(backend, token) or "" for token in tokens]
    rest = backend.decode(list(tokens), skip_special_tokens=False)[
        len("".join(found)) :
    ]  # a character that was cut off
    return [*found[:-1], found[-1] + rest] if found else []


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's EOS and those of the generation config.

    Chat models list several; with one alone most of their answers would look cut off. Raises ContraposeError where
    there is none, and for a tokenizer that knows tokens which the model has not.
    """
    rows: int = model.config.get_text_config().vocab_size
    if tokenizer.vocab_size > rows:
        known = f"the tokenizer knows {tokenizer.vocab_size} tokens, the model {rows}"
        raise ContraposeError(f"model.path: {known}: give the tokenizer that belongs to it")
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    ids = {i for i in [tokenizer.eos_token_id, *listed] if isinstance(i, int) and 0 <= i < rows}
    if not ids:
        lacks = "the tokenizer has no EOS token that the model knows"
        raise ContraposeError(f"model.path: {lacks}: set eos_token in its tokenizer_config.json")
    return tuple(sorted(ids))


def context_length(model: PreTrainedModel) -> int | None:
    """The most positions the model was built for, or None where its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _refuse_bad_folder(path: str | Path) -> None:
    """Say in one line why a local folder cannot be a model, before any library tries to read it."""
    folder = Path(path)
    try:
        if not folder.is_dir():
            if str(path).startswith((".", "/", "~")) or str(path).count("/") > 1 or folder.exists():
                raise ContraposeError(f"model.path: {path} is not a folder: give one, or a hub name (ORG/NAME)")
            return  # a hub name
    except OSError as error:
        raise ContraposeError(f"model.path: {path} cannot be read: {error.strerror}") from None
    if not (folder / "config.json").is_file():
        raise ContraposeError(f"model.path: {folder} has no config.json, so it is not a Hugging Face model folder")
    if (folder / "adapter_config.json").exists():  # its base model would be fetched from wherever it says
        raise ContraposeError(f"model.path: {folder} is an adapter: merge it into its base model, and give that")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        config = _json_object(folder / name) if (folder / name).is_file() else {}
        if config.get("auto_map"):
            raise ContraposeError(
                f"model.path: {folder} wants to run its own code (auto_map in {name}), which is never allowed"
            )
        if "/" in str(config.get("_attn_implementation") or config.get("attn_implementation")):
            raise ContraposeError(
                f"model.path: {folder} wants to run code from elsewhere (attn_implementation in {name}), which is "
                "never allowed: remove that key"
            )
        if config.get("quantization_config") is not None:
            raise ContraposeError(
                f"model.path: {folder} holds quantized weights (quantization_config in {name}), which cannot be "
                "trained: give the model as it was before"
            )


def _refuse_bad_weights(folder: Path) -> None:
    """The same of the weights: safetensors, whole, and inside the folder."""
    from safetensors import SafetensorError, safe_open

    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        if not index.is_file():
            if any(folder.glob("shard-*.safetensors")):
                raise ContraposeError(f"model.path: {folder} holds the parts of a checkpoint: give the run's model/")
            found = ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)) or "no weights at all"
            raise ContraposeError(f"model.path: {folder} holds {found}; safetensors are required: convert it first")
        listed = _json_object(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise ContraposeError(f"model.path: {index} lists no files (weight_map): copy the model anew")
        names = sorted(set(listed.values()))
    for name in names:
        if Path(name).name != name:
            raise ContraposeError(f"model.path: {index} leaves its folder ({name}), which is never allowed")
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ContraposeError(f"model.path: {folder / name} cannot be read ({error}): copy it anew") from None


def _json_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ContraposeError(f"model.path: {file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ContraposeError(f"model.path: {file} is not a JSON object")
    return found


class _plain_errors:
    """Turn a library's page of advice into the one line that names the path."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        from transformers.utils import logging

        logging.disable_progress_bar()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, (ContraposeError, MemoryError)):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
            fault = said if isinstance(error, OSError | ValueError) and said else f"{kind.__name__}: {said}"
            mend = "copy it anew, or take another" if Path(self.path).is_dir() else "download it, and give its folder"
            raise ContraposeError(f"model.path: cannot load {self.path}: {fault.rstrip('.')}: {mend}") from error
