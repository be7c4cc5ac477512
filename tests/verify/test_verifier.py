"""Verdicts: what is true decides the status, a scheme only what it is worth."""

import pytest

from contrapose.types import Prompt, Rollout
from contrapose.verify.verifier import SCHEMES, Verifier, overlong_punishment

PROMPT = Prompt("p", "1+1=", "2")


def rollout(text, finished="stop"):
    tokens = tuple(range(len(text)))
    return Rollout(tokens, (1,) * len(tokens), (-1.0,) * len(tokens), text, finished)


@pytest.mark.parametrize(
    ("scheme", "correct", "wrong", "no_answer"),
    [("format", 1.0, 0.1, 0.0), ("binary", 1.0, 0.0, 0.0), ("sign", 1.0, -1.0, -1.0)],
)
def test_rewards_of_each_scheme(scheme, correct, wrong, no_answer):
    verifier = Verifier(scheme)
    assert verifier.grade("2", r"\boxed{2}").reward == correct
    assert verifier.grade("2", r"\boxed{3}").reward == wrong
    assert verifier.grade("2", "2").reward == no_answer
    assert SCHEMES.keys() == {"format", "binary", "sign"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("text", "status", "boxed"),
    [
        (r"1+1=2;\boxed{2}", "correct", "2"),
        (r"\boxed{3} no, \boxed{2.0}", "correct", "2.0"),
        (r"\boxed{ \frac{4}{2} }", "correct", r"\frac{4}{2}"),
        (r"\boxed{2} no, \boxed{3}", "wrong", "3"),
        (r"\boxed{two}", "wrong", "two"),
        ("it is 2", "no_answer", None),
        (r"\boxed{2", "no_answer", None),
        (r"\boxed{}", "no_answer", ""),
        (r"\boxed{2} \boxed{ }", "no_answer", ""),
        ("", "no_answer", None),
    ],
)
def test_the_status_and_the_box_are_the_same_under_every_scheme(scheme, text, status, boxed):
    verdict = Verifier(scheme)(PROMPT, rollout(text))
    assert (verdict.status, verdict.boxed, verdict.correct) == (status, boxed, status == "correct")


def test_a_call_judges_the_rollout_by_the_prompts_answer():
    verdict = Verifier("format")(PROMPT, rollout(r"\boxed{2}"))
    other = Verifier("format")(Prompt("q", "1+2=", "3"), rollout(r"\boxed{2}"))
    assert (verdict.correct, verdict.reward) == (True, 1.0)
    assert (other.correct, other.reward, other.status) == (False, 0.1, "wrong")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_truncated_right_answer_is_right_unless_the_verifier_is_told_otherwise(scheme):
    cut = rollout(r"\boxed{2} and", "length")
    kept = Verifier(scheme)(PROMPT, cut)
    assert (kept.correct, kept.status, kept.reward) == (True, "correct", SCHEMES[scheme].correct)
    refused = Verifier(scheme, truncated_is_wrong=True)(PROMPT, cut)
    assert (refused.correct, refused.status, refused.reward) == (False, "wrong", SCHEMES[scheme].wrong)
    assert refused.boxed == "2"


def test_truncation_changes_nothing_else():
    strict, lenient = Verifier("format", truncated_is_wrong=True), Verifier("format")
    assert strict(PROMPT, rollout(r"\boxed{2}")).status == "correct"
    for text in (r"\boxed{3}", r"\boxed{", "", "2"):
        ours, theirs = strict(PROMPT, rollout(text, "length")), lenient(PROMPT, rollout(text, "length"))
        assert (ours.reward, ours.correct, ours.status) == (theirs.reward, theirs.correct, theirs.status)


@pytest.mark.parametrize(
    ("length", "punishment"),
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (20481, -1.0), (99999, -1.0)],
)
def test_the_overlong_punishment_has_a_slope_and_a_floor(length, punishment):
    """DAPO's published 20480 with a cache of 4096."""
    assert overlong_punishment(length, 20480, 4096) == punishment


@pytest.mark.parametrize("scheme", SCHEMES)
def test_length_costs_reward_and_not_truth(scheme):
    text = r"\boxed{2}"  # nine tokens
    within, long = (Verifier(scheme, limit=limit, cache=4)(PROMPT, rollout(text)) for limit in (13, 10))
    assert within.reward == SCHEMES[scheme].correct
    assert long.reward == SCHEMES[scheme].correct - (len(text) - 6) / 4
    assert (long.correct, long.status) == (True, "correct")
    assert Verifier(scheme, limit=10)(PROMPT, rollout(text)).reward == SCHEMES[scheme].correct


def test_seconds_are_measured():
    verdict = Verifier().grade(r"\sqrt{8}", r"\boxed{2\sqrt{2}}")
    assert verdict.correct
    assert verdict.seconds > 0


def test_an_unknown_scheme_does_not_grade():
    with pytest.raises(KeyError):
        Verifier("generous").grade("2", r"\boxed{2}")


@pytest.mark.parametrize(
    "text",
    [r"\boxed{" + "9" * 100_000 + "}", "\\boxed{" * 100_000, "\x00\ud800\\boxed{\ud800}"],
    ids=["digits", "boxes", "surrogates"],
)
def test_hostile_text_is_not_correct(text):
    assert not Verifier().grade("2", text).correct
