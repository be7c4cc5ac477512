"""Run folders with a script: the files of a run, without one."""

import json
from pathlib import Path

from contrapose.report.metrics import STEP, UPDATE

COUNTS = ("step", "drawn_groups", "accepted_groups", "rounds", "mastered_prompts", "generated_tokens", "kept_tokens")
COUNTS = (*COUNTS, "surplus_tokens", "cancelled_rollouts", "cancelled_tokens", "skipped_updates")

CONFIG = """\
seed = 0
steps = 3
[objective]
name = "rence"
[model]
path = "abacus"
dtype = "float32"
[data]
path = ["abacus"]
[rollout]
k = 2
max_tokens = 64
[batch]
prompts = 2
updates = 1
[run]
contrapose = "0"
"""


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "<img src=x onerror=alert(1)>",
    "\"'`><svg/onload=alert(1)>",
    "</style><style>*{display:none}",
    "{{constructor}} ${alert(1)} <!--data--><!--scripts--><!--policy-->",
    "\x00\x1b[31m\u202e\u2066\u200f\u2028\u2029\ufeff",
    "\ud800",
    "\U0001f600",
    "x" * 100_000,
]
"""What a model may write to get out of a text."""


def metrics_row(step: int, **more) -> dict:
    """A row of ``metrics.jsonl``, every number of which tells its name and its step."""
    row = {name: float(f"{step}.{len(name):03}") for name in STEP}
    row |= dict.fromkeys(COUNTS, 10 * step) | {"step": step, "alarms": [], "updates": [update_row(step)]}
    return row | {"filtered_tokens": {"too_hard": 1, "too_easy": 2, "mastered": 3}, "verdicts": {"correct": 4}} | more


def update_row(step: int) -> dict:
    return {name: step / len(name) for name in UPDATE} | {"skipped": None}


def group_row(step: int, prompt: str, text: str = r"\boxed{1}", fate: str = "train", **more) -> dict:
    """A row of ``rollouts.jsonl``: a right rollout and a wrong one of the same text."""
    told = {"text": text, "tokens": 3, "finished": "stop", "boxed": "1", "reward": 1.0, "status": "correct"}
    trained = {"score": 0.5, "p_positive": 0.25, "credit": 0.125} if fate == "train" else {}
    right, wrong = told | {"correct": True} | trained, told | {"correct": False, "status": "wrong", "reward": 0.0}
    if trained:
        wrong |= {"score": -0.5, "p_positive": None, "credit": -0.25}
    about = {"step": step, "prompt": prompt, "problem": f"what is {prompt}?", "answer": "1", "fate": fate}
    return about | {"rollouts": [right, wrong]} | more


def in_detail(row: dict, pieces: list[list[str]] | None = None) -> dict:
    """The row as it is written token by token."""
    pieces = pieces or [["a", "b", "c"]] * 2
    tokens = [[0.01 * (i + 1) * (-1) ** k for i in range(len(p))] for k, p in enumerate(pieces)]
    others = {"grpo": tokens, "conspo": [[0.5] * len(p) for p in pieces]}
    ids = [list(range(len(p))) for p in pieces]
    return row | {"others": others, "pieces": pieces, "token_ids": ids, "logp": tokens, "token_credit": tokens}


def evaluation_row(step: int, value: float = 0.5, **more) -> dict:
    """A row of ``eval.json``; the answers that it names are not there."""
    accuracy = {"value": value, "low": 0.4, "high": 0.75, "se": 0.01}
    row = {"step": step, "data": "abacus", "split": "test", "answers": f"evaluations/step-{step}/abacus"}
    row |= {"problems": 9, "samples": 2, "temperature": 1.0, "accuracy": accuracy, "pass_at": {}}
    return row | {"length_mean": 3.5, "truncated": 0.0, "no_answer": 0.25} | more


def ledger_row(step: int, prompt: str, fate: str = "train", rho: float = 0.5, **more) -> dict:
    return {"step": step, "prompt": prompt, "fate": fate, "rho": rho, "tokens": 6, **more}


def write(folder: Path, groups: list[dict], steps: int = 3, config: str = CONFIG, **of_step) -> Path:
    """A run folder with these groups, as many rows of metrics and of the ledger as they need."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = [ledger_row(g["step"], g["prompt"], g["fate"]) for g in groups]
    files = {"rollouts": groups, "ledger": ledger, "metrics": [metrics_row(s + 1, **of_step) for s in range(steps)]}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.toml").write_text(config)
    return folder
