"""Whether two expressions have one value: as fractions, else to 60 digits; at some points if there are symbols."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from contrapose.verify.meaning.numeric import DIGITS, Evaluation, Undefined, Value, sample
from contrapose.verify.syntax.tree import Node, symbols

_ROUNDING = 10.0 ** (15 - DIGITS)
_TURNS = 8
_ENOUGH = 2


def same(a: Node, b: Node, tolerance: float = 0.0) -> bool:
    """Whether the values agree. With symbols: wherever both are real, or in the complex plane if they never are.

    ``tolerance`` is relative to ``a``. Raises Undefined for a constant without a value.
    """
    if a == b:
        return True
    names = symbols(a) | symbols(b)
    if not names:
        return _same_constant(a, b, tolerance)
    verdict = _same_at_points(a, b, names, tolerance, real=True)
    return bool(_same_at_points(a, b, names, tolerance, real=False) if verdict is None else verdict)


def _same_at_points(a: Node, b: Node, names: frozenset[str], tolerance: float, real: bool) -> bool | None:
    """Whether both agree at some points where both are defined; None if these are too few."""
    met = 0
    for x, y in _at_points(a, b, names, real):
        if not _close(x, y, tolerance):
            return False
        met += 1
    return True if met >= _ENOUGH else None


def _at_points(a: Node, b: Node, names: frozenset[str], real: bool) -> Iterator[tuple[Value, Value]]:
    """The values of both, at the points where both have one."""
    for turn in range(_TURNS):
        point = {name: sample(name, turn) for name in names}
        try:
            yield Evaluation(point, real=real)(a), Evaluation(point, real=real)(b)
        except Undefined:
            continue


def _same_constant(a: Node, b: Node, tolerance: float) -> bool:
    x, y = _constant(a), _constant(b)
    if _close(x, y, tolerance):
        return True
    exact = isinstance(x, Fraction) and isinstance(y, Fraction)
    return not exact and _vanishes(a, x) and _vanishes(b, y)


@lru_cache(maxsize=4096)
def _constant(node: Node, digits: int = DIGITS) -> Value:
    return Evaluation({}, digits)(node)


def _vanishes(node: Node, value: Value) -> bool:
    """Whether a number is zero: what rounding leaves of a zero shrinks with more digits, a small number does not."""
    if isinstance(value, Fraction) or abs(value) > 10.0 ** -(DIGITS // 2):
        return bool(value == 0)
    return bool(abs(_constant(node, 4 * DIGITS)) <= abs(value) * 10.0**-DIGITS)


def _close(x: Value, y: Value, tolerance: float) -> bool:
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y or (tolerance > 0 and abs(x - y) <= Fraction(tolerance) * abs(x))
    ev = Evaluation({})
    x, y = ev.inexact(x), ev.inexact(y)
    largest = abs(x) if tolerance or abs(x) > abs(y) else abs(y)
    return bool(abs(x - y) <= max(tolerance, _ROUNDING) * largest)


def proportional(a: Node, b: Node, positive: bool) -> bool:
    """Whether a / b is one number other than 0 at some points, and above 0 if it has to be."""
    names = symbols(a)
    if not names or names != symbols(b):
        return False
    quotients: list[Value] = []
    ev = Evaluation({})
    for x, y in _at_points(a, b, names, real=False):
        if x == 0 or y == 0:
            return False
        quotients.append(ev.combined(lambda x, y: x / y, x, y))
        if not _close(quotients[0], quotients[-1], 0.0):
            return False
    signed = bool(quotients) and not isinstance(quotients[0], ev.mp.mpc) and quotients[0] > 0
    return len(quotients) >= _ENOUGH and (signed or not positive)
