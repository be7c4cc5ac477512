"""What is right in each domain, where an answer stands, and mistakes in the settings."""

import json

import pytest

from contrapose.types import ContraposeError
from contrapose.verify.conventions import Conventions
from contrapose.verify.grading import DOMAINS, PROBES, Grading, grader, grading_of, probes
from contrapose.verify.processes import Limits
from contrapose.verify.workers import Workers


def grade(domain, gold, text, answer="boxed"):
    return grader(Grading(domain, answer))(gold, text)


@pytest.mark.parametrize(
    ("domain", "gold", "answer", "status"),
    [
        ("exact", "abc", "abc", "correct"),
        ("exact", " abc ", "abc", "correct"),
        ("exact", "abc", "ABC", "wrong"),
        ("exact", "1", "1.0", "wrong"),
        ("exact", "a.c", "abc", "wrong"),
        ("regex", "a.c", "abc", "correct"),
        ("regex", "a.c", "a\nc", "correct"),
        ("regex", "a.c", "abcd", "wrong"),
        ("regex", "a|ab", "ab", "correct"),
        ("regex", r"\d+", "x1", "wrong"),
        ("math", "1/2", "0.5", "correct"),
        ("math", "1/2", "0.25", "wrong"),
    ],
)
def test_what_is_right(domain, gold, answer, status):
    finding = grade(domain, gold, rf"so \boxed{{{answer}}}.")
    assert (finding.status, finding.answer, finding.score) == (status, answer, float(status == "correct"))
    assert finding.note == ""


@pytest.mark.parametrize("domain", ["math", "exact", "regex", "reasoning_gym"])
@pytest.mark.parametrize("text", ["", "it is 2", r"\boxed{2", r"\boxed{}", r"\boxed{ }"])
def test_nothing_boxed_is_no_answer(domain, text):
    if domain == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    assert grade(domain, "2", text).status == "no_answer"


@pytest.mark.parametrize(
    ("where", "text", "found"),
    [
        ("boxed", r"the answer is 1, \boxed{2} or 3", "2"),
        ("boxed", "the answer is 1", None),
        ("stated", r"the answer is 1, \boxed{2} or 3", "2"),
        ("stated", "The answer is 1.", "1"),
        ("stated", "1", "1"),
        ("text", " 1 ", "1"),
        ("text", r"\boxed{1}", r"\boxed{1}"),
        ("text", "the answer is 1", "the answer is 1"),
    ],
)
def test_where_the_answer_stands(where, text, found):
    assert grade("exact", "?", text, where).answer == found


def test_a_bad_pattern_is_the_graders_fault_and_not_the_answers():
    with Workers(Grading("regex"), Limits(workers=1)) as pool:
        finding, other = pool.map([("(", r"\boxed{a}"), ("a", r"\boxed{a}")])
    assert finding.status == "crashed" and "error: missing )" in finding.note
    assert other.status == "correct"


def test_a_pattern_that_explodes_is_a_timeout_and_harms_nobody():
    pairs = [("a+", "a" * 9), ("(a+)+$", "a" * 40 + "b"), ("a+", "b")] * 3
    with Workers(Grading("regex", "text"), Limits(seconds=2, cpu_seconds=0.3, workers=2)) as pool:
        assert [f.status for f in pool.map(pairs)] == ["correct", "timeout", "wrong"] * 3


# --- functions of one's own ---


def test_a_function_sees_the_whole_response():
    finding = grade("grader_functions:echo", r"so \boxed{2}.", r"so \boxed{2}.")
    assert (finding.status, finding.answer, finding.score) == ("correct", "2", 1.0)
    assert grade("grader_functions:echo", "2", r"so \boxed{2}.").status == "wrong"


@pytest.mark.parametrize(
    ("text", "status", "score"),
    [("right", "correct", 1.0), ("wrong", "wrong", 0.0), ("score 0.25", "wrong", 0.25), ("score 1", "correct", 1.0)],
)
def test_a_function_returns_a_bool_or_a_score(text, status, score):
    finding = grade("grader_functions:act", "", text)
    assert (finding.status, finding.score, finding.answer) == (status, score, None)


@pytest.mark.parametrize("value", ["nan", "text", "two", "negative", "none", "list"])
def test_what_is_no_score_is_refused(value):
    with pytest.raises((ValueError, TypeError)):
        grade("grader_functions:act", "", f"return {value}")


# --- reasoning_gym ---

TASKS = ["basic_arithmetic", "chain_sum", "countdown", "letter_counting", "simple_equations", "word_sorting"]


@pytest.mark.parametrize("task", TASKS)
def test_a_gym_task_is_scored_by_itself(task):
    gym = pytest.importorskip("reasoning_gym")
    for entry in gym.create_dataset(task, size=3, seed=1):
        answer = entry["metadata"]["expression"] if task == "countdown" else entry["answer"]
        gold = json.dumps(entry)
        right = grade("reasoning_gym", gold, rf"so \boxed{{{answer}}}")
        wrong = grade("reasoning_gym", gold, r"so \boxed{nonsense}")
        assert (right.status, right.score, right.answer) == ("correct", 1.0, answer)
        scorer = gym.get_score_answer_fn(task)
        assert (wrong.status, wrong.score) == ("wrong", scorer("nonsense", entry))


def test_a_gym_task_may_give_partial_credit():
    gym = pytest.importorskip("reasoning_gym")
    entry = gym.create_dataset("basic_arithmetic", size=1, seed=1)[0]
    text = f"it is {entry['answer']} apples"
    expected = gym.get_score_answer_fn("basic_arithmetic")(text, entry)
    finding = grade("reasoning_gym", json.dumps(entry), rf"\boxed{{{text}}}")
    assert 0 < expected < 1, "this entry proves nothing"
    assert (finding.status, finding.score) == ("wrong", expected)


def test_a_gym_grader_in_its_own_process():
    gym = pytest.importorskip("reasoning_gym")
    entries = list(gym.create_dataset("chain_sum", size=5, seed=1))
    with Workers(Grading("reasoning_gym"), Limits(workers=1)) as pool:
        pool.check()
        pairs = [(json.dumps(entry), rf"\boxed{{{entry['answer']}}}") for entry in entries]
        assert {f.status for f in pool.map(pairs)} == {"correct"}
        assert pool.submit('{"metadata": {"source_dataset": "no_such_task"}}', r"\boxed{1}").result(30).status == (
            "crashed"
        )
        assert pool.submit("not json", r"\boxed{1}").result(30).status == "crashed"


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("mth", "boxed", {}), r"verify\.domain: 'mth' is unknown \(did you mean 'math'\?\)"),
        (("reasoning-gym", "boxed", {}), "did you mean 'reasoning_gym'"),
        (("quantum", "boxed", {}), "one of: math, exact, regex, reasoning_gym"),
        (("", "boxed", {}), "one of: math"),
        (("math", "boxed", {"tolerence": 1}), r"verify\.conventions\.tolerence: no such key.*'tolerance'"),
        (("math", "boxed", {"zzz": 1}), r"verify\.conventions\.zzz: no such key"),
        (("math", "boxed", {"tolerance": "1e-3"}), r"tolerance: expected a number from 0 on, found '1e-3'"),
        (("math", "boxed", {"tolerance": -1e-3}), "tolerance: expected a number from 0 on, found -0.001"),
        (("math", "boxed", {"tolerance": float("nan")}), "tolerance: expected a number"),
        (("math", "boxed", {"tolerance": True}), "tolerance: expected a number from 0 on, found True"),
        (("math", "boxed", {"percent": 1}), "percent: expected true or false, found 1"),
        (("math", "boxed", {"percent": "yes"}), "percent: expected true or false, found 'yes'"),
        (("math", "boxed", {"units": []}), "units: expected true or false"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_that_names_the_nearest(settings, message):
    with pytest.raises(ContraposeError, match=message) as caught:
        grading_of(*settings)
    assert "\n" not in str(caught.value)


def test_settings_become_a_grading():
    assert grading_of("math", "boxed", {}) == Grading()
    changed = grading_of("grader_functions:act", "text", {"tolerance": 1, "percent": False})
    assert changed == Grading("grader_functions:act", "text", Conventions(tolerance=1, percent=False))


def test_conventions_reach_the_grader():
    pair = ("0.333", r"\boxed{0.3331}")
    assert grader(Grading())(*pair).status == "wrong"
    assert grader(Grading(conventions=Conventions(tolerance=1e-3)))(*pair).status == "correct"


@pytest.mark.parametrize("where", ["boxed", "stated", "text"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_each_domain_passes_its_self_test(domain, where):
    if domain == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    grading = Grading(domain, where)
    assert {status for _, _, status in probes(grading)} == {"correct", "wrong"}
    for gold, text, status in probes(grading):
        assert grader(grading)(gold, text).status == status, (gold, text)


def test_every_domain_has_a_self_test():
    assert PROBES.keys() == DOMAINS.keys()
