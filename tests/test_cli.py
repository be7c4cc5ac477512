"""The command line as a person meets it: exit codes, one-line errors, a run from start to finish, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contrapose.objectives.zoo import catalogue
from contrapose.prompts.abacus import BASE_MODEL
from user import contrapose, few_sums

ROOT = Path(__file__).parents[1]
SMALL = ["--set", "steps=3", "--set", "batch.prompts=4", "--set", "batch.updates=2", "--set", "rollout.k=4"]
SMALL += ["--set", "eval.data=abacus:validation", "--set", "eval.samples=1"]


def test_help_is_light():
    """``--help`` must not wait for torch."""
    code = (
        "import sys; sys.argv = ['contrapose', '--help']\n"
        "from contrapose.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'sympy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


@pytest.mark.parametrize("command", ["train", "eval", "verify", "data", "ledger", "objectives", "doctor", "abacus"])
def test_every_command_explains_itself(monkeypatch, capsys, command):
    assert contrapose(monkeypatch, command, "--help") == 0
    assert "Usage" in capsys.readouterr().out


def test_train_then_eval_then_resume_refused(monkeypatch, capsys, tmp_path):
    run = tmp_path / "run"
    assert contrapose(monkeypatch, "train", "--out", str(run), "--seed", "3", *SMALL) == 0
    shown = capsys.readouterr().out
    for expected in ("before training: accuracy", " 3/3 ", "accepted/drawn", "tokens/s", "eta", "95 % interval"):
        assert expected in shown
    assert str(run / "model") in shown.replace("\n", "")
    assert "seed = 3" in (run / "config.toml").read_text()
    out = tmp_path / "evaluation"
    flags = ["--data", "abacus", "--limit", "20", "--samples", "2", "--temperature", "1", "--out", str(out)]
    assert contrapose(monkeypatch, "eval", str(run), *flags) == 0
    assert json.loads((out / "eval.json").read_text())[0]["problems"] == 20
    assert len((out / "rollouts.jsonl").read_text().splitlines()) == 20
    capsys.readouterr()
    assert contrapose(monkeypatch, "train", "--out", str(run), *SMALL) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert contrapose(monkeypatch, "train", "--out", str(run), "--resume", "--seed", "1") == 2
    assert "--resume" in capsys.readouterr().err


def test_an_evaluation_asks_as_the_run_did(monkeypatch, capsys, tmp_path):
    """Template and columns are those the model was trained with."""
    data = tmp_path / "sums.jsonl"
    data.write_text(
        "".join(json.dumps({"q": f"{a}+{b}=", "a": a + b}) + "\n" for a in range(1, 7) for b in range(1, 7))
    )
    settings = {"model.path": "abacus", "data.path": data, "data.problem_key": "q", "data.answer_key": "a"}
    settings |= {"data.template": "plain", "batch.prompts": 4, "batch.updates": 2, "rollout.max_tokens": 64, "steps": 1}
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run = tmp_path / "run"
    assert contrapose(monkeypatch, "train", "grpo", "--out", str(run), *flags) == 0
    assert "no evaluation: eval.data is not set" in capsys.readouterr().out
    for model in (run, run / "model"):
        assert contrapose(monkeypatch, "eval", str(model), "--data", str(data), "--samples", "1") == 0
        assert "template plain" in capsys.readouterr().out


@few_sums()
def test_an_exhausted_pool_leaves_a_model_and_says_where(monkeypatch, capsys, tmp_path):
    flags = ["--set", "filter.t_hard=0.4", "--set", "filter.t_easy=0.45", "--set", "filter.max_rounds=1"]
    assert contrapose(monkeypatch, "train", "--out", str(tmp_path / "run"), *SMALL, *flags) == 3
    shown = capsys.readouterr()
    assert "filter.max_rounds" in shown.err
    assert "--set model.path=" in shown.out
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@few_sums()
def test_an_example_of_the_contrast_is_shown(monkeypatch, capsys, tmp_path):
    """A right answer pulled up and a wrong one pushed down, with their credits."""
    assert contrapose(monkeypatch, "train", "--out", str(tmp_path / "run"), *SMALL) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "pulled up" in x)
    assert "pulled up +" in line
    assert "pushed down -" in line


BAD = {
    "train --set optim.lrr=1": "optim.lrr: no such key (did you mean 'optim.lr'?)",
    "train --set filter.t_hard=0.6": "filter.t_hard: 0.6 must be below filter.t_easy = 0.5",
    "train --set filter.t_master=0": "filter.t_master",
    "train --set batch.updates=5": "batch.prompts: 32 is not divisible by batch.updates = 5",
    "train --set rollout.k=1": "rollout.k",
    "train --set rollout.top_p=0.9": "rollout.top_p",
    "train --set rollout.temperature=0": "rollout.temperature",
    "train --set optim.lr=fast": "optim.lr",
    "train --set objective.name=renc": "'renc' is unknown",
    "train --set objective.btea=1": "objective.btea: not a hyper-parameter of rence (did you mean 'beta'?)",
    "train --set objective.beta=fast": "objective.beta: expected a number, found 'fast'",
    "train --set objective.kl_target=0": "target must be above 0",
    "train --set objective.margin=cosine": "objective.margin: 'cosine' is not a choice",
    "train --set nonsense": "write it as key=value",
    "train --set data.path=missing.jsonl": "model.path is not set",
    "train --set data.path=missing.jsonl --set model.path=abacus": "missing.jsonl does not exist",
    "train --set model.path=/nowhere/at/all": "/nowhere/at/all is not a folder",
    "train --set data.template=rance": "data.template: 'rance' is unknown (did you mean 'rence'?)",
    "train --set data.template=conspo": "the tokenizer cannot spell",
    "train --set eval.data=abacus:exam": "no such split",
    "train --set data.max_prompt_tokens=1": "data.max_prompt_tokens",
    "train --set rollout.max_tokens=1000": "rollout.max_tokens: 1000",
    "train abacsu": "recipe 'abacsu' is unknown (did you mean 'abacus'?)",
    "train missing.toml": "missing.toml",
    "train --resume": "--resume: give --out",
    "train --resume --out nowhere": "nowhere/config.toml",
    "eval /nowhere/at/all": "/nowhere/at/all is not a folder",
    "eval abacus --data missing.csv": "missing.csv does not exist",
    "eval abacus --data missing.tsv": "is no named data set",
    "train --readmit p1": "--readmit: give --resume",
    "train --set data.path=gym:chain_sum --set model.path=abacus": "verify.domain=reasoning_gym",
    "data missing.jsonl": "missing.jsonl does not exist",
    "ledger nowhere": "nowhere: not the folder of a run",
    "eval abacus --dtype float31": "float31",
    "objectives renc": "did you mean 'rence'?",
}


@pytest.mark.parametrize("line", BAD)
@few_sums()
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, line):
    """It names the culprit, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    assert contrapose(monkeypatch, *line.split()) == 2
    error = capsys.readouterr().err
    assert BAD[line] in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_objectives_are_listed_and_each_is_shown_with_its_equation(monkeypatch, capsys):
    known = catalogue()
    monkeypatch.setenv("COLUMNS", "80")
    assert contrapose(monkeypatch, "objectives") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["name", *known]
    assert all(row[1:] == list(known[row[0]].kinds.values()) for row in rows[1:])
    for name, info in known.items():
        assert contrapose(monkeypatch, "objectives", name) == 0
        shown = " ".join(capsys.readouterr().out.split())
        for text in (info.paper, info.credit, info.disagreement, *info.defaults, *info.required):
            assert " ".join(text.split()) in shown


def test_the_page_of_objectives_is_the_document(monkeypatch, capsys):
    assert contrapose(monkeypatch, "objectives", "--page") == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "objectives.md").read_text()


def test_recipes_are_listed_with_what_they_are(monkeypatch, capsys):
    assert contrapose(monkeypatch, "recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    paths = [ROOT / "recipes" / f"{line.split()[0]}.toml" for line in lines]
    assert set(paths) == set((ROOT / "recipes").rglob("*.toml"))
    for line, path in zip(lines, paths, strict=True):
        assert line.partition("  ")[2].strip() == path.read_text().splitlines()[0].removeprefix("# ")


@few_sums()
def test_a_row_of_a_table_names_its_run_folder(monkeypatch, capsys, tmp_path):
    """A recipe in a folder makes one run folder, not a folder in a folder."""
    monkeypatch.chdir(tmp_path)
    flags = ["--set", "model.path=abacus", "--set", "data.path=abacus", "--set", "data.template=plain"]
    flags += [x for key in ("batch.prompts=4", "batch.updates=1", "rollout.max_tokens=32") for x in ("--set", key)]
    assert contrapose(monkeypatch, "train", "rence/all_pairs", *flags, "--set", "steps=1") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("rence-all_pairs-rence-0-")


def test_doctor_names_what_is_here(monkeypatch, capsys):
    assert contrapose(monkeypatch, "doctor") == 0
    shown = capsys.readouterr().out
    assert all(
        part in shown for part in ("torch", "transformers", "math-verify", "threads", "device", "contrapose[hub]")
    )


def test_ctrl_c_saves_and_the_resumed_run_ends_as_one_never_stopped(monkeypatch, capsys, tmp_path):
    """SIGINT in the middle of a run: exit code 75, a checkpoint, and the way to go on, which another process may go."""
    asked, cut, whole = tmp_path / "asked.jsonl", tmp_path / "cut", tmp_path / "whole"
    asked.write_text("".join(json.dumps({"problem": f"{i}+{i}-1=", "answer": 2 * i - 1}) + "\n" for i in range(1, 10)))
    settings = [x.replace("steps=3", "steps=6") for x in SMALL] + ["--set", f"eval.data={asked}"]
    command = [sys.executable, "-m", "contrapose", "train", *settings, "--out", str(cut)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    while not (cut / "metrics.jsonl").exists() or len((cut / "ledger.jsonl").read_bytes()) == 0:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 75, shown
    assert f"--resume --out {cut}" in shown
    assert len(list((cut / "checkpoints").iterdir())) == 1
    assert contrapose(monkeypatch, "train", "--resume", "--out", str(cut)) == 0, capsys.readouterr()
    assert contrapose(monkeypatch, "train", *settings, "--out", str(whole)) == 0, capsys.readouterr()
    for name in ("ledger.jsonl", "rollouts.jsonl", "eval.json", "model/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_no_pickle_or_network_address_is_shipped():
    assert {p.suffix for p in Path(BASE_MODEL).iterdir()} == {".json", ".safetensors"}
