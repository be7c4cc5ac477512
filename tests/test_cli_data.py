"""``contrapose data`` as a person meets it."""

import json

import pytest

from contrapose.cli.data import LEFT_OUT
from contrapose.prompts.clean import STEPS
from user import contrapose

HELD = "A farmer keeps $7$ goats and $11$ hens. How many legs do his animals have all together?"


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps({"problem": problem, "answer": answer}) + "\n" for problem, answer in rows))
    return str(path)


@pytest.mark.parametrize("width", ["80", "120"])
def test_it_shows_what_a_run_would_train_on(monkeypatch, capsys, tmp_path, width):
    monkeypatch.setenv("COLUMNS", width)
    rows = [
        ("[b]One?", "1"),
        ("[b]one?", "2"),
        (HELD, "50"),
        ("[/x] half?", r"\frac{0}{0}"),
        ("Two?", "2"),
        ("two?", "2"),
    ]
    path, out = write(tmp_path / "[a].jsonl", *rows), tmp_path / "report.json"
    test = write(tmp_path / "test.jsonl", (HELD, "50"))
    assert contrapose(monkeypatch, "data", path, "--exclude", test, "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.split("\n\n")[0].splitlines())) <= int(width)
    for expected in (
        "rows",
        "kept",
        "held out 1",
        "copies whose answers differ: 2",
        "1 and 2",
        "[b]One?",
        "[/x] half?",
    ):
        assert expected in shown
    assert "[a].jsonl" in shown.replace("│\n", "").replace(" ", "").replace("┃", "").replace("\n", "")
    report = json.loads(out.read_text())
    counts = report["sources"][path]
    assert counts == dict.fromkeys(STEPS, 0) | {
        "rows": 6,
        "conflict": 2,
        "contaminated": 1,
        "bad_gold": 1,
        "duplicate": 1,
        "kept": 1,
    }
    assert sorted(case["step"] for case in report["cases"]) == [
        "bad_gold",
        "conflict",
        "conflict",
        "contaminated",
        "duplicate",
    ]


def test_every_count_is_in_the_table():
    assert {*LEFT_OUT, "overlap"} == set(STEPS)


def test_many_sources_fit_on_a_narrow_screen(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"problems_of_year_{year}.jsonl" for year in range(2001, 2009)]
    paths = [write(tmp_path / name, (f"What is {name}?", "1"), ("Copy?", "2")) for name in names]
    assert contrapose(monkeypatch, "data", *paths) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [sum(name in line for line in lines if line.startswith("\u2502")) for name in names] == [1] * 8
    assert sum("copies 1" in line for line in lines) == 7


def test_names_are_shown_as_they_are_but_for_what_a_terminal_obeys(monkeypatch, capsys, tmp_path):
    (tmp_path / "\x1b[31m").mkdir()
    path = write(tmp_path / "\x1b[31m" / "a:zzz:\x1b[32m.jsonl", ("One?", "1"), (":zzz: ?", ""), ("Two?", "2"))
    out = tmp_path / "\x1b[31m" / ":zzz:.json"
    assert contrapose(monkeypatch, "data", path, "--out", str(out)) == 0
    assert contrapose(monkeypatch, "data", f"{path}:zzz:.jsonl") == 2
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown and "\U0001f4a4" not in shown
    assert shown.count(":zzz:") >= 6
    assert out.is_file()


def test_what_a_run_would_refuse_is_reported_all_the_same(monkeypatch, capsys, tmp_path):
    path, out = write(tmp_path / "a.jsonl", ("One?", "1"), ("Two?", "")), tmp_path / "report.json"
    assert contrapose(monkeypatch, "data", path, "--out", str(out)) == 0
    assert f"a run would refuse this: 1 of 2 rows of {path} are broken" in capsys.readouterr().out
    assert json.loads(out.read_text())["sources"][path]["broken"] == 1
    assert contrapose(monkeypatch, "data", path, "--set", "data.max_broken=0.5") == 0
    assert "would refuse" not in capsys.readouterr().out


def test_lengths_are_measured_with_a_tokenizer(monkeypatch, capsys, tmp_path):
    path = write(tmp_path / "sums.jsonl", ("1+1=", "2"), ("1+1+1=", "3"))
    flags = ["--tokenizer", "abacus", "--set", "data.template=plain", "--set", "data.max_prompt_tokens=5"]
    assert contrapose(monkeypatch, "data", path, *flags) == 0
    assert "data.max_prompt_tokens: 1" in capsys.readouterr().out
    assert contrapose(monkeypatch, "data", path, *flags, "--set", "data.thinking=true") == 2
    assert "data.thinking: 'plain'" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_refused_before_the_work(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("contrapose.train.data.survey", None)
    path = write(tmp_path / "a.jsonl", ("One?", "1"))
    for out in (tmp_path, tmp_path / "gone" / "report.json", tmp_path / "a.jsonl" / "report.json"):
        assert contrapose(monkeypatch, "data", path, "--out", str(out)) == 2
        assert f"--out: {out} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--exclude", "all", "--data-dir", "."], "holds the file of no benchmark"),
        (["--out", f"{'a' * 300}.json"], "aaa.json: File name too long"),
        (["--exclude", "gone.jsonl"], "gone.jsonl does not exist"),
        (["--set", "optim.lr=1"], "only the keys of data and verify"),
        (["--set", "data.problem_key=q"], "has no column 'q'"),
        (["gym:chain_sum"], "add --set verify.domain=reasoning_gym"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, tmp_path, flags, line):
    monkeypatch.chdir(tmp_path)
    assert contrapose(monkeypatch, "data", write(tmp_path / "a.jsonl", ("1+1?", "2")), *flags) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
