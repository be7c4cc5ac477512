"""Sets of real numbers: intervals, unions and inequalities as one list of intervals."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from contrapose.verify.meaning.numeric import Evaluation, Undefined
from contrapose.verify.meaning.value import same
from contrapose.verify.syntax.tree import MIRRORED, Node, mirrored, symbols

_MOST = 6
"""Inequalities in one list."""
_INFINITY: Node = ("sym", r"\infty")


class Interval(NamedTuple):
    low: Node
    high: Node
    open_low: bool
    open_high: bool


_LINE = Interval(("neg", _INFINITY), _INFINITY, True, True)


def region(node: Node) -> list[Interval] | None:
    """The intervals of a set of real numbers, in order; None for anything else."""
    found = _region(node)
    if found is None:
        return None
    found = sorted(found, key=lambda i: (_number(i.low), _number(i.high)))
    return _joined(found) if node[0] == "cup" else found


def _joined(intervals: list[Interval]) -> list[Interval]:
    """``[0, 1) \\cup [1, 2)`` is one interval."""
    joined = intervals[:1]
    for interval in intervals[1:]:
        last = joined[-1]
        if last.high == interval.low and not (last.open_high and interval.open_low):
            joined[-1] = Interval(last.low, interval.high, last.open_low, interval.open_high)
        else:
            joined.append(interval)
    return joined


def same_region(a: list[Interval], b: list[Interval], tolerance: float) -> bool:
    return len(a) == len(b) and all(
        (x.open_low, x.open_high) == (y.open_low, y.open_high)
        and _same_end(x.low, y.low, tolerance)
        and _same_end(x.high, y.high, tolerance)
        for x, y in zip(a, b, strict=True)
    )


def _same_end(a: Node, b: Node, tolerance: float) -> bool:
    try:
        return same(a, b, tolerance)
    except Undefined:
        return False


def _region(node: Node) -> list[Interval] | None:
    rule = _RULES.get(node[0])
    return rule(node) if rule else None


def _interval(node: Node) -> list[Interval] | None:
    if len(node) != 4:
        return None
    _, brackets, low, high = node
    return [Interval(low, high, brackets[0] == "(", brackets[1] == ")")]


def _union(node: Node) -> list[Interval] | None:
    parts = [part for part in map(_region, node[1:]) if part is not None]
    return [interval for part in parts for interval in part] if len(parts) == len(node) - 1 else None


def _conditions(node: Node) -> list[Interval] | None:
    """Inequalities of one variable hold together where they can (``x > 3, x < 5``), else each alone."""
    parts = [part for part in map(_region, node[1:]) if part is not None]
    together = all(part[0] == "rel" for part in node[1:]) and len(symbols(node) - {r"\infty"}) == 1
    if len(parts) < len(node) - 1 or not together or len(parts) > _MOST:
        return _union(node)
    common = parts[0]
    for part in parts[1:]:
        common = [both for a in common for b in part if (both := _overlap(a, b))]
    return common or _union(node)


def _overlap(a: Interval, b: Interval) -> Interval | None:
    low, open_low = max((a.low, a.open_low), (b.low, b.open_low), key=lambda end: (_number(end[0]), end[1]))
    high, open_high = min((a.high, a.open_high), (b.high, b.open_high), key=lambda end: (_number(end[0]), not end[1]))
    return Interval(low, high, open_low, open_high) if _number(low) < _number(high) else None


def _without_points(node: Node) -> list[Interval] | None:
    """An interval without some points is several."""
    intervals, points = _region(node[1]), node[2]
    if intervals is None or points[0] != "set":
        return None
    for at in points[1:]:
        inside = [_number(i.low) < _number(at) < _number(i.high) for i in intervals]
        halves = [(i._replace(high=at, open_high=True), i._replace(low=at, open_low=True)) for i in intervals]
        pairs = zip(intervals, inside, halves, strict=True)
        intervals = [part for i, split, both in pairs for part in (both if split else (i,))]
    return intervals


def _relation(node: Node) -> list[Interval] | None:
    operators, sides = node[1], list(node[2:])
    if operators == (r"\in",):
        return _region(sides[1]) if _is_variable(sides[0]) else None
    if operators == (r"\ne",) and _bounds(sides[0], sides[1]):
        return [Interval(_LINE.low, sides[1], True, True), Interval(sides[1], _LINE.high, True, True)]
    return _inequality(operators, sides) if set(operators) <= set(MIRRORED) else None


def _inequality(operators: tuple[str, ...], sides: list[Node]) -> list[Interval] | None:
    """``1 < x \\le 2``, or one side of it."""
    if operators[0] in (">", r"\ge"):
        operators, sides = mirrored(operators), sides[::-1]
    strict = [op == "<" for op in operators]
    if not set(operators) <= {"<", r"\le"} or len(sides) > 3:
        return None
    if len(sides) == 3:
        return [Interval(sides[0], sides[2], *strict)] if _is_variable(sides[1]) else None
    if _bounds(sides[0], sides[1]):
        return [Interval(_LINE.low, sides[1], True, strict[0])]
    return [Interval(sides[0], _LINE.high, strict[0], True)] if _bounds(sides[1], sides[0]) else None


def _bounds(variable: Node, constant: Node) -> bool:
    return _is_variable(variable) and not symbols(constant) - {r"\infty"}


def _is_variable(node: Node) -> bool:
    return node[0] in ("sym", "call") or (node[0] == "mul" and all(part[0] == "sym" for part in node[1:]))


def _number(node: Node) -> float:
    """Where an end lies, to put intervals in order; symbols are no hindrance, they keep the order."""
    try:
        value = Evaluation({r"\infty": Fraction(10**30)})(node)
        return float(value.real)
    except (Undefined, OverflowError):
        return 0.0


_RULES: dict[str, Callable[[Node], list[Interval] | None]] = {
    "tuple": _interval,
    "cup": _union,
    "list": _conditions,
    "setminus": _without_points,
    "builder": lambda node: _region(node[2]),
    "rel": _relation,
    "sym": lambda node: [_LINE] if node[1] == r"\mathbb R" else None,
}
