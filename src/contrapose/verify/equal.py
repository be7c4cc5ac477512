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
from contrapose.verify.syntax.tree import Node, Unreadable, symbols
from contrapose.verify.syntax.units import is_unit

Judgement = Literal["correct", "wrong", "unparsed", "too_long"]
LONGEST_ANSWER = 2_000
"""Characters. No answer is longer, and mathematics on more is not worth its time."""
_WORD = re.compile(r"[^\W\d_]{3}|(?i:\bno\b)")
_LETTER = re.compile(r"(?:\\(?:text[a-z]*|mathrm|mathbf|mbox)\s?\{)?[\s(]*([A-J])[\s).}]*")
_CHOICE = re.compile(
    r"\$?(?:\\(?:text[a-z]*|mathrm|mathbf|mbox)\s?\{)?\s?(?:\(([A-J])\)|([A-J])[.)](?!\d))"
    r"(?:[\s}$~:.,]|\\[ ,;:]|\\q?quad(?![a-z]))+(?=[\w$(\[-]|\\(?!c[au]p))"
)
_UNIT = re.compile(
    r"(?:(?<=[\d)}])|(?<=\\pi))(?:\s|\\[,;: ]|~)+"
    r"([a-zA-Z]{1,4}(?:\^(?:\{-?\d\}|\d))?(?:(?:\s?(?:/|\\cdot|·)\s?|\s)[a-zA-Z]{1,4}(?:\^(?:\{-?\d\}|\d))?){0,5})[\s$.]*$"
)
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
    gold, answer = _chosen(gold, answer)
    left, right = _trees(gold, answer, conventions)
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


def _chosen(gold: str, answer: str) -> tuple[str, str]:
    r"""Of a choice with its value, ``\textbf{(B)} 12``, what the other text states: the letter or the value."""

    def stated(text: str, match: re.Match[str] | None, other: str) -> str:
        if match is None or _CHOICE.match(other):
            return text
        closed = match[0].count("{") == match[0].count("}")
        return match[1] or match[2] if _LETTER.fullmatch(other) else text[match.end() : None if closed else -1]

    return stated(gold, _CHOICE.match(gold), answer), stated(answer, _CHOICE.match(answer), gold)


def _trees(gold: str, answer: str, conventions: Conventions) -> tuple[Node | None, Node | None]:
    """Both trees. A unit of plain letters after a space (``9.8 m/s^2``) is one where no letter is left in either."""
    marked = _with_unit(gold), _with_unit(answer)
    if marked != (gold, answer):
        left, right = (_read(text, conventions) for text in marked)
        if left is not None and right is not None and not symbols(left) | symbols(right):
            return left, right
    return _read(gold, conventions), _read(answer, conventions)


def _with_unit(text: str) -> str:
    match = _UNIT.search(text)
    if match is None or not all(map(is_unit, re.findall(r"(?<!\\)\b[a-zA-Z]+", match[1]))):
        return text
    unit = re.sub(r"\\cdot|·", "*", match[1]).translate({ord("{"): "", ord("}"): ""})
    return rf"{text[: match.start()]}\text{{{unit}}}"


@lru_cache(maxsize=4096)
def _read(text: str, conventions: Conventions) -> Node | None:
    try:
        return parse(tokens(clean(text, conventions)))
    except Unreadable:
        return None
