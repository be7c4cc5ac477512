"""Mathematical equality of two answers: exactly and fast where both are plain numbers, else by math-verify."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

_SPACING = re.compile(r"\\[!,;: ]|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle(?![a-z])|[\s$]")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+")
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})")
_RATIO = re.compile(
    r"([+-]?)(?:(\d{1,400})/(\d{1,400})|\\[dt]?frac\{([+-]?\d{1,400})\}\{(\d{1,400})\}|\\[dt]?frac(\d)(\d))"
)
LONGEST_ANSWER = 2_000
"""Characters. No answer is longer, and symbolic mathematics on more is not worth its time."""


def equal(gold: str, answer: str) -> bool:
    """Whether ``answer`` has the value of ``gold``. Both are LaTeX or plain text without their box."""
    gold, answer = _normal(gold), _normal(answer)
    if gold == answer:
        return bool(gold)
    exact_gold, exact_answer = number(gold), number(answer)
    if exact_gold is not None and exact_answer is not None:
        return exact_gold == exact_answer
    if len(answer) > LONGEST_ANSWER:
        return False
    return _symbolically_equal(gold, answer)


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal or simple fraction; None for anything else."""
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    if match := _RATIO.fullmatch(text):
        sign, *parts = match.groups()
        top, bottom = (int(p) for p in parts if p is not None)
        return None if bottom == 0 else Fraction(-top if sign == "-" else top, bottom)
    return None


def _normal(text: str) -> str:
    return _SPACING.sub("", text).removesuffix(".")


def _symbolically_equal(gold: str, answer: str) -> bool:
    from math_verify import verify

    return bool(verify(_parse(gold), _parse(answer)))


@lru_cache(maxsize=4096)
def _parse(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # boxed again, so that the whole answer is read and not only its last number
    parsed: list[Any] = parse(
        rf"\boxed{{{text}}}", [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    )
    return parsed
