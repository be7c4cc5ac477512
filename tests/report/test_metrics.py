"""The legend of metrics.jsonl: every promised number is there, under one name with one meaning."""

import ast
import inspect
import re

import pytest

from contrapose.report import metrics
from contrapose.report.metrics import GROUP, STEP, TIME_FIELDS, UPDATE

PROMISED = (
    *("step", "reward_mean", "accuracy", "accepted_groups", "generated_tokens", "kept_tokens"),
    *("kl", "kl_coef", "margin", "entropy", "grad_norm", "score_gap", "logp_positive", "logp_negative"),
    *("seconds_rollout", "seconds_update", "seconds"),
)


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_key_of_a_step_is_documented(name):
    assert STEP[name].unit


def test_accuracy_is_documented_as_that_of_all_rollouts():
    assert "all rollouts drawn, before filtering" in STEP["accuracy"].meaning
    assert "all rollouts drawn, before filtering" in STEP["reward_mean"].meaning


def test_no_name_is_written_twice():
    for table in ast.walk(ast.parse(inspect.getsource(metrics))):
        if isinstance(table, ast.Dict):
            names = [ast.literal_eval(key) for key in table.keys if key is not None]
            assert len(set(names)) == len(names)


@pytest.mark.parametrize("table", [STEP, UPDATE, GROUP], ids=["STEP", "UPDATE", "GROUP"])
def test_every_name_has_a_meaning_of_its_own_on_one_line(table):
    meanings = [metric.meaning for metric in table.values()]
    assert all(meaning.strip() and "\n" not in meaning for meaning in meanings)
    assert len(set(meanings)) == len(table)
    assert all(name.replace("_", "").isalnum() for name in table)


@pytest.mark.parametrize("table", [STEP, UPDATE, GROUP], ids=["STEP", "UPDATE", "GROUP"])
def test_a_meaning_stands_alone(table):
    """It is shown without the others."""
    for name, metric in table.items():
        assert not re.match(r"its |the same|the largest of them|.*P\(the same\)|.*of them\b", metric.meaning), name


def test_a_name_in_both_tables_is_the_same_quantity():
    shared = STEP.keys() & UPDATE.keys()
    assert {"kl", "kl_coef", "margin", "score_gap", "grad_norm"} <= shared
    assert all(STEP[name].unit == UPDATE[name].unit != "" for name in shared)


def test_what_depends_on_the_clock_is_named():
    assert set(TIME_FIELDS) == {name for name in STEP if name.startswith("seconds")}
    assert not any(name.startswith("seconds") for name in UPDATE)
