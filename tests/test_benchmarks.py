"""The scripts behind the numbers still run."""

import json
import runpy
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_verifier_is_compared_on_a_file_of_labelled_pairs(tmp_path, monkeypatch, capsys):
    rows = [
        {"gold": "1/2", "prediction": "0.5", "expected": True},
        {"gold": "x+1", "prediction": "1-x", "expected": False, "core": False, "tags": ["made-up"]},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["verify.py", str(file), "--rounds", "1"])
    runpy.run_path(str(BENCHMARKS / "verify.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "core, contrapose: 100.0%; false positives -;" in shown
    assert (
        "made-up" in shown and "fast path: 1 rows" in shown and "the rest: 1 rows" in shown and "pool: ready" in shown
    )
    assert shown.count("row by row in one process: ") == 2
