"""Columns of a run: what the rows hold, what had been spent by then, and every so many of very many."""

import json
import math

import pytest

from contrapose.report.charts import SECTIONS, drawn, meaning_of, unit_of
from contrapose.report.metrics import STEP, UPDATE
from contrapose.report.series import columns, rounded
from contrapose.types import ContraposeError
from run_written import metrics_row, update_row, write


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", [])


def rewrite(run, rows):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_every_series_is_a_column_of_what_the_rows_hold(run):
    found = columns(run, 100)
    rows = [metrics_row(step) for step in (1, 2, 3)]
    assert (found["steps"], found["every"]) == (3, 1)
    for name, values in found["series"].items():
        head, _, part = name.partition(".")
        expected = [r["updates"][0][part] if head == "updates" else r[head][part] if part else r[name] for r in rows]
        assert values == pytest.approx(expected, rel=1e-6), name


def test_what_was_spent_adds_up(run):
    axes = columns(run, 100)["axes"]
    assert axes["step"] == [1, 2, 3]
    assert axes["tokens"] == [10, 30, 60]
    assert axes["rollouts"] == [4 + 10, 8 + 30, 12 + 60]  # verdicts and cancelled ones
    assert axes["seconds"] == pytest.approx([1.007, 3.014, 6.021])


def test_of_an_update_that_was_skipped_nothing_is_averaged(run):
    skipped = {**dict.fromkeys(UPDATE), "skipped": "grad_norm"}
    rewrite(run, [metrics_row(1, updates=[update_row(1), skipped, update_row(3)]), metrics_row(2, updates=[skipped])])
    assert columns(run, 100)["series"]["updates.J"] == [2.0, None]


def test_of_many_steps_every_so_many_are_kept_and_the_last(run):
    rewrite(run, [metrics_row(step) for step in range(1, 12)])
    found = columns(run, 4)
    assert (found["steps"], found["every"], found["axes"]["step"]) == (11, 3, [3, 6, 9, 11])
    assert found["axes"]["tokens"][-1] == sum(10 * step for step in range(1, 12))
    assert all(len(values) == 4 for values in found["series"].values())


def test_what_was_spent_by_a_step_that_is_not_drawn_is_known(run):
    rewrite(run, [metrics_row(step) for step in range(1, 12)])
    found = columns(run, 4, {4, 5, 99})["marks"]
    assert {step: at["tokens"] for step, at in found.items()} == {0: 0, 4: 100, 5: 150}
    assert found[5]["step"] == 5


def test_alarms_are_told_with_their_step(run):
    rewrite(run, [metrics_row(1), metrics_row(2, alarms=["a", "b"])])
    assert columns(run, 100)["alarms"] == [(2, "a"), (2, "b")]


@pytest.mark.parametrize("line", ["[1]", "{}", '{"step": "1"}', '{"step": 1, "seconds": null}'])
def test_another_versions_row_is_one_line(run, line):
    (run / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(ContraposeError, match=r"not written by this version: metrics\.jsonl:1") as caught:
        columns(run, 100)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.23456789, 1.234568),
        (1e-9, 1e-9),
        (12345678.9, 12345680.0),
        (5.0, 5),
        (7, 7),
        (None, None),
        ("x", None),
        (math.nan, None),
        (-math.inf, None),
    ],
)
def test_numbers_keep_seven_digits(value, expected):
    found = rounded(value)
    assert found == expected
    assert not (isinstance(found, float) and found.is_integer() and abs(found) < 1e7)


def test_what_is_drawn_together_has_one_unit_and_every_name_a_meaning():
    for chart in (chart for charts in SECTIONS.values() for chart in charts):
        assert {unit_of(name) for name in chart.series} == {chart.unit}
        assert chart.unit
    assert len({meaning_of(name) for name in drawn()}) == len(drawn())
    assert all(math.prod(map(len, (unit_of(n), meaning_of(n)))) for n in drawn())


def test_every_number_of_a_step_is_drawn_but_those_that_others_hold():
    left = {name for name in STEP if not any(series.partition(".")[0] == name for series in drawn())}
    totals = {"step", "seconds", "alarms", "rounds", "verdicts"}
    assert left == totals | {"cancelled_rollouts", "cancelled_tokens", "saved_tokens"}
