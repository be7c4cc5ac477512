"""Mathematical equality of two answers: exactly and fast where both are plain numbers, else by math-verify."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

_NOISE = re.compile(r"(\\\\)|\\[!,;:]|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle(?![a-z])|\\?\$")
_SPACE = re.compile(r"(\d)(?:\s|\\ |~)+(?=\d)|(?:\s|(?<!\\)\\ |~)+")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[, ]\d{3})+")
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})")
_RATIO = re.compile(
    r"([+-]?)(?:(\d{1,400})/(\d{1,400})|\\[dt]?frac\{([+-]?\d{1,400})\}\{(\d{1,400})\}|\\[dt]?frac(\d)(\d))"
)
LONGEST_ANSWER = 2_000
"""Characters. No answer is longer, and symbolic mathematics on more is not worth its time."""


def equal(gold: str, answer: str) -> bool:
    """Whether ``answer`` has the value of ``gold``. Both are LaTeX or plain text without their box."""
    plain_gold, plain_answer = _normal(gold), _normal(answer)
    if plain_gold == plain_answer:
        return bool(plain_gold)
    exact_gold, exact_answer = number(plain_gold), number(plain_answer)
    if exact_gold is not None and exact_answer is not None:
        return exact_gold == exact_answer
    if len(answer) > LONGEST_ANSWER:
        return False
    return _symbolically_equal(gold, answer, exact_gold, exact_answer)


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal or simple fraction; None for anything else."""
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    if match := _RATIO.fullmatch(text):
        sign, *parts = match.groups()
        top, bottom = (int(p) for p in parts if p is not None)
        return None if bottom == 0 else Fraction(-top if sign == "-" else top, bottom)
    return None


def _normal(text: str) -> str:
    """``text`` without spacing, sizing and dollar signs. Digits that a space parts stay apart (``1 1/2``)."""
    text = _NOISE.sub(lambda m: m.group(1) or "", text)
    return _SPACE.sub(lambda m: m.group(1) + " " if m.group(1) else "", text).strip().removesuffix(".")


def _symbolically_equal(gold: str, answer: str, exact_gold: Any, exact_answer: Any) -> bool:
    from math_verify import verify

    parsed_gold, parsed_answer = _parse(gold), _parse(answer)
    if not verify(parsed_gold, parsed_answer):
        return False
    # math-verify compares numbers to six digits; where both are rational we can do better
    exact_gold = _rational(parsed_gold) if exact_gold is None else exact_gold
    exact_answer = _rational(parsed_answer) if exact_answer is None else exact_answer
    return exact_gold is None or exact_answer is None or bool(exact_gold == exact_answer)


def _rational(parsed: list[Any]) -> Fraction | None:
    """The exact value of a parsed answer that is a rational number written without decimals, else None."""
    expression: Any = parsed[0] if parsed else None
    if not getattr(expression, "is_rational", None):
        return None
    value = expression.doit()
    return Fraction(int(value.p), int(value.q)) if value.is_Rational else None


@lru_cache(maxsize=4096)
def _parse(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # boxed again, so that the whole answer is read and not only its last number
    parsed: list[Any] = parse(
        rf"\boxed{{{text}}}", [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    )
    return parsed
