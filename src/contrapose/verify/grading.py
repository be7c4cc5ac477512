"""What a worker runs: a gold answer and a response in, a finding out. One short function for each domain."""

from __future__ import annotations

import json
import math as mathematics
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Literal, NamedTuple

from contrapose.types import ContraposeError, Status, nearest
from contrapose.verify.answer import boxed, find
from contrapose.verify.conventions import Conventions
from contrapose.verify.equal import compare


class Finding(NamedTuple):
    """The verdict on one response before it is worth anything. ``score`` is 1 for what is right, and may be between 0
    and 1 in domains with partial credit; ``note`` says what went wrong with the grader, if it did."""

    status: Status
    answer: str | None = None
    score: float = 0.0
    note: str = ""
    seconds: float = 0.0


_ARITHMETIC = re.compile(r"(?:[\d\s+\-*/^(){}.$!]|\\(?:[dt]?frac|sqrt|cdot|times|left|right|pi|[!,;]))+")
Grade = Callable[[str, str], Finding]
Look = Callable[[str], str | None]


@dataclass(frozen=True)
class Grading:
    """How responses are graded.

    ``domain``: ``"math"`` (equality under ``conventions``); ``"exact"`` (the same text); ``"regex"`` (the gold is a
    pattern that the whole answer must match); ``"reasoning_gym"`` (the gold is the task's entry as JSON, and its own
    scorer decides); or ``"package.module:function"``, called with the gold and the whole response, whose result is a
    bool or a score from 0 to 1. ``answer`` tells where the answer stands: ``"boxed"``; ``"stated"``, also "the answer
    is" and its kin where nothing is boxed; ``"text"``, all of the response.
    """

    domain: str = "math"
    answer: Literal["boxed", "stated", "text"] = "boxed"
    conventions: Conventions = Conventions()

    def __post_init__(self) -> None:
        if ":" not in self.domain and self.domain not in DOMAINS:
            raise ContraposeError(f"verify.domain: {self.domain!r} is unknown{nearest(self.domain, list(DOMAINS))}")

    @property
    def golds_are_answers(self) -> bool:
        """Whether a gold is an answer itself, and not a pattern, a task's entry, or whatever a function makes of it."""
        return self.domain in ("math", "exact")

    def stating(self, answer: str) -> str:
        """A response that gives ``answer`` as it stands."""
        return answer if self.answer == "text" else rf"\boxed{{{answer}}}"

    def restating(self, gold: str) -> str:
        r"""A response that gives the gold answer in other words: a gold that does not make it right is of no use.

        The same words would be right whatever they are. Mathematics is therefore spelled so that it must be read, and
        arithmetic so that it must have a value: ``\frac{0}{0}`` has none, and a tower of powers none within limits.
        """
        if self.domain == "math":
            gold = f"{gold}+0" if _ARITHMETIC.fullmatch(gold) else rf"\text{{}}{gold}"
        return self.stating(gold)


def grading_of(domain: str, answer: str, conventions: Mapping[str, Any]) -> Grading:
    """The keys of ``[verify]`` and ``[verify.conventions]``, checked. Raises ContraposeError that names a wrong one."""
    known = {field.name: type(field.default) for field in fields(Conventions)}
    for key, value in conventions.items():
        if key not in known:
            raise ContraposeError(f"verify.conventions.{key}: no such key{nearest(key, list(known))}")
        right = isinstance(value, bool) if known[key] is bool else type(value) in (int, float) and value >= 0
        if not right:
            expected = "true or false" if known[key] is bool else "a number from 0 on"
            raise ContraposeError(f"verify.conventions.{key}: expected {expected}, found {value!r}")
    return Grading(domain, answer, Conventions(**conventions))  # type: ignore[arg-type]


def grader(grading: Grading) -> Grade:
    """The function that grades. Raises ContraposeError for a domain that cannot be imported."""
    look = LOOKS[grading.answer]
    if ":" in grading.domain:
        return partial(_by_function, _imported(grading.domain), look)
    if grading.domain == "reasoning_gym":
        _imported("reasoning_gym:get_score_answer_fn")
    return partial(_by_answer, DOMAINS[grading.domain], grading.conventions, look)


LOOKS: dict[str, Look] = {"boxed": boxed, "stated": partial(find, phrases=True), "text": str.strip}


def probes(grading: Grading) -> list[tuple[str, str, Status | None]]:
    """Gold, response and the right status of what a grader must be able to grade; None where any reply will do."""
    if ":" in grading.domain:
        return [("", "", None)]
    box = "{}" if grading.answer == "text" else r"so \boxed{{{}}}."
    right, wrong = PROBES[grading.domain]
    known: list[tuple[str, str, Status | None]] = [(gold, box.format(answer), "correct") for gold, answer in right]
    return known + [(gold, box.format(answer), "wrong") for gold, answer in wrong]


def _by_answer(
    judge: Callable[[str, str, Conventions], Any], conventions: Conventions, look: Look, gold: str, text: str
) -> Finding:
    answer = look(text)
    if not answer:
        return Finding("no_answer", answer)
    found = judge(gold, answer, conventions)
    if isinstance(found, str):
        return Finding(found, answer, float(found == "correct"))  # type: ignore[arg-type]
    return _scored(found, answer)


def _by_function(function: Callable[[str, str], Any], look: Look, gold: str, text: str) -> Finding:
    return _scored(function(gold, text), look(text))


def _scored(score: Any, answer: str | None) -> Finding:
    score = float(score)
    if mathematics.isnan(score) or not 0 <= score <= 1:
        raise ValueError(f"a score is a number from 0 to 1, found {score}")
    return Finding("correct" if score == 1 else "wrong", answer, score)


def _exact(gold: str, answer: str, _: Conventions) -> bool:
    return gold.strip() == answer.strip()


def _regex(gold: str, answer: str, _: Conventions) -> bool:
    return re.fullmatch(gold, answer.strip(), re.DOTALL) is not None


def _reasoning_gym(gold: str, answer: str, _: Conventions) -> float:
    entry = json.loads(gold)
    return float(_gym_scorer(entry["metadata"]["source_dataset"])(answer, entry))


@lru_cache(maxsize=256)
def _gym_scorer(task: str) -> Callable[[str, dict[str, Any]], float]:
    return _imported("reasoning_gym:get_score_answer_fn")(task)  # type: ignore[no-any-return]


DOMAINS: dict[str, Callable[[str, str, Conventions], Any]] = {
    "math": compare,
    "exact": _exact,
    "regex": _regex,
    "reasoning_gym": _reasoning_gym,
}

_GYM = '{"question": "1 + 1 =", "answer": "2", "metadata": {"source_dataset": "basic_arithmetic"}}'
PROBES = {
    "math": (
        [
            *(("4", "4"), ("0.5", r"\frac{1}{2}"), ("1/2", "0.50"), ("1000", "1,000"), ("-3", "-3.0"), ("2", "x=2")),
            *((r"2\sqrt{2}", r"\sqrt{8}"), ("x+1", "1+x"), ("(x+1)^2", "x^2+2x+1"), (r"\{1,2\}", r"\{2,1\}")),
            *(("(1,2]", r"\left(1,\frac{4}{2}\right]"), (r"\text{even}", "even"), ("2^{10}", "1024")),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}\frac{2}{2}\\2\end{pmatrix}"),
            ("1", r"\int_0^1 2x\,dx"),
        ],
        [
            *(("4", "5"), ("0.5", r"\frac{1}{3}"), ("1/2", "2"), ("1000", "1"), ("-3", "3"), ("2", "x=3")),
            *((r"2\sqrt{2}", r"\sqrt{2}"), ("x+1", "x-1"), (r"\{1,2\}", r"\{1,3\}"), ("(1,2]", "[1,2]")),
            *((r"\text{even}", "odd"), (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"), ("2^{10}", "2^{11}")),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
        ],
    ),
    "exact": ([("a", "a")], [("a", "b")]),
    "regex": ([("[ab]+", "ab")], [("[ab]+", "abc")]),
    "reasoning_gym": ([(_GYM, "2")], [(_GYM, "3")]),
}
"""For each domain: pairs that are right, and pairs that are wrong."""


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    try:
        home = import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        missing = isinstance(error, ImportError) and error.name == "reasoning_gym"
        hint = "pip install 'contrapose[gym]'" if missing else "name a function as package.module:function"
        fault = f"{type(error).__name__}: {error}"
        raise ContraposeError(f"verify.domain: {name!r} cannot be imported ({fault}): {hint}") from None
    found = getattr(home, function, None)
    if not callable(found):
        near = nearest(function, [key for key, value in vars(home).items() if callable(value)])
        raise ContraposeError(f"verify.domain: {module} has no function {function!r}{near}")
    return found  # type: ignore[no-any-return]
