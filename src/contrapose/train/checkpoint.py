"""Everything needed to go on bit for bit, and nothing else. A checkpoint is whole or absent.

    checkpoints/step-000040/
        model/                  Hugging Face format: weights, config, tokenizer
        optimizer.safetensors   moments by parameter name
        state.json              step, schedules, prompt pool, evaluations, lengths of the jsonl files

Written beside, flushed to disk, then renamed. Tensors are safetensors, the rest is JSON: loading runs no code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from contrapose.policy.model import save_model
from contrapose.types import ContraposeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NAME = re.compile(r"step-\d{6,}")


def save(
    run: Path,
    step: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write ``run/checkpoints/step-<step>`` and drop all but the newest ``keep``. Returns its path."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_model(model, tokenizer, beside / "model")
    save_file(_flatten(model, optimizer), beside / "optimizer.safetensors")
    (beside / "state.json").write_text(json.dumps(state, indent=1))
    for path in [*beside.rglob("*"), beside]:
        _sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    beside.rename(folder)
    _sync(folder.parent)
    for old in saved(run)[: -max(1, keep)]:
        shutil.rmtree(old)
    return folder


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if _NAME.fullmatch(p.name))


def newest(run: Path) -> Path:
    """The newest checkpoint. Raises ContraposeError when there is none."""
    found = saved(run)
    if not found:
        raise ContraposeError(f"--resume: {run} has no checkpoint; start it anew without --resume")
    return found[-1]


def load_state(folder: Path) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def load_optimizer(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved moments back; the rates and other settings stay those of ``optimizer``."""
    tensors = load_file(folder / "optimizer.safetensors", device=str(model.device))
    names = [name for name, _ in model.named_parameters()]
    keys = sorted({key.rpartition("/")[2] for key in tensors})
    present = [i for i, name in enumerate(names) if f"{name}/step" in tensors]
    state = {i: {key: tensors[f"{names[i]}/{key}"] for key in keys} for i in present}
    for moments in state.values():
        moments["step"] = moments["step"].cpu()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flatten(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value.contiguous()
        for parameter, moments in optimizer.state.items()
        for key, value in moments.items()
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
