"""The scripts behind the numbers still run."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from browser import chromium
from run_written import group_row, in_detail, write

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


def test_objectives_are_compared_by_where_they_put_credit(tmp_path, monkeypatch, capsys):
    """GRPO would give all tokens the same here, and the run's own gives nothing to the wrong one."""
    row = in_detail(group_row(1, "a"))
    row["others"] = {"grpo": [[0.1] * 5, [-0.1] * 5], "conspo": [[0.3], [-0.1]]}
    row["rollouts"][0]["credit"], row["rollouts"][1]["credit"] = 2.0, 0.0
    run = write(tmp_path / "run", [row, group_row(1, "b")])
    monkeypatch.setattr(sys, "argv", ["alike.py", str(run)])
    runpy.run_path(str(BENCHMARKS / "alike.py"), run_name="__main__")
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows] == [["grpo", "0.0%"], ["conspo", "25.0%"], ["rence", "50.0%"]]


@pytest.mark.slow
def test_a_large_report_is_made_and_opened(tmp_path, monkeypatch, capfd):
    with chromium():
        pass  # or this is skipped
    told = ["--steps", "3", "--prompts", "4", "--tokens", "100", "--in", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["report.py", *told])
    runpy.run_path(str(BENCHMARKS / "report.py"), run_name="__main__")
    assert "3 steps of 4 prompts" in (out := capfd.readouterr().out) and "prompts " in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "told", "shown"),
    [
        pytest.param("speed", ["FOLDER", "--only", "rollouts,step"], "tokens/s", marks=pytest.mark.slow),
        pytest.param("scaling", [], "attention is", marks=pytest.mark.slow),
        ("gpu", [], "tokens/s"),
    ],
)
def test_the_benchmarks_of_speed_still_run(script, told, shown, tmp_path):
    """At toy sizes; what they measure there means nothing."""
    out = tmp_path / "numbers.json"
    asked = [str(tmp_path) if word == "FOLDER" else word for word in told]
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *asked, "--tiny", "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert shown in ran.stdout and json.loads(out.read_text())
