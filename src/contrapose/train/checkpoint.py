"""Everything needed to go on bit for bit, and nothing else. A checkpoint is whole or absent.

    checkpoints/step-000040/
        model/                  weights, config, tokenizer (``train/shards.py``)
        optimizer.safetensors   moments by parameter name
        state.json              step, schedules, prompt pool, evaluations, lengths of the jsonl files
        work.json, .safetensors a step that was begun (``train/work.py``)
        manifest.json           size and SHA-256 of each of these (``train/folders.py``)

Tensors are safetensors, the rest is JSON: loading runs no code. No random generator stands here, because none has a
state: every draw is a function of the run's seed and of what is drawn (``rollout/sampler.py``).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from contrapose.report.log import WriteFailed, free_bytes
from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.train.folders import damage, recover, remove, whole_by_all
from contrapose.train.shards import save_policy
from contrapose.train.work import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NAME = re.compile(r"step-\d{6,}")

MOMENTS = 2
"""AdamW's running means: as many values for each weight."""


class Found(NamedTuple):
    """The newest checkpoint that is whole, if there is one, and what is to be told of others."""

    folder: Path | None
    notes: list[str]


def save(
    run: Path,
    step: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    work: Work | None,
    keep: int,
    ranks: Ranks = ALONE,
    in_parts: bool = False,
) -> Path:
    """Write ``run/checkpoints/step-<step>`` and drop all but the newest ``keep``. Returns its path. All ranks do.

    Raises WriteFailed where there is no room for it, or the disk refuses; the ones before are then as they were.
    """
    folder = run / "checkpoints" / f"step-{step:06d}"
    if ranks.leads:
        refuse_full_disk(folder, model, sum(x.nbytes for moments in optimizer.state.values() for x in moments.values()))
    with whole_by_all(folder, ranks) as beside:
        save_policy(beside, model, tokenizer, optimizer, ranks, in_parts)
        if ranks.leads:
            (beside / "state.json").write_text(json.dumps(state, indent=1))
        if ranks.leads and work:
            work.save(beside)
    for old in saved(run)[: -max(1, keep)] if ranks.leads else ():
        remove(old)
    return folder


def refuse_full_disk(folder: Path, model: PreTrainedModel, moments: int | None = None) -> None:
    """Raise WriteFailed where ``model`` and ``moments`` bytes (None: as many as a trained one has) do not fit."""
    weights = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    need, free = weights + (MOMENTS * weights if moments is None else moments), free_bytes(folder)
    if need > free:
        raise WriteFailed(f"{folder}: a checkpoint needs {need:,} bytes, {free:,} are free: make room, or choose --out")


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((p for p in (run / "checkpoints").glob("step-*") if _NAME.fullmatch(p.name)), key=step_of)


def newest(run: Path) -> Found:
    """Find the newest checkpoint by looking, verified. Newer ones that are damaged, or whose rows are gone from the
    jsonl files, are set aside, not deleted. Raises WriteFailed where there are checkpoints, and all are damaged."""
    recover(run / "checkpoints", "step-*")
    damaged: dict[Path, str] = {}
    for folder in reversed(saved(run)):
        wrong = damage(folder) or _lost_rows(folder)
        if wrong is None:
            return Found(folder, [_set_aside(bad, why) for bad, why in damaged.items()])
        damaged[folder] = wrong
    if damaged:
        listed = "; ".join(f"{folder.name}: {why}" for folder, why in damaged.items())
        raise WriteFailed(f"--resume: no checkpoint in {run} is whole: {listed}: start it anew in another --out")
    return Found(None, [])


def step_of(folder: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(folder.name.removeprefix("step-"))


def load_state(folder: Path) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def _lost_rows(folder: Path) -> str | None:
    """Which file of the run is shorter than it was when the checkpoint was written."""
    for name, size in load_state(folder)["sizes"].items():
        path = folder.parents[1] / name
        if (held := path.stat().st_size if path.exists() else 0) < size:
            return f"{name} has {held} bytes, not {size}"
    return None


def _set_aside(folder: Path, why: str) -> str:
    """Rename a damaged checkpoint, so that nothing takes it for one; returns what to tell."""
    names = (f"damaged-{folder.name}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
    aside = next(path for path in map(folder.with_name, names) if not path.exists())
    folder.rename(aside)
    return f"checkpoint {folder.name} is damaged ({why}): going on from the one before, it is kept as {aside.name}"
