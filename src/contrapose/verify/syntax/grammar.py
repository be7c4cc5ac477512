r"""Tokens to the tree of an answer: lists, tuples, intervals, sets, relations and words around expressions."""

from __future__ import annotations

import re

from contrapose.verify.syntax.atoms import DEEPEST, FUNCTIONS, NAMES, is_letter, qualifies
from contrapose.verify.syntax.expression import Expressions
from contrapose.verify.syntax.notation import words
from contrapose.verify.syntax.tree import Node, Unreadable, depth

_RELATIONS = frozenset(["=", "<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\in", r"\equiv", r"\sim", r"\rightarrow"])
_SETS = {r"\cup": "cup", r"\cap": "cap", r"\setminus": "setminus"}
_ENVIRONMENT = re.compile(r"[pbB]?matrix|smallmatrix|array")
_SEPARATORS = (",", ";", r"\lor")
_STATES = re.compile(r"\\text\{(?!.*\bnot\b)[^{}]*(?:\b(?:is|are|equals)|:)\s*\}")
_GENERAL = frozenset(["all", "any", "every", "each", "some", "where", "such"])
_SETS_IN_WORDS = dict.fromkeys(["none", "no solution", "no solutions", "empty set"], ("sym", r"\emptyset"))
_SETS_IN_WORDS |= dict.fromkeys(["all real numbers", "all reals", "real numbers"], ("sym", r"\mathbb R"))
_ENDS = frozenset(["", ")", "]", "}", r"\}", r"\rangle", "&", "\\\\", r"\end"])


def parse(tokens: list[str]) -> Node:
    """The tree of a whole answer; raises Unreadable."""
    parser = _Answers(list(tokens))
    items = parser.items()
    if parser.peek():
        raise Unreadable(f"{parser.peek()} is left over")
    node = items[0] if len(items) == 1 else ("list", *items)
    if r"\lor" in tokens and all(item[0] == "rel" and not {"=", r"\in"} & set(item[1]) for item in items):
        node = ("cup", *items)
    if depth(node) > DEEPEST:
        raise Unreadable("too deep")
    return node


class _Answers(Expressions):
    def items(self) -> list[Node]:
        """One or more elements between commas."""
        found: list[Node] = []
        while True:
            while self.peek() in _SEPARATORS:
                self.at += 1
            if self.peek() in _ENDS:
                break
            found.append(self.element())
            if self.peek() not in _SEPARATORS:
                break
        if not found:
            raise Unreadable("nothing")
        return found

    def element(self) -> Node:
        if text := self.text():
            return text
        if _STATES.fullmatch(self.peek()) and "answer" in self.peek().lower():
            self.at += 1 + (self.peek(1) in ("=", ":"))
        if label := self.label():
            operators, sides = ["="], [label, self.side()]
        else:
            operators, sides = [], [self.side()]
        while self.peek() in _RELATIONS:
            operators.append(self.take())
            sides.append(self.side())
        if self.peek().startswith(r"\text{") and qualifies(self.peek()):
            self.qualification()
        return ("rel", tuple(operators), *sides) if operators else sides[0]

    def qualification(self) -> None:
        """What is said about an answer is passed over, unless it tells cases apart."""
        said = self.tokens[self.at :]
        cases = [token for token in said if token.startswith(r"\text{") and (qualifies(token) or "otherwise" in token)]
        first = words(" ".join(filter(_wordy, said[:2]))).split()
        if set(_SEPARATORS) & set(said) and (len(cases) > 1 or not _GENERAL.intersection(first)):
            raise Unreadable("several cases")
        self.at = len(self.tokens)

    def words(self) -> list[str]:
        """The run of words that comes next."""
        end = self.at
        while self.peek(end - self.at) and (_wordy(self.tokens[end]) or self.tokens[end] in ("-", "'", "!", "?")):
            end += 1
        return self.tokens[self.at : end]

    def text(self) -> Node | None:
        """An element that is only words."""
        run = self.words()
        ends = self.peek(len(run)) in _ENDS or self.peek(len(run)) in _SEPARATORS
        if not ends or not any(map(_is_word, run)) or (len(run) == 1 and is_letter(run[0])):
            return None
        self.at += len(run)
        said = _said(run)
        return _SETS_IN_WORDS.get(said[1], said)

    def label(self) -> Node | None:
        r"""Words before an equals sign or a colon, or that hold one: ``Maximum = 2``, ``\text{The area is } 2``."""
        run = self.words()
        stated = _STATES.fullmatch(self.peek())
        if stated:
            run = run[:1]
        elif self.peek(len(run)) not in ("=", ":") or not any(map(_is_word, run)):
            return None
        self.at += len(run) + (not stated)
        return _said(run)

    def side(self) -> Node:
        parts = [self.sum()]
        while self.peek() == ":" and not self.bars:
            self.at += 1
            parts.append(self.sum())
        node = parts[0] if len(parts) == 1 else _ratio(parts, self.tokens[self.at - 1])
        while self.peek() in _SETS:
            node = (_SETS[self.take()], node, self.sum())
        return node

    def bracketed(self, opening: str) -> Node:
        self.deeper()
        bars, self.bars = self.bars, int(opening == r"\{")
        if opening == r"\{":
            node = self.braces()
        elif opening == r"\begin":
            node = self.matrix()
        else:
            items = self.items()
            if opening == "{" and self.peek() in (r"\over", r"\choose") and len(items) == 1:
                other = self.take() == r"\choose", self.sum()
                items = [("fn", "binom", items[0], other[1]) if other[0] else ("div", items[0], other[1])]
            closing = self.take(*{"{": ["}"], r"\langle": [r"\rangle"]}.get(opening, [")", "]"]))
            node = _grouped(opening + closing, items)
        self.depth, self.bars = self.depth - 1, bars
        return node

    def braces(self) -> Node:
        r"""A set by its members, or by a condition on them: ``\{x : x > 1\}``."""
        if self.peek() == r"\}":
            self.at += 1
            return ("sym", r"\emptyset")
        items = self.items()
        node: Node = ("set", *items)
        if self.peek() in ("|", ":"):
            self.bars, self.at = 0, self.at + 1
            conditions = self.items()
            node = ("builder", items[0], conditions[0] if len(conditions) == 1 else ("list", *conditions))
        self.take(r"\}")
        return node

    def matrix(self) -> Node:
        name = self.raw()
        if not _ENVIRONMENT.fullmatch(name):
            raise Unreadable(name)
        if name == "array" and self.peek() == "{":
            self.raw()
        rows: list[list[Node]] = [[]]
        while self.peek() != r"\end":
            if self.peek() == "\\\\":
                rows.append([])
            if self.peek() in ("&", "\\\\"):
                self.at += 1
            else:
                rows[-1].append(self.side())
        self.take()
        self.raw()
        rows = [row for row in rows if row]
        if not rows or len({len(row) for row in rows}) > 1:
            raise Unreadable("a ragged matrix")
        return ("matrix", *map(tuple, rows))


def _said(run: list[str]) -> Node:
    if said := words(" ".join(run)):
        return ("text", said)
    raise Unreadable("words with signs")


def _grouped(brackets: str, items: list[Node]) -> Node:
    if len(items) == 1 and brackets in ("()", "[]", "{}"):
        return items[0]
    if brackets == "{}":  # a group of LaTeX, which nobody sees
        return ("list", *items)
    return ("tuple", brackets if len(brackets) == 2 else "()", *items)


def _ratio(parts: list[Node], last: str) -> Node:
    """``3:4``, or a time of day, which is no ratio: ``12:30`` is not ``6:15``."""
    *_, minutes = parts
    if minutes[0] == "unit":  # 4:30 p.m.
        return ("unit", _ratio([*parts[:-1], minutes[1]], "00"), minutes[2])
    digits = len(parts) == 2 and parts[0][0] == minutes[0] == "num" and len(last) == 2
    return ("clock" if digits and parts[0][1] <= 24 and minutes[1] < 60 else "ratio", *parts)


def _wordy(token: str) -> bool:
    return token.isalpha() or token.startswith(r"\text{")


def _is_word(token: str) -> bool:
    return token.startswith(r"\text{") or (
        len(token) > 2 and token.isalpha() and token.lower() not in FUNCTIONS | NAMES
    )
