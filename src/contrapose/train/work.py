"""A step that was begun: what was drawn for it, and which of its updates are done. It can be saved between two updates.

work.json          groups, fates and verdicts; the rows of the updates that are done
work.safetensors   tokens of all rollouts, one after the other; the batch with its old log-probs
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from contrapose.policy.logprobs import Row
from contrapose.train.collate import Minibatch
from contrapose.train.collect import Collected, Judged
from contrapose.types import Batch, Group, Prompt, Rollout, Verdict

JSON, TENSORS = "work.json", "work.safetensors"


@dataclass
class Work:
    """``batch`` is None where no group was accepted; it is split into ``parts``, an update each. ``facts`` are values
    of the step's row that came with it. ``updates`` holds a row for each update that is done."""

    drawn: Collected
    batch: Minibatch | None
    parts: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    updates: list[dict[str, Any]] = field(default_factory=list)
    seconds_rollout: float = 0.0
    seconds_update: float = 0.0

    def save(self, folder: Path) -> None:
        """Write everything to ``folder``."""
        plain = {
            "wanted": self.drawn.wanted,
            "rounds": self.drawn.rounds,
            "judged": [_plain(judged) for judged in self.drawn.judged],
            "parts": self.parts,
            "facts": self.facts,
            "updates": self.updates,
            "seconds_rollout": self.seconds_rollout,
            "seconds_update": self.seconds_update,
        }
        (folder / JSON).write_text(json.dumps(plain))
        rollouts = [r for judged in self.drawn.judged for r in _rollouts(judged.group)]
        save_file(_flat(rollouts) | _dense(self.batch), folder / TENSORS)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Work | None:
        """What ``save`` wrote, its batch on ``device``; None where there is nothing."""
        if not (folder / JSON).exists():
            return None
        plain = json.loads((folder / JSON).read_text())
        tensors = load_file(folder / TENSORS)
        lists = _lists(tensors)
        drawn = Collected(plain["wanted"], rounds=plain["rounds"])
        for one in plain["judged"]:
            drawn.add(_group(one, lists), one["fate"])
        rest = {key: plain[key] for key in ("parts", "facts", "updates", "seconds_rollout", "seconds_update")}
        return cls(drawn, _batch(tensors, drawn.accepted, device), **rest)


def _plain(judged: Judged) -> dict[str, Any]:
    group = judged.group
    return {
        "fate": judged.fate,
        "prompt": asdict(group.prompt),
        "rollouts": [_words(r) for r in group.rollouts],
        "verdicts": [asdict(v) for v in group.verdicts],
        "cancelled": [_words(r) for r in group.cancelled],
    }


def _words(rollout: Rollout) -> dict[str, Any]:
    """What of a rollout is no list of numbers."""
    return {key: value for key, value in vars(rollout).items() if not isinstance(value, tuple)}


def _group(plain: dict[str, Any], lists: Iterator[dict[str, tuple[Any, ...]]]) -> Group:
    prompt = Prompt(**plain["prompt"] | {"tokens": tuple(plain["prompt"]["tokens"])})
    rollouts, cancelled = (
        tuple(Rollout(**{**words, **next(lists)}) for words in plain[kind]) for kind in ("rollouts", "cancelled")
    )
    return Group(prompt, rollouts, tuple(Verdict(**v) for v in plain["verdicts"]), cancelled)


def _rollouts(group: Group) -> tuple[Rollout, ...]:
    return (*group.rollouts, *group.cancelled)


def _flat(rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """The lists of all rollouts, end to end. Log-probs are Python's floats, and stay so to the last bit."""
    return {
        "lengths": torch.tensor([len(r.tokens) for r in rollouts], dtype=torch.int64),
        "tokens": torch.tensor([t for r in rollouts for t in r.tokens], dtype=torch.int64),
        "mask": torch.tensor([m for r in rollouts for m in r.mask], dtype=torch.uint8),
        "logp": torch.tensor([x for r in rollouts for x in r.logp], dtype=torch.float64),
    }


def _lists(tensors: dict[str, Tensor]) -> Iterator[dict[str, tuple[Any, ...]]]:
    flat = {name: tensors[name].tolist() for name in ("tokens", "mask", "logp")}
    for start, stop in pairwise([0, *accumulate(tensors["lengths"].tolist())]):
        yield {name: tuple(values[start:stop]) for name, values in flat.items()}


def _dense(batch: Minibatch | None) -> dict[str, Tensor]:
    """The tensors of a batch under the names of their fields."""
    if batch is None:
        return {}
    named = {**vars(batch.batch), "token_weight_QKT": batch.token_weight_QKT}
    return {name: x.cpu().contiguous() for name, x in named.items() if x is not None}


def _batch(tensors: dict[str, Tensor], groups: Sequence[Group], device: torch.device) -> Minibatch | None:
    if not groups:
        return None
    named = {name: x.to(device) for name, x in tensors.items() if name.endswith(("_QKT", "_QK"))}
    weight = named.pop("token_weight_QKT", None)
    rows = tuple(Row(g.prompt.tokens, r.tokens) for g in groups for r in g.rollouts)
    return Minibatch(tuple(groups), rows, Batch(**named), weight)
