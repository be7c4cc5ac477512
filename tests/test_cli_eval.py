"""``contrapose eval`` as a person meets it: benchmarks by name, protocols, SIGKILL and --resume, --compare."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from contrapose.cli import evaluation
from contrapose.evaluate.protocols import ABACUS
from contrapose.evaluate.records import read
from contrapose.policy.model import save_model
from contrapose.prompts.catalogue import BENCHMARKS
from models import tiny
from user import contrapose as typed

SHARED = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"
FILES = ("settings.json", "rollouts.jsonl", "eval.json")
present = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared benchmarks are not here")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contrapose(monkeypatch, *arguments) -> int:
    """The exit code of ``contrapose *arguments``, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return typed(monkeypatch, *arguments)


def same(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def killed_in_the_middle(arguments, out, rows):
    """Start the command, and SIGKILL it when ``rows`` rows stand."""
    command = [sys.executable, "-m", "contrapose", *map(str, arguments), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    lines = out / "rollouts.jsonl"
    while not lines.exists() or lines.read_bytes().count(b"\n") < rows:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "eval.json").exists()


def test_killed_and_resumed_it_ends_the_same(monkeypatch, capsys, tmp_path):
    """Two data sets of two parts each; the second process is killed once the first part stands."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["eval", "abacus", "--data", "abacus", "--data", "abacus:validation", "--limit", "8", "--samples", "60"]
    flags += ["--temperature", "1"]
    assert contrapose(monkeypatch, *flags, "--out", tmp_path / "whole") == 0
    killed_in_the_middle(flags, tmp_path / "cut", 3)
    capsys.readouterr()
    assert contrapose(monkeypatch, *flags, "--out", tmp_path / "cut") == 2
    assert "already holds an evaluation" in capsys.readouterr().err
    assert contrapose(monkeypatch, *flags, "--out", tmp_path / "cut", "--resume") == 0
    assert "going on after " in capsys.readouterr().out
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("contrapose.evaluate.command.evaluate_model", interrupted)
    assert contrapose(monkeypatch, "eval", "abacus", "--out", tmp_path) == 75
    assert "the same command with --resume goes on" in capsys.readouterr().out


def test_two_evaluations_are_compared(monkeypatch, capsys, tmp_path):
    for name, temperature, limit in (("hot", "1", "40"), ("cold", "0", "60")):
        flags = ["--limit", limit, "--samples", "1", "--temperature", temperature, "--out", tmp_path / name]
        assert contrapose(monkeypatch, "eval", "abacus", *flags) == 0
    capsys.readouterr()
    assert contrapose(monkeypatch, "eval", "--compare", tmp_path / "hot", tmp_path / "cold") == 0
    shown = capsys.readouterr().out
    assert "abacus: cold is ahead by " in shown
    assert "20 problems only in cold: abacus/" in shown
    assert "temperature differs: 1.0 in hot, 0.0 in cold" in shown
    assert "seed" not in shown


def test_numbers_of_several_data_sets_fit_80_columns(monkeypatch, capsys):
    flags = ["--data", "abacus", "--data", "abacus:validation", "--limit", "30", "--samples", "2"]
    assert contrapose(monkeypatch, "eval", "abacus", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("in %")) :]
    assert max(map(len, table)) <= 80
    assert [line.split()[0] for line in table if "+-" in line][1:] == ["abacus", "abacus:validation", "mean"]
    assert sum(line.count(" to ") for line in table) == 3 + 3 + 1


def test_a_protocol_says_what_it_is_and_what_is_not_as_in_it(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("contrapose.evaluate.command.evaluate_model", lambda request, **_: seen.append(request) or [])
    monkeypatch.setattr("contrapose.cli.tables.benchmarks_table", lambda rows: "")
    assert contrapose(monkeypatch, "eval", "abacus", "--protocol", "conspo") == 0
    assert "protocol conspo\n" in capsys.readouterr().out
    assert (
        contrapose(monkeypatch, "eval", "abacus", "--protocol", "conspo", "--max-tokens", "4096", "--samples", 2) == 0
    )
    assert "protocol conspo, but for max_tokens 4096, samples 2\n" in capsys.readouterr().out
    as_it_is = ["--temperature", "0.7", "--samples", "4", "--template", "rence"]
    assert contrapose(monkeypatch, "eval", "abacus", "--protocol", "rence", *as_it_is) == 0
    assert "protocol rence\n" in capsys.readouterr().out
    first, second, _ = seen
    assert (first.temperature, first.top_p, first.max_tokens) == (0.6, 0.95, 8192)
    assert {exam.data: exam.samples for exam in first.exams}["aime2026"] == 32
    assert (second.temperature, second.max_tokens) == (0.6, 4096)
    assert {exam.samples for exam in second.exams} == {2}
    assert {exam.template for exam in first.exams} == {"conspo"}


def test_a_data_sets_conventions_lie_under_ones_own():
    """And over those of the run: what was trained on reasoning-gym is not judged by its scorers on mathematics."""

    def exam(*set_):
        run = {"verify": {"domain": "reasoning_gym", "conventions": {"degrees": False}}}
        return evaluation._exam("minerva_math", ABACUS, None, ("", ""), run, list(set_))

    run = {"verify": {"conventions": {"tolerance": 0.2}}}
    chosen = evaluation._exam("minerva_math", ABACUS, None, ("", ""), run, [])
    assert chosen.verifier.grading.conventions.tolerance == 0.2  # what the run chose, it was trained on

    own = BENCHMARKS["minerva_math"].conventions["tolerance"]
    assert own > 0
    assert exam().verifier.grading.conventions.tolerance == own
    assert not exam().verifier.grading.conventions.degrees
    assert exam().verifier.grading.domain == "math"
    assert exam("verify.conventions.tolerance=0.5").verifier.grading.conventions.tolerance == 0.5
    assert exam("verify.conventions.units=false").verifier.grading.conventions.tolerance == own
    assert exam("verify.domain=exact").verifier.grading.domain == "exact"


def test_what_a_data_set_brings_along_is_said(monkeypatch, capsys):
    monkeypatch.setattr("contrapose.evaluate.command.evaluate_model", lambda *_, **__: [])
    monkeypatch.setattr("contrapose.cli.tables.benchmarks_table", lambda rows: "")
    assert contrapose(monkeypatch, "eval", "abacus", "--data", "minerva", "--data", "math500") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    tolerance = BENCHMARKS["minerva_math"].conventions["tolerance"]
    said = f"minerva_math: verify.conventions.tolerance = {tolerance}, unless --set says otherwise"
    assert [line.split(None, 1)[1] for line in notes] == [said]


@pytest.fixture
def asked(monkeypatch):
    """The requests that are made; nothing is asked."""
    requests = []
    monkeypatch.setattr(
        "contrapose.evaluate.command.evaluate_model", lambda request, **_: requests.append(request) or []
    )
    monkeypatch.setattr("contrapose.cli.tables.benchmarks_table", lambda rows: "")
    return requests


def test_a_model_deep_in_a_run_is_asked_and_judged_as_the_run_did(monkeypatch, capsys, tmp_path, asked):
    """Wherever it lies in it, and however one comes to it."""
    run, model = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-000002" / "model"
    model.mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    settings = '[data]\ntemplate = "conspo"\nthinking = true\n[reward]\ntruncated = "wrong"\n'
    (run / "config.toml").write_text(settings + "[verify]\nseconds = 3.0\n")
    (tmp_path / "link").symlink_to(model)
    for where, name in ((model, "."), (tmp_path, "link")):
        monkeypatch.chdir(where)
        assert contrapose(monkeypatch, "eval", name) == 0
        [exam] = asked[-1].exams
        assert (exam.template, asked[-1].thinking, exam.verifier.limits.seconds) == ("conspo", True, 3.0)
        assert exam.verifier.truncated_is_wrong
        shown = capsys.readouterr().out
        assert f"run      {run}: " in shown
        assert "a cut-off answer is wrong, as in the run" in shown
    assert contrapose(monkeypatch, "eval", "abacus") == 0
    assert not asked[-1].exams[0].verifier.truncated_is_wrong
    assert "run      " not in capsys.readouterr().out


def test_whatever_is_given_beside_a_protocol_is_said(monkeypatch, capsys, asked):
    flags = ["--thinking", "--dtype", "float64", "--set", "verify.conventions.units=false", "--problem-key", "q"]
    assert contrapose(monkeypatch, "eval", "abacus", "--protocol", "rence", *flags) == 0
    said = "but for thinking True, dtype float64, problem_key q, set verify.conventions.units=false\n"
    assert said in capsys.readouterr().out


def test_few_problems_come_with_a_warning(monkeypatch, capsys):
    for limit in (29, 30):
        assert contrapose(monkeypatch, "eval", "abacus", "--limit", limit, "--samples", 1) == 0
        shown = capsys.readouterr().out
        assert ("note: fewer than 30 problems, read the interval as 90 % or less: abacus" in shown) is (limit == 29)


def evaluated(path, data):
    """A finished evaluation of one problem of ``data``."""
    path.mkdir(parents=True)
    sample = {"tokens": 5, "finished": "stop", "status": "correct"}
    row = {"data": data, "prompt": f"{data}/1", "answer": "1", "majority": 1.0, "samples": [sample]}
    (path / "rollouts.jsonl").write_text(json.dumps(row) + "\n")
    (path / "settings.json").write_text(json.dumps({"template": f"of {path}", "data": {data: {}}}))
    (path / "eval.json").write_text(json.dumps([{"data": data, "problems": 1, "samples": 1}]))


def test_folders_are_called_by_their_names(monkeypatch, capsys, tmp_path):
    for name in ("one", "other"):
        evaluated(tmp_path / name, "x")
    monkeypatch.chdir(tmp_path / "one")
    assert contrapose(monkeypatch, "eval", "--compare", ".", "../other") == 0
    assert (
        f"template differs: of {tmp_path / 'one'} in one, of {tmp_path / 'other'} in other" in capsys.readouterr().out
    )


def test_names_of_others_are_shown_and_not_obeyed(monkeypatch, capsys, tmp_path):
    """Escape sequences of a folder that somebody sent; names longer than a line."""
    for name in ("one", "other"):
        evaluated(tmp_path / name / ("long" * 20), "\x1b[2J[red]" + "data" * 20)
    assert contrapose(monkeypatch, "eval", "--compare", *(tmp_path / n / ("long" * 20) for n in ("one", "other"))) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[red]data" in shown
    assert "…" not in shown
    table = shown[: shown.index(": within noise")].splitlines()[:-1]
    assert max(map(len, table)) <= 80
    assert "100.0" in shown


MISTAKES = {
    "eval abacus --out file": "--out: file cannot be written (file is not a folder): choose another folder",
    "eval": "MODEL is missing",
    "eval abacus --resume": "--resume: say with --out where the evaluation is",
    "eval abacus --protocol rense": "--protocol: 'rense' is unknown (did you mean 'rence'?)",
    "eval abacus --protocol rence --data abacus": "--samples: the protocol rence does not say how many of abacus",
    "eval abacus --data abacus --data abacus": "--data: abacus is named twice",
    "eval abacus --set optim.lr=1": "--set optim: only the keys of verify can be set here",
    "eval abacus --compare a b": "--compare: give the folders of two evaluations and nothing else",
    "eval --compare a b --seed 1": "--compare: give the folders of two evaluations and nothing else",
    "eval --compare a b": "a has no settings.json: it is not the folder of a finished evaluation",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert contrapose(monkeypatch, *line.split()) == 2
    error = capsys.readouterr().err
    assert MISTAKES[line] in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_more_samples_than_anybody_means_are_refused(monkeypatch, capsys):
    assert contrapose(monkeypatch, "eval", "abacus", "--samples", 10**6) == 2
    assert "1024" in capsys.readouterr().err


# --- benchmarks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model that babbles, with a BPE tokenizer that can spell every problem."""
    folder = tmp_path_factory.mktemp("model")
    texts = [json.loads(line)["problem"] for line in (SHARED / "math500.jsonl").read_text().splitlines()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|pad|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=special[0], eos_token=special[1])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    save_model(tiny("qwen2", len(tokenizer), max_position_embeddings=4096, **ends), tokenizer, folder)
    return folder


@present
def test_some_of_three_benchmarks_twice(monkeypatch, tmp_path, model):
    monkeypatch.setenv("CONTRAPOSE_DATA_DIR", str(SHARED))
    flags = [x for name in ("math500", "aime2024", "minerva") for x in ("--data", name)]
    flags += ["--limit", "12", "--samples", "2", "--max-tokens", "8"]
    for out in ("one", "other"):
        assert contrapose(monkeypatch, "eval", model, *flags, "--out", tmp_path / out) == 0
    assert same(tmp_path / "one", tmp_path / "other")
    rows = json.loads((tmp_path / "one" / "eval.json").read_text())
    assert [(r["data"], r["problems"]) for r in rows[:-1]] == [("math500", 12), ("aime2024", 12), ("minerva_math", 12)]
    settings, problems = read(tmp_path / "one")
    assert len(problems) == 36
    assert settings["data"]["minerva_math"]["verify"]["conventions"]["tolerance"] > 0
    assert settings["data"]["math500"]["verify"]["conventions"]["tolerance"] == 0


@present
@pytest.mark.slow
def test_all_ten_benchmarks_killed_and_resumed(monkeypatch, tmp_path, model):
    """Every row of every file, twice; and once killed in the middle and resumed: the same bytes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["eval", model, "--data-dir", SHARED, "--samples", "1", "--max-tokens", "8"]
    flags += [x for name in BENCHMARKS for x in ("--data", name)]
    for out in ("one", "other"):
        assert contrapose(monkeypatch, *flags, "--out", tmp_path / out) == 0
    assert same(tmp_path / "one", tmp_path / "other")
    rows = json.loads((tmp_path / "one" / "eval.json").read_text())
    counts = {"math500": 500, "aime2024": 30, "aime2025": 30, "aime2026": 30, "hmmt_feb_2025": 30, "amc23": 40}
    counts |= {"amc_aimo83": 83, "minerva_math": 272, "olympiadbench": 675, "gsm8k_test": 1319}
    assert {row["data"]: row["problems"] for row in rows[:-1]} == counts
    assert all(row["reference_texts"] and row["left_out"] == 0 for row in rows[:-1])
    assert len((tmp_path / "one" / "rollouts.jsonl").read_bytes().splitlines()) == sum(counts.values())
    killed_in_the_middle(flags, tmp_path / "cut", 1300)
    assert contrapose(monkeypatch, *flags, "--out", tmp_path / "cut", "--resume") == 0
    assert same(tmp_path / "one", tmp_path / "cut")
