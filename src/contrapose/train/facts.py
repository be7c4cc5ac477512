"""What a result depends on beside its settings."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

import contrapose
from contrapose.report.revision import revision
from contrapose.types import Prompt


def facts() -> dict[str, Any]:
    """Versions, revision, device, threads."""
    import transformers

    return {
        "contrapose": contrapose.__version__,
        "revision": revision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trees of settings or facts, a line each, for a run that is taken up again."""
    then, today = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{key} was {then.get(key)!r} at the checkpoint and is {today.get(key)!r} now: from here on the run may differ "
        "from one that was never stopped"
        for key in sorted(then.keys() | today.keys())
        if then.get(key) != today.get(key)
    ]


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over the ids, answers and tokens of ``prompts``, in their order."""
    digest = hashlib.sha256()
    for p in prompts:
        digest.update(json.dumps([p.id, p.answer, p.tokens]).encode())
    return digest.hexdigest()
