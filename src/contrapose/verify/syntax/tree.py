r"""The tree of an answer. A node is a tuple that begins with its kind:

("num", Fraction)  ("sym", name)  ("base", digits, b)  ("text", words)  ("add", *terms)  ("mul", *factors)  ("neg", a)
("div", a, b)  ("pow", a, b)  ("fn", name, *arguments)  ("call", f, *arguments)  ("pm", a, b)  ("mp", a, b)
("sum", variable, low, high, body)  ("prod", ...)  ("percent", a)  ("unit", a, words)  ("ratio", a, b)  ("clock", a, b)
("list", *items)  ("set", *items)  ("tuple", brackets, *items)  ("matrix", *rows)  ("builder", variable, condition)
("cup", *parts)  ("cap", a, b)  ("setminus", a, b)  ("rel", operators, *sides)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Node = tuple[Any, ...]
CONSTANTS = frozenset(["\\pi", "e", "i"])
STRUCTURES = frozenset(["tuple", "set", "matrix", "list", "builder"])
"""What no arithmetic is done with here."""
MIRRORED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
"""What orders two sides, and how it reads from the other."""


class Unreadable(ValueError):
    """The text is no answer that the grammar knows."""


def depth(node: Node) -> int:
    """How many nodes lie one in another."""
    level, nodes = 0, [node]
    while nodes:
        level, nodes = level + 1, [part for inner in nodes for part in inner if isinstance(part, tuple)]
    return level


def symbols(node: Node) -> frozenset[str]:
    """The free symbols of a tree."""
    if node[0] == "sym":
        return frozenset() if node[1] in CONSTANTS else frozenset([node[1]])
    inner = frozenset[str]().union(*(symbols(part) for part in node[1:] if isinstance(part, tuple) and part))
    return inner - {node[1]} if node[0] in ("sum", "prod") else inner


def replaced(node: Node, by: Mapping[Node, Node]) -> Node:
    """``node`` with some of its parts replaced by others."""
    if node in by:
        return by[node]
    return tuple(replaced(part, by) if isinstance(part, tuple) else part for part in node)


def mirrored(operators: tuple[str, ...]) -> tuple[str, ...]:
    """The operators of a chain of relations read from its other end."""
    return tuple(MIRRORED.get(op, op) for op in reversed(operators))


def signs(node: Node) -> list[Node]:
    """``node`` with its plus-minus read as plus, then as minus; itself alone where there is none."""
    plus = _signed(node, "pm")
    return [node] if plus == node else [plus, _signed(node, "mp")]


def _signed(node: Node, positive: str) -> Node:
    if node and node[0] in ("pm", "mp"):
        a, b = (_signed(part, positive) for part in node[1:])
        return ("add", a, b if node[0] == positive else ("neg", b))
    return tuple(_signed(part, positive) if isinstance(part, tuple) else part for part in node)
