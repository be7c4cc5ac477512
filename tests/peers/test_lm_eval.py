"""lm-evaluation-harness on a trained run's ``model/``, as it is: the same texts and the same accuracy as ``contrapose
eval``, greedily. ``make lm-eval`` runs this in an environment of its own; elsewhere it is skipped."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from contrapose.prompts.abacus import problems
from user import contrapose

TASKS = Path(__file__).parents[2] / "benchmarks" / "lm_eval"
COUNT = 100
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed"),
]


def lm_eval(folder):
    """Each problem's text, and the accuracy, as the harness has them."""
    given = {"pretrained": "run/model", "dtype": "float32"}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "abacus", "--device", "cpu"]
    command += [
        "--include_path",
        str(TASKS),
        "--model_args",
        ",".join(f"{key}={value}" for key, value in given.items()),
    ]
    command += ["--batch_size", "16", "--output_path", "lm", "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    subprocess.run(command, cwd=folder, env={**os.environ, **offline}, check=True, timeout=500)
    (results,), (samples,) = (sorted((folder / "lm").rglob(f"{kind}_*")) for kind in ("results", "samples"))
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    texts = {row["doc"]["problem"]: row["resps"][0][0] for row in rows}
    return texts, json.loads(results.read_text())["results"]["abacus"]["exact_match,boxed"]


def test_a_trained_model_is_evaluated_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["steps=2", "batch.prompts=8", "eval.data="]
    assert contrapose(monkeypatch, "train", "--out", "run", *(x for pair in small for x in ("--set", pair))) == 0
    asked = [{"problem": p.problem, "answer": p.answer} for p in problems("test", COUNT)]
    Path("sums.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked))
    greedy = ["--samples", "1", "--temperature", "0", "--max-tokens", "64"]
    assert contrapose(monkeypatch, "eval", "run", "--data", "sums.jsonl", *greedy, "--out", "results") == 0
    rows = [json.loads(line) for line in Path("results/rollouts.jsonl").read_text().splitlines()]
    texts, accuracy = lm_eval(tmp_path)
    assert texts == {row["problem"]: row["samples"][0]["text"] for row in rows}
    assert len(texts) == COUNT
    assert accuracy == pytest.approx(sum(row["correct"] for row in rows) / COUNT)
    assert 0.5 < accuracy < 1  # or calling everything right would do
