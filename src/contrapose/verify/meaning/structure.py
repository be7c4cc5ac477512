"""Whether two trees say the same: lists, tuples, intervals, relations and units by their parts, the rest by value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from contrapose.verify.conventions import Conventions
from contrapose.verify.meaning.numeric import Undefined
from contrapose.verify.meaning.regions import region, same_region
from contrapose.verify.meaning.relations import is_label, same_relation, solves, values_of, with_names_of
from contrapose.verify.meaning.value import same
from contrapose.verify.syntax.tree import Node, replaced, signs, symbols
from contrapose.verify.syntax.units import canonical


def matches(gold: Node, answer: Node, conventions: Conventions) -> bool:
    """Whether ``answer`` is right where ``gold`` is, under the conventions."""
    gold, answer = _without_domains(gold, answer)
    golds, answers = _members(gold), _members(answer)
    if len(golds) == len(answers) == 1:
        return _one(golds[0], answers[0], conventions)
    if _same_regions(gold, answer, conventions):
        return True
    if 1 in (len(golds), len(answers)) and conventions.labels:
        gold, answer = ((values_of(node) or [node])[0] for node in (gold, answer))
    ordered = not conventions.unordered
    if {gold[0], answer[0]} == {"set", "tuple"}:
        return False
    if "tuple" in (gold[0], answer[0]):  # a bare list is met by the tuple that names its values in order
        ordered, (golds, answers) = True, (_coordinates(gold), _coordinates(answer))
    else:
        golds, answers = _members(gold), _members(answer)
    if ordered:
        return len(golds) == len(answers) and all(_one(g, a, conventions) for g, a in zip(golds, answers, strict=True))
    return _same_members(golds, answers, lambda g, a: _one(g, a, conventions))


def _without_domains(gold: Node, answer: Node) -> tuple[Node, Node]:
    r"""Both without what only one says last of its letter (``k\pi, k \in \mathbb{Z}``); with one letter if both do."""
    domains = _domain(gold), _domain(answer)
    if not any(domains):
        return gold, answer
    if domains[0] and domains[1]:
        letter, other = domains[0][2], domains[1][2]
        return gold, answer if letter[1] in symbols(answer) else replaced(answer, {other: letter})
    gold, answer = (node[:-1] if domain else node for node, domain in zip((gold, answer), domains, strict=True))
    return _alone(gold), _alone(answer)


def _alone(node: Node) -> Node:
    return node[1] if node[0] == "list" and len(node) == 2 else node  # type: ignore[no-any-return]


def _domain(node: Node) -> Node | None:
    """The last member of a list, where it says for which values of a letter the others hold."""
    if node[0] != "list" or len(node) < 3 or node[-1][0] != "rel" or len(node[-1]) != 4:
        return None
    others, (_, (operator,), letter, _) = node[1:-1], node[-1]
    free = all(other[0] != "rel" or other[1] == ("=",) for other in others)
    of_others = letter[0] == "sym" and any(letter[1] in symbols(other) and letter != other for other in others)
    return node[-1] if operator in _DOMAINS and free and of_others else None  # type: ignore[no-any-return]


def _coordinates(node: Node) -> list[Node]:
    """The entries of a tuple, or what a list names: in the order of the alphabet where that is how tuples are read."""
    if node[0] == "list" and all(
        part[0] == "rel" and part[1] == ("=",) and part[2] in _COORDINATES for part in node[1:]
    ):
        return sorted(_members(node), key=lambda part: str(part[2]))
    return list(node[2:]) if node[0] == "tuple" and node[1] == "()" else _members(node)


def _members(node: Node) -> list[Node]:
    """What a list or a set holds, with every sign of plus-minus; anything else holds itself."""
    if node[0] in ("list", "set"):
        return [member for part in node[1:] for member in _members(part)]
    return signs(node)


def _same_members(golds: Sequence[Node], answers: Sequence[Node], equal: Callable[[Node, Node], bool]) -> bool:
    """Whether each has its partner in the other. Tuples are solutions: one may be named twice."""
    solutions = all(node[0] == "tuple" for node in golds)
    if len(golds) != len(answers) and not solutions:
        return False
    left = list(answers)
    for gold in golds:
        partner = next((i for i, answer in enumerate(left) if equal(gold, answer)), None)
        if partner is None:
            return False
        if not solutions:
            del left[partner]
    return not solutions or all(any(equal(gold, answer) for gold in golds) for answer in answers)


def _same_regions(gold: Node, answer: Node, conventions: Conventions) -> bool:
    """Whether both are one set of real numbers, in interval notation or as inequalities, these in one variable."""
    spoken = [node[0] in ("rel", "builder", "list") for node in (gold, answer)]
    if spoken[0] != spoken[1] and not conventions.intervals:
        return False
    variables = [symbols(node) - {r"\infty"} for node in (gold, answer)]
    spelled = {gold[0], answer[0]}
    if spelled == {"list"} or (spelled <= _SPOKEN and all(variables) and variables[0] != variables[1]):
        return False
    a, b = region(gold), region(answer)
    return a is not None and b is not None and same_region(a, b, conventions.tolerance)


def _one(gold: Node, answer: Node, conventions: Conventions) -> bool:
    """``matches`` for what is no list: the rule of the first kind of node that either is."""
    if gold == answer:
        return True
    kinds = {gold[0], answer[0]}
    rule = next((rule for named, rule in _RULES if kinds & named), _values)
    regions = kinds & _REGIONS and kinds != {"tuple"} and _same_regions(gold, answer, conventions)
    return bool(regions) or rule(gold, answer, conventions)


def _relations(gold: Node, answer: Node, conventions: Conventions) -> bool:
    if gold[0] == answer[0]:
        (_, op, *left), (_, other, *right) = gold, answer
        if op == other == ("=",) and is_label(left[0]) and is_label(right[0]):
            value = with_names_of(gold, answer)
            if value is not None:
                return matches(left[1], value, conventions)
        return same_relation(gold, answer, lambda g, a: _one(g, a, conventions))
    if not conventions.labels:
        return False
    relation = gold if gold[0] == "rel" else answer
    if relation[1] == (r"\in",) and relation[3][0] != "set" and not conventions.intervals:
        return False
    if gold[0] == "rel":
        return solves(gold, answer) or any(matches(value, answer, conventions) for value in values_of(gold))
    return solves(answer, gold) or any(matches(gold, value, conventions) for value in values_of(answer, asked=True))


def _parts(gold: Node, answer: Node, conventions: Conventions) -> bool:
    """Whether two nodes of one kind have the same parts."""
    alike = gold[0] == answer[0] != "text" and len(gold) == len(answer)
    return alike and all(_one(g, a, conventions) for g, a in zip(gold[1:], answer[1:], strict=True))


def _tuples(gold: Node, answer: Node, conventions: Conventions) -> bool:
    parts = [_entries(gold), _entries(answer)]
    if parts[0] is None or parts[1] is None or len(parts[0]) != len(parts[1]):
        return False
    interval = len(parts[0]) == 2 or {gold[1], answer[1]} - {"()", "[]"}
    if gold[0] == answer[0] == "tuple" and gold[1] != answer[1] and interval:
        return False
    matrices = [node for node in (gold, answer) if node[0] == "matrix"]
    if len(matrices) == 2 and len(gold) != len(answer):
        return False
    if len(matrices) == 1 and len(matrices[0]) > 2 and len(matrices[0][1]) > 1:
        return False
    return all(_one(g, a, conventions) for g, a in zip(*parts, strict=True))


def _entries(node: Node) -> list[Node] | None:
    """The entries of a tuple, or of a matrix row by row; a tuple is a vector."""
    if node[0] == "tuple":
        return list(node[2:])
    return [entry for row in node[1:] for entry in row] if node[0] == "matrix" else None


def _values(gold: Node, answer: Node, conventions: Conventions) -> bool:
    (gold, unit), (answer, other) = _without_unit(gold), _without_unit(answer)
    if conventions.degrees and {unit, other} == {"", "degree"} and _in_radians(answer if unit else gold):
        gold, answer = (("unit", gold, unit), answer) if unit else (gold, ("unit", answer, other))
        unit = other = ""
    share = (unit and answer[0] == "percent") or (other and gold[0] == "percent")
    if share or not _same_unit(unit, other, conventions):
        return False
    if conventions.percent and gold[0] == "percent" != answer[0] and _equal(gold[1], answer, conventions):
        return True
    if gold[0] == "base":  # its value is what was asked for it; its digits alone are short for it
        return answer in (gold, ("num", Fraction(gold[1])))
    if gold[0] == answer[0] == "clock":
        return gold == answer
    if {gold[0], answer[0]} <= {"ratio", "clock"}:
        ratios = ([("div", node[1], part) for part in node[2:]] for node in (gold, answer))
        return len(gold) == len(answer) and all(_equal(a, b, conventions) for a, b in zip(*ratios, strict=True))
    return _equal(gold, answer, conventions)


def _in_radians(node: Node) -> bool:
    return replaced(node, {_PI: ("num", Fraction(1))}) != node


def _same_unit(unit: str, other: str, conventions: Conventions) -> bool:
    if unit and other:
        return canonical(unit) == canonical(other)
    return unit == other or (conventions.degrees if "degree" in (unit, other) else conventions.units)


def _equal(gold: Node, answer: Node, conventions: Conventions) -> bool:
    try:
        if same(gold, answer, conventions.tolerance):
            return True
        decimal = _decimal(gold), _decimal(answer)  # the base that is not said is e or 10
        return decimal != (gold, answer) and same(*decimal, conventions.tolerance)
    except Undefined:
        return False


def _decimal(node: Node) -> Node:
    """``node`` with decimal logarithms for those without a base."""
    if node[:2] == ("fn", "log") and len(node) == 3:
        return ("fn", "lg", _decimal(node[2]))
    return tuple(_decimal(part) if isinstance(part, tuple) else part for part in node)


def _without_unit(node: Node) -> tuple[Node, str]:
    """An expression and its unit, wherever in a sum or product it stands; percent counts as part of the value."""
    if node[0] == "unit":
        value, inner = _without_unit(node[1])
        return value, f"{inner} {node[2]}".strip()
    if node[0] == "neg" and node[1][0] in ("percent", "unit", "mul", "add", "neg"):
        value, unit = _without_unit(node[1])
        return (("percent", ("neg", value[1])) if value[0] == "percent" else ("neg", value)), unit
    if node[0] in ("add", "mul"):
        parts = [_without_unit(part) for part in node[1:]]
        units = dict.fromkeys(unit for _, unit in parts if unit)
        if node[0] == "add" and len(units) > 1:
            return node, ""  # which has no value
        return (node[0], *(value for value, _ in parts)), " ".join(units)
    return node, ""


_SPOKEN = frozenset(["list", "rel", "cup"])
_COORDINATES: list[Node] = [("sym", name) for name in "abcdxyz"]
_PI: Node = ("sym", "\\pi")
_DOMAINS = frozenset([r"\in", r"\ge", r"\le", "<", ">", r"\ne"])
_Rule = Callable[[Node, Node, Conventions], bool]
_REGIONS = frozenset(["rel", "builder", "cup", "setminus", "tuple"])
_RULES: list[tuple[frozenset[str], _Rule]] = [
    (frozenset(["list", "set"]), matches),
    (frozenset(["rel"]), _relations),
    (frozenset(["tuple", "matrix"]), _tuples),
    (frozenset(["text", "builder", "cup", "cap", "setminus"]), _parts),
]
