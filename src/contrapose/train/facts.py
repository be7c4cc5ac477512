"""What a result depends on beside its settings."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import torch

import contrapose
from contrapose.evaluate.records import differences
from contrapose.report.revision import revision
from contrapose.types import Prompt


def facts(ranks: int = 1) -> dict[str, Any]:
    """Versions, revision, device, threads, processes."""
    import transformers

    return {
        "contrapose": contrapose.__version__,
        "revision": revision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "ranks": ranks,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two trees of settings or facts, a line each, for a run that is taken up again."""
    return [
        f"{key} was {then!r} at the checkpoint and is {today!r} now: from here on the run may differ "
        "from one that was never stopped"
        for key, then, today in differences(before, now)
    ]


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over the ids, answers and tokens of ``prompts``, in their order."""
    digest = hashlib.sha256()
    for p in prompts:
        digest.update(json.dumps([p.id, p.answer, p.tokens]).encode())
    return digest.hexdigest()
