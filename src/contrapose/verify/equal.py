"""Whether two answers are equal: at once where both are plain numbers, else by their trees, else by math-verify."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from contrapose.verify.answer import boxed
from contrapose.verify.conventions import Conventions
from contrapose.verify.meaning import symbolic
from contrapose.verify.meaning.structure import matches
from contrapose.verify.syntax.grammar import parse
from contrapose.verify.syntax.notation import clean, tokens, words
from contrapose.verify.syntax.tree import Node, Unreadable

Judgement = Literal["correct", "wrong", "unparsed", "too_long"]
LONGEST_ANSWER = 2_000
"""Characters. No answer is longer, and mathematics on more is not worth its time."""
_WORD = re.compile(r"[^\W\d_]{3}")
_NOISE = re.compile(r"(\\\\)|\\[!,;: ]|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle(?![a-z])|(?<!\\)\$|\\[()\[\]]")
_SPACE = re.compile(r"(\d,?)\s+(?=[\d.])|([a-zA-Z])\s+(?=[a-zA-Z])|\s+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[, ]\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
_FRACTION = re.compile(
    r"([+-]?)(?:(\d+)(?: (?=\d+/)| ?(?=\\)))?"
    r"(?:([+-]?\d+)/(\d+)|\\[dtc]?frac(?:\{([+-]?\d+)\}\{(\d+)\}|(\d) ?(\d)|\{(\d+)\}(\d)))"
)


def equal(gold: str, answer: str, conventions: Conventions = Conventions()) -> bool:
    """Whether ``answer`` is right where ``gold`` is. Both are LaTeX or plain text without their box."""
    return compare(gold, answer, conventions) == "correct"


def compare(gold: str, answer: str, conventions: Conventions = Conventions()) -> Judgement:
    """The verdict on ``answer``. A gold in boxes is what they hold."""
    decided = exact(gold, answer, conventions)
    if decided is not None:
        return "correct" if decided else "wrong"
    if len(answer) > LONGEST_ANSWER:
        return "too_long"
    gold = boxed(gold, every=True) or gold
    left, right = _read(gold, conventions), _read(answer, conventions)
    if _WORD.search(gold) and "" != words(gold) == words(answer):
        return "correct"
    if left is not None and right is not None:
        return "correct" if matches(left, right, conventions) else "wrong"
    if symbolic.is_algebra(gold + answer) and symbolic.equal(gold, answer):
        return "correct"
    return "unparsed" if right is None else "wrong"


def exact(gold: str, answer: str, conventions: Conventions = Conventions()) -> bool | None:
    """The verdict where it takes no parsing: the same text, or two plain numbers; None for anything else."""
    gold, answer = _normal(gold), _normal(answer)
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    left = number(gold, conventions)
    right = None if left is None else number(answer, conventions)
    if left is None or right is None:
        return None
    return abs(left - right) <= Fraction(conventions.tolerance) * abs(left)


def number(text: str, conventions: Conventions = Conventions()) -> Fraction | None:
    """The exact value of an integer, decimal, simple fraction or mixed number; None for anything else."""
    if len(text) > LONGEST_ANSWER:
        return None
    separated = conventions.thousands and not (conventions.decimal_comma and "," in text)
    if separated and _THOUSANDS.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    sign, whole, *parts = match.groups()
    top, bottom = (int(part) for part in parts if part is not None)
    if bottom == 0 or (whole and not 0 < top < bottom):
        return None
    value = int(whole or 0) + Fraction(top, bottom)
    return -value if sign == "-" else value


def _normal(text: str) -> str:
    """``text`` without spacing, sizing and dollar signs. What a space parts stays apart (``1 1/2``)."""
    text = _NOISE.sub(lambda m: m[1] or " ", text) if "\\" in text or "$" in text else text
    text = text.replace("{,}", ",")
    return _SPACE.sub(lambda m: f"{m[1] or m[2]} " if m[1] or m[2] else "", text).strip().removesuffix(".")


@lru_cache(maxsize=4096)
def _read(text: str, conventions: Conventions) -> Node | None:
    try:
        return parse(tokens(clean(text, conventions)))
    except Unreadable:
        return None
