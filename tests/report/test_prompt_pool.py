"""What became of the prompts, from the ledger: counted by hand here."""

import json

import pytest

from contrapose.report.pool import BINS, pool
from contrapose.types import ContraposeError
from run_written import ledger_row

ROWS = [
    ledger_row(1, "a", "too_hard", 0.0),
    ledger_row(1, "b", "train", 0.5),
    ledger_row(1, "c", "train", 0.5, surplus=True),
    ledger_row(2, "a", "too_hard", 0.0),
    ledger_row(2, "b", "mastered", 1.0),
    ledger_row(3, "a", "train", 0.25),
    ledger_row(3, "d", "too_easy", 0.75),
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_fates_are_counted_by_step(run):
    found = pool(run, most=10, listed=10)
    assert found["spans"] == [(1, 1), (2, 2), (3, 3)]
    assert found["fates"] == {
        "trained": [1, 0, 1],
        "surplus": [1, 0, 0],
        "too_hard": [1, 1, 0],
        "too_easy": [0, 0, 1],
        "mastered": [0, 1, 0],
    }
    assert (found["prompts"], found["groups"]) == (4, 7)


def test_many_steps_are_counted_by_span(run):
    found = pool(run, most=2, listed=10)
    assert found["spans"] == [(1, 2), (3, 3)]
    assert found["fates"]["too_hard"] == [2, 0]
    assert [sum(counts) for counts in found["rho"]["counts"]] == [5, 2]


def test_each_positive_ratio_has_its_bar(run):
    rho = pool(run, most=1, listed=10)["rho"]
    assert dict(zip(rho["bars"], rho["counts"][0], strict=True)) == {"0": 2, "0.25": 1, "0.5": 2, "0.75": 1, "1": 1}


def test_many_positive_ratios_share_bars(run):
    ratios = [i / 32 for i in range(33)]
    rows = [ledger_row(1, str(rho), "train", rho) for rho in ratios]
    (run / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rho = pool(run, most=1, listed=10)["rho"]
    found = dict(zip(rho["bars"], rho["counts"][0], strict=True))
    assert len(found) == BINS + 1
    assert sum(found.values()) == 33
    assert found["1"] == 1 and found["0.95 to 1"] == sum(0.95 <= r < 1 for r in ratios)


def test_mastered_prompts_stand_newest_first_and_hard_ones_most_often_first(run):
    found = pool(run, most=10, listed=10)
    told = {"prompt": "a", "drawn": 3, "times": 2, "last_step": 3, "last_rho": 0.25, "tokens": 18}
    assert found["too_hard"] == {"rows": [told], "of": 1}
    assert [row["prompt"] for row in found["mastered"]["rows"]] == ["b"]
    rows = [ledger_row(step, f"p{step}", "mastered", 1.0) for step in (1, 2, 3)]
    (run / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = pool(run, most=10, listed=2)["mastered"]
    assert ([row["prompt"] for row in found["rows"]], found["of"]) == (["p3", "p2"], 3)


def test_a_prompt_that_was_readmitted_is_mastered_no_more(run):
    with (run / "ledger.jsonl").open("a") as file:
        file.write('{"step": 3, "prompt": "b", "fate": "readmitted"}\n')
    found = pool(run, most=10, listed=10)
    assert found["mastered"] == {"rows": [], "of": 0}
    assert (found["groups"], found["fates"]["mastered"]) == (7, [0, 1, 0])  # what was drawn stays


def test_a_fate_that_nobody_knows_is_one_line(run):
    (run / "ledger.jsonl").write_text(json.dumps(ledger_row(1, "a", "eaten")) + "\n")
    with pytest.raises(ContraposeError, match=r"not written by this version: ledger\.jsonl:1: fate"):
        pool(run, most=10, listed=10)
