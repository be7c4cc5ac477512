"""LoRA by peft: a model whose own weights rest, and what is learned beside them.

An adapter lies inside its model, in place of the linear maps that it adds to; merged, it is a model like any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from contrapose.types import ContraposeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "default"
INSIDE = ".base_layer"
"""What peft puts into the names of the maps that it wraps."""


def adapt(
    model: PreTrainedModel, rank: int, alpha: float, targets: str | list[str], base: str, seed: int
) -> dict[str, Any]:
    """Put an adapter that does nothing yet into ``model``, and let nothing else be trained. Returns what peft needs to
    know of it; ``base`` is where the model is from, ``seed`` draws where the adapter begins.

    Raises ContraposeError where peft is not installed, or none of ``targets`` are maps of the model.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ContraposeError("lora.rank: peft is not installed: pip install 'contrapose[lora]'") from None
    about: dict[str, Any] = {"task_type": "CAUSAL_LM", "base_model_name_or_path": base}
    config: Any = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, **about)  # type: ignore[arg-type]
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model, adapter_name=NAME)
        for weight in model.parameters():
            if weight.requires_grad:  # in less, what is learned in a step would round to nothing
                weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
    except ValueError as error:
        raise ContraposeError(f"lora.targets: {str(error).partition('.')[0]}") from None
    if model.config.tie_word_embeddings and is_adapted(model.get_output_embeddings()):
        raise ContraposeError("lora.targets: the head is tied to the embeddings, and cannot be adapted alone")
    config.inference_mode = True  # for whoever loads it
    return dict(config.to_dict())


def is_adapted(linear: Any) -> bool:
    """Whether it is a linear map with an adapter."""
    return hasattr(linear, "base_layer") and hasattr(linear, "lora_A")


def merged(model: nn.Module, name: str, weight: Tensor, whole: Any) -> Tensor | None:
    """The weight called ``name`` with what was learned beside it; None for a part of an adapter. ``whole`` gathers what
    is split."""
    owner, inside, leaf = name.rpartition(f"{INSIDE}.")
    if f".{NAME}." in name:
        return None
    if not inside or leaf != "weight":
        return weight
    map_: Any = model.get_submodule(owner)
    down, up = (whole(part[NAME].weight.detach()) for part in (map_.lora_A, map_.lora_B))
    learned: Tensor = (up @ down) * map_.scaling[NAME]
    return weight + learned.to(weight.dtype)


def save_adapter(weights: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Write ``weights``, by their names in the model, as a folder that ``peft.PeftModel.from_pretrained`` loads."""
    named = {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": x.contiguous() for name, x in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
