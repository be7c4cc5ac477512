"""Which groups a page has: all that fit, else so many of so many steps, by the rule that it states."""

import json
from itertools import pairwise

import pytest

from contrapose.report.groups import FEW_STEPS, LONG, _spread, sample
from contrapose.types import ContraposeError
from run_written import group_row, in_detail, write

STEPS, EACH = 60, 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """60 steps of 20 groups, texts as long as their step is late; the 13th of each is written token by token."""
    rows = [group_row(s, f"{s}/{i}", "x" * 10 * s) for s in range(1, STEPS + 1) for i in range(EACH)]
    rows = [in_detail(row) if row["prompt"].endswith("/12") else row for row in rows]
    return write(tmp_path_factory.mktemp("groups") / "run", rows, STEPS)


def test_all_groups_are_there_where_they_fit(run):
    found = sample(run, STEPS, STEPS * EACH, 10_000_000)
    assert found["rule"] == "all 1,200 groups"
    assert [g["prompt"] for g in found["groups"]] == [f"{s}/{i}" for s in range(1, STEPS + 1) for i in range(EACH)]
    assert [g["text"][0] for g in found["groups"][::EACH]] == ["x" * 10 * s for s in range(1, STEPS + 1)]


@pytest.mark.parametrize("budget", [30_000, 100_000, 400_000])
def test_where_not_all_fit_steps_are_spread_evenly_and_detailed_groups_come_first(run, budget):
    found = sample(run, STEPS, STEPS * EACH, budget)
    steps = sorted({g["step"] for g in found["groups"]})
    assert len(json.dumps(found["groups"])) < 1.2 * budget
    assert len(steps) >= FEW_STEPS and steps[0] == 1 and steps[-1] == STEPS
    gaps = {b - a for a, b in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 1
    assert all(any("token_credit" in g for g in found["groups"] if g["step"] == step) for step in steps)
    assert f"{len(found['groups'])} of 1,200 groups" in found["rule"]
    assert f"of each of {len(steps)} of {STEPS} steps" in found["rule"]


def test_a_group_that_is_too_large_for_its_share_is_shown_without_its_tokens(tmp_path):
    rows = [in_detail(group_row(s, f"{s}/{i}"), [["token"] * 1000, ["b"]]) for s in (1, 2) for i in (0, 1)]
    run = write(tmp_path / "run", rows, 2)
    found = sample(run, 2, 4, 8_000)
    assert [g["prompt"] for g in found["groups"]] == ["2/0"]  # no more than one can be afforded
    assert "token_credit" not in found["groups"][0] and set(found["groups"][0]["others"]) == {"grpo", "conspo"}
    assert len(json.dumps(found["groups"])) < 8_000
    assert found["rule"].startswith("1 of 4 groups: up to 1 of each of 1 of 2 steps")


def test_a_step_is_found_wherever_it_stands(run):
    """By halving: at every budget the groups of a step are those that the file has of it."""
    found = sample(run, STEPS, STEPS * EACH, 100_000)["groups"]
    assert all(g["prompt"].startswith(f"{g['step']}/") for g in found)
    assert sample(run, 1, STEPS * EACH, 10_000_000)["groups"][-1]["prompt"] == "1/19"


def test_a_row_that_is_being_written_is_not_read(tmp_path):
    run = write(tmp_path / "run", [group_row(1, "a"), group_row(2, "b")], 2)
    with (run / "rollouts.jsonl").open("a") as file:
        file.write('{"step": 2, "prompt": "c", "prob')
    assert [g["prompt"] for g in sample(run, 2, 2, 10**6)["groups"]] == ["a", "b"]


def test_a_run_without_groups_has_none(tmp_path):
    assert sample(write(tmp_path / "run", [], 0), 0, 0, 100)["groups"] == []
    (tmp_path / "run" / "rollouts.jsonl").unlink()
    assert sample(tmp_path / "run", 0, 0, 100)["groups"] == []


def test_a_group_is_told_by_columns_and_rounded(tmp_path):
    row = in_detail(group_row(1, "a"))
    row["rollouts"][0]["credit"] = 0.123456789
    (group,) = sample(write(tmp_path / "run", [row]), 3, 1, 10**6)["groups"]
    assert group["credit"] == [0.1234568, -0.25]
    assert group["p_positive"] == [0.25, None]
    assert group["correct"] == [True, False]
    assert group["others"] == {"grpo": [pytest.approx(0.06), pytest.approx(-0.06)], "conspo": [1.5, 1.5]}
    assert group["token_others"]["conspo"] == [0.5, 0.5]  # the same for all tokens: said once
    assert group["token_credit"] == [[0.01, 0.02, 0.03], [-0.01, -0.02, -0.03]]


def test_of_a_long_group_other_objectives_are_only_summed(tmp_path):
    pieces = [["a"] * LONG, ["b"]]
    (group,) = sample(write(tmp_path / "run", [in_detail(group_row(1, "a"), pieces)]), 3, 1, 10**8)["groups"]
    assert group["token_others"] == {} and set(group["others"]) == {"grpo", "conspo"}
    assert len(group["token_credit"][0]) == LONG


def test_a_group_that_was_not_trained_on_has_no_credit(tmp_path):
    (group,) = sample(write(tmp_path / "run", [group_row(1, "a", fate="too_hard")]), 3, 1, 10**6)["groups"]
    assert "credit" not in group and group["fate"] == "too_hard"


def test_half_of_a_character_is_replaced(tmp_path):
    (group,) = sample(write(tmp_path / "run", [group_row(1, "a", "\ud83d|\U0001f600|\x00")]), 3, 1, 10**6)["groups"]
    assert group["text"] == ["?|\U0001f600|\x00"] * 2


@pytest.mark.parametrize("line", ["{}", '{"step": 1, "prompt": 2}', '{"step": 1, nonsense', "null"])
def test_what_another_program_wrote_is_one_line(tmp_path, line):
    run = write(tmp_path / "run", [])
    (run / "rollouts.jsonl").write_text(line + "\n")
    with pytest.raises(ContraposeError, match="not") as caught:
        sample(run, 1, 1, 10**6)
    assert "\n" not in str(caught.value) and "rollouts.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("first", "last", "count", "expected"),
    [(1, 5, 5, [1, 2, 3, 4, 5]), (1, 9, 3, [1, 5, 9]), (0, 4, 1, [4]), (0, 0, 1, [0]), (0, -1, 0, [])],
)
def test_numbers_are_spread_evenly(first, last, count, expected):
    assert _spread(first, last, count) == expected
