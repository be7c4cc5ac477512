"""Digest of a short run of every objective: the same before and after a change that should not alter results.

    python benchmarks/trajectory.py

Equal only on one machine, with the same versions and number of threads.
"""

import hashlib
import json
import tempfile
from pathlib import Path

from contrapose.config import resolve
from contrapose.objectives.zoo import ZOO
from contrapose.report.metrics import TIME_FIELDS
from contrapose.train.loop import train
from contrapose.train.run import Run

SETTINGS = ["steps=3", "batch.prompts=8", "eval.data=''"]


def digest(name: str, folder: Path) -> str:
    """Hash of the metrics (times aside), the ledger, the rollouts and the final weights."""
    with Run(resolve("abacus", [*SETTINGS, f"objective.name={name}"])[0], folder) as run:
        train(run)
        run.finish()
    sha = hashlib.sha256()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        sha.update(json.dumps({k: v for k, v in row.items() if k not in TIME_FIELDS}).encode())
    for file in ("ledger.jsonl", "rollouts.jsonl", "model/model.safetensors"):
        sha.update((folder / file).read_bytes())
    return sha.hexdigest()[:16]


if __name__ == "__main__":
    for name in ZOO:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name:<10} {digest(name, Path(folder) / 'run')}")
