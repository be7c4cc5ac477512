"""What a result depends on beside its settings."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
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


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over the ids, answers and tokens of ``prompts``, in their order."""
    digest = hashlib.sha256()
    for p in prompts:
        digest.update(json.dumps([p.id, p.answer, p.tokens]).encode())
    return digest.hexdigest()
