"""The report of runs: what cannot be read is one line, and a run never fails for the sake of its page."""

import json

import pytest

from contrapose.evaluate.report import REPORT, report_data, report_of, write_report
from contrapose.types import ContraposeError
from run_written import CONFIG, evaluation_row, group_row, metrics_row, write
from user import contrapose


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", [group_row(1, "a")])


def test_a_run_without_evaluations_has_a_report(run):
    assert report_of(run) is None
    assert (run / REPORT).read_text().startswith("<!doctype html>")
    data = report_data([run])
    assert data["changes"] == [[]] and data["differences"] == []


def test_a_long_run_has_a_page_of_bounded_size(tmp_path):
    """10,000 steps, a group of 3 kB each: benchmarks/report.py has 512 of them a step."""
    run = write(tmp_path / "run", [group_row(step, "p", "x" * 1500) for step in range(1, 10_001)], 10_000)
    write_report([run], tmp_path / "page.html")
    assert (run / "rollouts.jsonl").stat().st_size > 15_000_000
    assert (tmp_path / "page.html").stat().st_size < 25_000_000
    told = report_data([run])["runs"][0]
    assert told["steps"] == len(told["axes"]["step"]) == 10_000
    assert "of 10,000 groups: up to 8 of each of " in told["rule"]


def test_a_run_that_has_just_begun_has_a_report(tmp_path):
    assert report_of(write(tmp_path / "run", [], 0)) is None


def test_a_report_that_cannot_be_written_is_told_with_the_mend(run):
    (run / REPORT).mkdir()
    (run / REPORT / "something").touch()
    told = report_of(run)
    assert told.startswith(f"{run / REPORT}: cannot be written: ")
    assert told.endswith(f"no report was written; once mended: contrapose report {run}")


@pytest.mark.parametrize("file", ["metrics.jsonl", "rollouts.jsonl", "ledger.jsonl", "eval.json", "config.toml"])
def test_a_damaged_file_is_one_line_that_names_it(run, file, monkeypatch, capsys):
    (run / file).write_bytes(b"\x00\xff{nonsense\n")
    assert contrapose(monkeypatch, "report", run) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and file in said and str(run) in said


def test_a_folder_that_holds_no_run_is_one_line(tmp_path, monkeypatch, capsys):
    assert contrapose(monkeypatch, "report", tmp_path) == 2
    assert "not the folder of a run (contrapose train --out): config.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "folder", ["/etc", "../..", "evaluations/step-0/..", "evaluations/x/abacus", "evaluations/step-0/a/b"]
)
def test_answers_are_looked_for_in_the_runs_folder_alone(run, folder):
    (run / "eval.json").write_text(json.dumps([evaluation_row(0, answers=folder)]))
    with pytest.raises(ContraposeError, match=r"not written by this version: eval\.json: 0\.answers"):
        report_data([run])


def test_answers_that_are_gone_are_told_beside_the_rest(run):
    (run / "eval.json").write_text(json.dumps([evaluation_row(0), evaluation_row(3)]))
    ((change,),) = report_data([run])["changes"]
    assert change.keys() == {"data", "from", "to", "note"} and "evaluations/step-0/abacus" in change["note"]


def test_a_run_that_does_not_say_where_its_answers_are_is_shown_without_their_difference(run):
    older = [{k: v for k, v in evaluation_row(step).items() if k != "answers"} for step in (0, 3)]
    (run / "eval.json").write_text(json.dumps(older))
    data = report_data([run])
    assert "an older version wrote it" in data["changes"][0][0]["note"]
    assert [row["at"]["step"] for row in data["runs"][0]["evaluations"]] == [0, 3]


def test_what_json_has_not_is_told_in_words(run):
    (run / "config.toml").write_text(CONFIG + "day = 2026-11-28\nfar = inf\nlist = [nan]\n")
    assert report_of(run) is None
    (run / "metrics.jsonl").write_text(json.dumps(metrics_row(1, entropy=float("nan"))) + "\n")
    assert report_of(run) is None


def test_a_fault_of_the_report_itself_is_told_at_the_end_of_a_run(run, monkeypatch):
    monkeypatch.setattr("contrapose.evaluate.report.page", lambda data: 1 / 0)
    assert report_of(run).startswith("ZeroDivisionError: division by zero: no report was written")


@pytest.mark.parametrize("name", ["[/b]o", "[red]x[x]", ":zzz:"])  # the first in a folder called [
def test_a_path_is_printed_as_it_is(run, tmp_path, monkeypatch, capsys, name):
    (tmp_path / "[").mkdir()
    assert contrapose(monkeypatch, "report", run, "--out", tmp_path / f"{name}.html") == 0
    assert capsys.readouterr().out == f"{tmp_path / name}.html\n"


def test_what_excludes_itself_is_one_line(run, tmp_path, monkeypatch, capsys):
    assert contrapose(monkeypatch, "report", run, "--live", "--out", tmp_path / "x.html") == 2
    assert "--out, --live and --figures: give one of them" in capsys.readouterr().err
    assert contrapose(monkeypatch, "report", run, "--port", 8000) == 2
    assert "--port: give --live with it" in capsys.readouterr().err


def test_figures_without_matplotlib_are_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert contrapose(monkeypatch, "report", run, "--figures", tmp_path / "figures") == 2
    assert "pip install 'contrapose[figures]'" in capsys.readouterr().err


def test_several_runs_have_their_page_where_it_was_asked_for(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = write(tmp_path / "other", [group_row(1, "b")])
    assert contrapose(monkeypatch, "report", run, other) == 0
    assert capsys.readouterr().out == f"{REPORT}\n"
    assert (tmp_path / REPORT).exists()


def test_a_page_is_whole_or_as_it_was(run, tmp_path):
    write_report([run], tmp_path / "page.html")
    before = (tmp_path / "page.html").read_bytes()
    (run / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ContraposeError):
        write_report([run], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == before
