"""maj@n: what votes for what, and what a tie is worth."""

from itertools import permutations

import pytest

from contrapose.evaluate.majority import majority
from contrapose.types import Group, Prompt, Verdict
from contrapose.verify.grading import Grading, grading_of
from contrapose.verify.verifier import Verifier
from train_scripted import at_once, rollout


def share(answers, gold="7", grading=Grading()):
    verifier = Verifier("binary", grading=grading)
    texts = ["no box" if answer is None else grading.stating(answer) for answer in answers]
    [group] = verifier.groups([at_once(Prompt("p", "", gold), [rollout(text) for text in texts])], len(texts))
    return majority(group, verifier)


@pytest.mark.parametrize(
    ("answers", "worth"),
    [
        (["7"], 1),
        (["8"], 0),
        ([None], 0),
        (["7", None, None, None], 1),  # what is missing does not vote
        (["7", "8", "9"], 1 / 3),
        (["7", "7", "8", "8", "9"], 1 / 2),
        (["7", "7", "8", "9", "10"], 1),
        (["7", "8", "8"], 0),
        (["7", "7.0", r"\frac{14}{2}", "8", "8"], 1),  # all that is right votes for one answer
        (["7", "7", "0.5", r"\frac12", r"\frac{2}{4}"], 0),  # and so does what is equally wrong
        (["7", "7", "0.5", r"\frac12", "0.51"], 1 / 2),
        (["7", "x+1", "1+x"], 0),
        (["7", r"\frac{1}", r"\frac{1}"], 0),  # what cannot be read votes for its text
        (["7", "7", r"\frac{1}", r"\frac{2}"], 1),
    ],
)
def test_the_worth_of_a_vote(answers, worth):
    assert share(answers) == worth


def test_the_order_of_answers_does_not_matter():
    answers = ["7", "7", "0.5", "8", r"\frac12", "8", None]
    assert share(answers) == share(answers[::-1]) == 1 / 3


def test_nor_does_it_where_equality_is_not_transitive():
    """Within a tolerance the first is equal to the second and this to the third, but not the first to the third."""
    near = grading_of("math", "boxed", {"tolerance": 0.01})
    orders = permutations(["1.0", "1.009", "1.018"])
    assert len({share(["7", "7", *others], grading=near) for others in orders}) == 1


def test_other_domains_compare_texts():
    """Their gold answers are no answers: a pattern would match whatever it likes."""
    assert share(["a", "b.", "bc"], "a", Grading("regex", "text")) == 1 / 3
    assert share(["a", "b", "b"], "a", Grading("exact", "text")) == 0


def test_an_answer_that_nobody_saw_stands_for_itself():
    """What was beyond the grader's limits is no missing answer, and two of them need not be the same."""
    statuses = ["correct", "timeout", "timeout"]
    verdicts = tuple(Verdict(0, s == "correct", "7" if s == "correct" else None, s, 0) for s in statuses)
    assert majority(Group(Prompt("p", "", "7"), (rollout(),) * 3, verdicts), Verifier("binary")) == 1 / 3


def test_a_comparison_beyond_the_graders_limits_is_made_once(monkeypatch):
    asked = []

    class Slow(Verifier):
        def grade(self, gold, text):
            asked.append((gold, text))
            return Verdict(0, False, None, "timeout", 0)

    verifier = Slow("binary")
    texts = [rf"\boxed{{{n}}}" for n in (7, 1, 2, 3, 4)]
    [group] = verifier.groups([at_once(Prompt("p", "", "7"), [rollout(text) for text in texts])], 5)
    assert majority(group, verifier) == 1 / 5
    assert len(asked) == 3
