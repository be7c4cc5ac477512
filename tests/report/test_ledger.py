"""The ledger adds up what a run wrote, and stops where a budget ends."""

import json

import pytest

from contrapose.cli import main
from contrapose.report.ledger import ledger
from contrapose.types import ContraposeError


def row(step, kept, surplus, hard, easy, mastered, **more):
    filtered = {"too_hard": hard, "too_easy": easy, "mastered": mastered}
    tokens = {"generated_tokens": kept + surplus + hard + easy + mastered, "kept_tokens": kept}
    rest = {"cancelled_tokens": 3, "saved_tokens": 1.5, "drawn_groups": 10, "accepted_groups": 4}
    return {"step": step, **tokens, "surplus_tokens": surplus, "filtered_tokens": filtered, **rest, **more}


ROWS = [row(1, 40, 10, 20, 20, 10), row(2, 50, 0, 10, 30, 10), row(3, 60, 0, 0, 0, 240, accepted_groups=0)]
TESTS = [
    {"step": step, "split": split, "data": "abacus", "accuracy": {"value": value, "low": 0, "high": 1}}
    for step, split, value in ((0, "test", 0.3), (2, "validation", 0.9), (2, "test", 0.5), (3, "test", 0.6))
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (tmp_path / "eval.json").write_text(json.dumps(TESTS))
    return tmp_path


def test_everything_generated_is_accounted_for(run):
    found = ledger(run)
    assert found.spent == {"kept": 150, "surplus": 10, "too_hard": 30, "too_easy": 50, "mastered": 260}
    assert found.generated == sum(found.spent.values()) == 500
    assert (found.steps, found.drawn, found.accepted, found.cancelled, found.saved) == (3, 30, 8, 9, 4.5)
    assert found.per_accepted == 62.5
    assert {data: e["accuracy"]["value"] for data, e in found.tests.items()} == {"abacus": 0.6}


@pytest.mark.parametrize(
    ("budget", "steps", "accuracy"), [(99, 0, 0.3), (100, 1, None), (199, 1, None), (200, 2, 0.5), (500, 3, 0.6)]
)
def test_a_budget_ends_before_the_step_that_exceeds_it(run, budget, steps, accuracy):
    found = ledger(run, budget)
    assert found.steps == steps
    assert [e["accuracy"]["value"] for e in found.tests.values()] == ([] if accuracy is None else [accuracy])
    assert found.generated <= budget
    assert found.per_accepted == (found.generated / found.accepted if steps else None)


def test_a_row_that_is_being_written_is_not_read(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "gener')
    assert ledger(run).steps == 3


def test_every_test_set_is_named(run):
    two = [*TESTS, {**TESTS[-1], "data": "other", "accuracy": {"value": 0.1}}]
    (run / "eval.json").write_text(json.dumps(two))
    assert {data: e["accuracy"]["value"] for data, e in ledger(run).tests.items()} == {"abacus": 0.6, "other": 0.1}
    assert list(ledger(run, 200).tests) == ["abacus"]


@pytest.mark.parametrize("row", ["[1]", "{}", '{"generated_tokens": "many"}'])
def test_what_another_version_wrote_is_one_line(run, row):
    (run / "metrics.jsonl").write_text(row + "\n")
    with pytest.raises(ContraposeError, match=f"{run}: not written by this version"):
        ledger(run)


def test_runs_are_compared_at_the_cost_of_the_cheaper_one(run, tmp_path_factory, monkeypatch, capsys):
    """Two runs side by side, then the first steps of both within the tokens of the one that cost less."""
    cheap = tmp_path_factory.mktemp("cheap")
    (cheap / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS[:2]))
    monkeypatch.setattr("sys.argv", ["contrapose", "ledger", str(run), str(cheap)])
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as exit_:
        main()
    assert not exit_.value.code
    whole, equal = capsys.readouterr().out.split("at equal cost: the steps within 200 tokens")
    cells = [
        {
            row[0].strip(): [cell.strip() for cell in row[1:]]
            for line in part.splitlines()
            if len(row := line.strip("│┃ ").split("│")) == 3
        }
        for part in (whole, equal)
    ]
    assert [c["tokens generated"] for c in cells] == [["500", "200"], ["200", "200"]]
    assert [c["steps"] for c in cells] == [["3", "2"], ["2", "2"]]
    assert [c["accuracy on abacus"] for c in cells] == [["0.600", "-"], ["0.500", "-"]]
    assert "eval.every" in equal


@pytest.mark.parametrize("broken", ["nothing", "metrics.jsonl", "eval.json"])
def test_what_is_no_run_is_refused(run, broken):
    folder = run
    if broken == "nothing":
        folder = run / "elsewhere"
    else:
        (run / broken).write_text("{\n")
    with pytest.raises(ContraposeError, match=f"{folder}: not the folder of a run"):
        ledger(folder)
