"""Runs that are killed, and what must be the same in the end: everything but times."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from contrapose.prompts import abacus
from contrapose.report.metrics import TIME_FIELDS

SMALL = (
    *("steps=4", "batch.prompts=4", "batch.updates=2", "rollout.k=4", "checkpoint.every=2", "optim.warmup=6"),
    *("model.path=abacus", "optim.lr=1e-4", "rollout.max_tokens=32", "data.template=plain", "filter.patience=2"),
    *("eval.every=2", "eval.samples=2", "diagnose.every=3", "verify.workers=1"),
)
"""A run that has everything: epochs that end, a cache, patience, warm-up, two evaluations that take parts."""


def problems(path: Path, first: int, last: int) -> Path:
    """Some of abacus's problems as a file."""
    rows = abacus.problems("train", last)[first:]
    path.write_text("".join(json.dumps({"problem": p.problem, "answer": p.answer}) + "\n" for p in rows))
    return path


def settings(folder: Path, objective: str) -> list[str]:
    """A small run of ``objective`` on files that are made in ``folder``."""
    files = {"data.path": (0, 24), "eval.data": (24, 34), "eval.validation": (34, 40)}
    named = [f"{key}={problems(folder / f'{key}.jsonl', *which)}" for key, which in files.items()]
    return [*SMALL, *named, f"objective.name={objective}"]


class Ended(NamedTuple):
    """How a run ended: its exit code (minus the signal that killed it), what it said, and the points it passed."""

    code: int
    said: str
    points: dict[str, int]


class Zygote:
    """Starts runs in processes that can be killed (``zygote.py``). A context."""

    def __enter__(self) -> "Zygote":
        program = Path(__file__).with_name("zygote.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, program], **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def run(self, folder: Path, settings: list[str], **how: object) -> Ended:
        """Begin or resume a run in ``folder``, and wait for its end."""
        print(json.dumps({"folder": str(folder), "settings": settings, **how}), file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))


def digest(run: Path) -> dict[str, str]:
    """A hash of everything that a run left but times: by file."""
    last = max((run / "checkpoints").glob("step-*"))
    state = json.loads((last / "state.json").read_text())
    del state["sizes"]["metrics.jsonl"], state["run"]  # times have more digits or less; a commit may come in between
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    plain = {
        "metrics": [{key: value for key, value in row.items() if key not in TIME_FIELDS} for row in metrics],
        "state": state,
    }
    names = ["rollouts.jsonl", "ledger.jsonl", "eval.json", "choice.json", "data.json"]
    files = [run / name for name in names if (run / name).exists()] + [last / "optimizer.safetensors"]
    for part in ("model", "best", "evaluations"):
        files += [p for p in (run / part).rglob("*") if p.is_file()]
    texts = {key: json.dumps(value, sort_keys=True).encode() for key, value in plain.items()}
    texts |= {str(path.relative_to(run)): path.read_bytes() for path in files}
    for name in [name for name in texts if name.endswith("/settings.json")]:
        texts[name] = re.sub(rb'"revision": .*', b"", texts[name])
    return {name: hashlib.sha256(text).hexdigest()[:12] for name, text in sorted(texts.items())}


def leftovers(run: Path) -> list[str]:
    """What a kill may leave, and a finished run must not."""
    return [str(p.relative_to(run)) for p in run.rglob(".*")]
