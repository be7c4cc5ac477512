r"""What only computer algebra can read: integrals, limits, determinants, arithmetic of matrices. By math-verify 0.9."""

from __future__ import annotations

import re
from typing import Any

_ALGEBRA = re.compile(r"\\(?:int|lim|det|begin|sum|prod|iint|frac\s*\{\s*\\?(?:mathrm\{)?d)(?![a-zA-Z])")
_LARGE = re.compile(r"\d{7}|\^\s*\{?\s*\(?-?\d{3}|\^\s?(?:\{[^{}]*|\w|\()\^|!")
_LONGEST = 300


def is_algebra(text: str) -> bool:
    """Whether ``text`` holds such a thing and nothing that could take long: no towers, factorials, great numbers."""
    return len(text) <= _LONGEST and _ALGEBRA.search(text) is not None and _LARGE.search(text) is None


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify's parser and comparison find all sides of both LaTeX texts equal. Takes 10 ms and more."""
    try:
        first, *others = [_expression(side) for text in (gold, answer) for side in text.split("=")]
        return all(_same(first, other) for other in others)
    except MemoryError:
        raise
    except Exception:  # sympy raises nearly anything
        return False


def _expression(text: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig, latex2sympy

    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none")
    parsed: Any = latex2sympy(text, normalization_config=spelling)
    return parsed.doit() if hasattr(parsed, "doit") else parsed


def _same(a: Any, b: Any) -> bool:
    from math_verify.grader import sympy_expr_eq
    from sympy import Integral, Limit, Product, Sum

    if a == b:
        return True
    if any(side.has(Integral, Limit, Product, Sum) for side in (a, b)):
        return False  # unsolved: what math-verify would compare are no values
    return bool(sympy_expr_eq(a, b, float_rounding=15, numeric_precision=40))
