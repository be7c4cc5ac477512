"""Equations and inequalities: what a label is, what a chain of equations comes to, and when two relations are one."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from contrapose.verify.meaning.numeric import Undefined
from contrapose.verify.meaning.value import proportional, same
from contrapose.verify.syntax.tree import Node, mirrored, replaced, symbols

_ROUNDED = 0.05
"""How far apart the sides of an approximation may be."""


def is_label(node: Node) -> bool:
    r"""Whether a side of an equation only names the other: ``x``, ``f(2)``, ``AB``, ``(x, y)``, ``\frac{a}{b}``."""
    kind, *parts = node
    if kind in ("sym", "call", "text"):
        return True
    if kind == "mul":
        first = parts[0]
        named = first[0] == "sym" and (first[1][0].isupper() or first[1][0] in "d\\")
        return named and all(part[0] in ("sym", "num", "tuple") for part in parts[1:])
    if kind == "fn" and parts[0] != "abs":
        return all(part[0] == "sym" for part in parts[1:])
    return kind in ("tuple", "ratio", "div", "fn") and all(is_label(part) for part in parts if isinstance(part, tuple))


def _names_sum(node: Node) -> bool:
    """Whether a side may ask for a sum: ``m + n``. The equation ``x + y = 2`` is no label, where it is the gold."""
    return node[0] == "add" and all(part[0] == "sym" for part in node[1:])


def values_of(relation: Node, asked: bool = False) -> list[Node]:
    r"""What ``x = 1 + 1 = 2`` comes to: the last side, where the others only name it or have its value; of
    ``\\sqrt{2} \\approx 1.41`` both. Empty for what is no such relation, or contradicts itself. With ``asked``,
    sums of letters are names too."""
    if relation[0] != "rel" or not set(relation[1]) <= {"=", r"\approx", r"\in"}:
        return []
    operators: list[str] = list(relation[1])
    sides: list[Node] = list(relation[2:])
    while operators and (is_label(sides[0]) or (asked and _names_sum(sides[0]))):
        del operators[0], sides[0]
    while operators and is_label(sides[-1]):
        del operators[-1], sides[-1]
    if r"\in" in operators:
        return []
    try:
        agree = all(
            same(*pair, 0.0 if operator == "=" else _ROUNDED)
            for operator, pair in zip(operators, pairwise(sides), strict=True)
        )
    except Undefined:
        return []
    return [sides[0], sides[-1]][-1 if set(operators) <= {"="} else 0 :] if agree else []


def solves(relation: Node, answer: Node) -> bool:
    """Whether ``y = answer`` is what the equation says of its one further symbol y, in which it is linear."""
    unknown = symbols(relation) - symbols(answer)
    if relation[1] != ("=",) or len(unknown) != 1 or not symbols(answer) or symbols(answer) - symbols(relation):
        return False
    difference: Node = ("add", relation[2], ("neg", relation[3]))
    (name,) = unknown

    def at(value: Node) -> Node:
        return replaced(difference, {("sym", name): value})

    one, two, six, seven = (at(("num", Fraction(k))) for k in (1, 2, 6, 7))
    try:
        linear = same(("add", two, ("neg", one)), ("add", seven, ("neg", six)))
        return linear and same(at(answer), ("num", Fraction(0)))
    except Undefined:
        return False


def with_names_of(relation: Node, other: Node) -> Node | None:
    """What ``other`` says its label is, ``f(t) = ...``, in the variables of ``relation``'s label, ``f(x)``; None where
    they name different things."""
    label, called, value = relation[2], other[2], other[3]
    if label == called:
        return value  # type: ignore[no-any-return]
    if label[0] != "call" or label[:2] != called[:2] or len(label) != len(called):
        return None
    by = dict(zip(called[2:], label[2:], strict=True))
    letters = all(a[0] == b[0] == "sym" for a, b in by.items())
    captured = symbols(value) & (symbols(label) - symbols(called))
    return replaced(value, by) if letters and not captured else None


def same_relation(a: Node, b: Node, equal: Callable[[Node, Node], bool]) -> bool:
    """Whether two relations hold together: equal sides, either way round, or both sides times one factor."""
    for mirror in (False, True):
        operators, sides = (b[1], b[2:]) if not mirror else (mirrored(b[1]), b[:1:-1])
        if a[1] == operators and len(a) == len(b):
            if all(map(equal, a[2:], sides)):
                return True
            if len(a) == 4 and a[1][0] in ("=", "<", ">", r"\le", r"\ge", r"\ne"):
                signed = a[1][0] not in ("=", r"\ne")
                if proportional(("add", a[2], ("neg", a[3])), ("add", sides[0], ("neg", sides[1])), signed):
                    return True
    return False
