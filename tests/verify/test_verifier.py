"""Verdicts: what is true decides the status, a scheme only what it is worth."""

import dataclasses
from concurrent.futures import wait

import pytest

from contrapose.types import FAULTS, ContraposeError, Prompt, Rollout
from contrapose.verify.conventions import Conventions
from contrapose.verify.grading import PROBES, Finding, Grading
from contrapose.verify.processes import GraderError, Limits
from contrapose.verify.verifier import SCHEMES, Verifier, overlong_punishment
from contrapose.verify.workers import Workers, shared
from train_scripted import at_once

PROMPT = Prompt("p", "1+1=", "2")
ACT = {"grading": Grading("grader_functions:act"), "limits": Limits(seconds=2, cpu_seconds=0.7, memory_gib=0.125)}


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


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("status", ["wrong", "unparsed", *FAULTS])
def test_whatever_else_becomes_of_an_answer_is_worth_a_wrong_one(scheme, status):
    """Nobody escapes being a negative by writing hostile text, and nobody is rewarded for it."""
    verdict = Verifier(scheme).verdict(Finding(status, "x"))
    assert (verdict.status, verdict.boxed, verdict.correct) == (status, "x", False)
    assert verdict.reward == SCHEMES[scheme].wrong


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_partial_score_is_worth_as_much_of_the_way(scheme):
    correct, wrong, _ = SCHEMES[scheme]
    for score in (0.0, 0.25, 0.5, 0.99):
        verdict = Verifier(scheme, **ACT)(PROMPT, rollout(f"score {score}"))
        assert (verdict.status, verdict.correct) == ("wrong", False)
        assert verdict.reward == pytest.approx(wrong + score * (correct - wrong))
    assert Verifier(scheme, **ACT)(PROMPT, rollout("score 1")).reward == correct


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_partial_score_that_was_cut_off_is_worth_nothing(scheme):
    verifier = Verifier(scheme, truncated_is_wrong=True, **ACT)
    assert verifier(PROMPT, rollout("score 0.5", "length")).reward == SCHEMES[scheme].wrong
    assert verifier(PROMPT, rollout("score 0.5")).reward > SCHEMES[scheme].wrong


@pytest.mark.parametrize(("text", "status"), [("spin", "timeout"), ("eat", "memory"), ("exit 1", "crashed")])
def test_a_fault_keeps_its_name_when_it_is_cut_off(text, status):
    verdict = Verifier("format", truncated_is_wrong=True, **ACT)(PROMPT, rollout(text, "length"))
    assert (verdict.status, verdict.reward) == (status, SCHEMES["format"].wrong)


def test_groups_keep_prompts_rollouts_and_verdicts_together():
    finished = [
        (Prompt(str(n), "", str(n)), tuple(rollout(rf"\boxed{{{m}}}") for m in range(n + 1))) for n in (3, 0, 5, 1)
    ]
    groups = [
        g
        for prompt, rollouts in finished
        for g in Verifier("binary").groups([at_once(prompt, rollouts)], len(rollouts))
    ]
    assert [(group.prompt, group.rollouts) for group in groups] == finished
    for group in groups:
        assert [v.boxed for v in group.verdicts] == [str(m) for m in range(len(group.rollouts))]
        assert [v.correct for v in group.verdicts] == [False] * (len(group.rollouts) - 1) + [True]
    assert list(Verifier().groups([], 8)) == []


def test_grading_goes_on_while_the_engine_samples(monkeypatch):
    """The engine waits, in the middle of its work, for the verdicts on what it has finished."""
    asked, log = [], []
    submit = Workers.submit

    def recorded(self, gold, text):
        asked.append(submit(self, gold, text))
        return asked[-1]

    monkeypatch.setattr(Workers, "submit", recorded)
    verifier = Verifier("binary", grading=Grading("exact"))

    def engine():
        for n in range(4):
            log.append(f"sample {n}")
            assert not wait(asked, 30).not_done, "nothing is graded before the engine ends"
            yield at_once(Prompt(str(n), "", str(n)), (rollout(rf"\boxed{{{n}}}"),) * 2)
        log.append("end")

    verifier.start()
    for group in verifier.groups(engine(), 2):
        log.append(f"group {group.prompt.id}")
    # a group comes out as soon as the engine has delivered another one, and never later than that
    at = {line: number for number, line in enumerate(log)}
    for n in range(4):
        assert at[f"sample {n}"] < at[f"group {n}"]
        assert n >= 2 or at[f"group {n}"] < at[f"sample {n + 2}"]
    assert [line for line in log if line.startswith("group")] == [f"group {n}" for n in range(4)]


def test_a_mistake_of_the_engine_is_not_swallowed():
    def engine():
        yield at_once(PROMPT, (rollout(r"\boxed{2}"),))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(Verifier("binary").groups(engine(), 1))


def test_no_group_comes_from_a_grader_that_cannot_grade(monkeypatch):
    monkeypatch.setitem(PROBES, "exact", ([("a", "b")], []))
    verifier = Verifier("binary", grading=Grading("exact", "text"), limits=Limits(workers=1, seconds=4))
    groups = verifier.groups([at_once(PROMPT, (rollout("2"),))] * 3, 1)
    with pytest.raises(GraderError, match="should be correct, was wrong"):
        next(groups)
    with pytest.raises(GraderError):
        verifier.grade("2", "2")
    with pytest.raises(GraderError):
        verifier(PROMPT, rollout("2"))
    verifier.workers.close()


def test_verifiers_of_the_same_settings_share_their_workers():
    one, other = Verifier("binary"), Verifier("sign", truncated_is_wrong=True, limit=9, cache=3)
    assert one.workers is other.workers is shared(Grading(), Limits())
    assert one == Verifier("binary") and hash(one) == hash(Verifier("binary"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.scheme = "sign"


SETTINGS = {
    **{"domain": "exact", "answer": "text", "conventions": {"tolerance": 0.5}},
    **{"seconds": 3.0, "cpu_seconds": 1.5, "memory_gib": 0.5, "workers": 1, "alarm": 0.01},
}


def test_a_verifier_is_configured_by_its_section():
    verifier = Verifier.configured(SETTINGS, "sign", limit=8, cache=2)
    assert verifier == Verifier(
        "sign",
        limit=8,
        cache=2,
        grading=Grading("exact", "text", Conventions(tolerance=0.5)),
        limits=Limits(seconds=3.0, cpu_seconds=1.5, memory_gib=0.5, workers=1),
    )
    with pytest.raises(ContraposeError, match="'tolerance'"):
        Verifier.configured({**SETTINGS, "conventions": {"tolerences": 0.5}}, "sign")
    with pytest.raises(ContraposeError, match="did you mean 'exact'"):
        Verifier.configured({**SETTINGS, "domain": "exactly"}, "sign")


@pytest.mark.parametrize(
    "text",
    [r"\boxed{" + "9" * 100_000 + "}", "\\boxed{" * 100_000, "\x00\ud800\\boxed{\ud800}"],
    ids=["digits", "boxes", "surrogates"],
)
def test_hostile_text_is_not_correct(text):
    assert not Verifier().grade("2", text).correct
