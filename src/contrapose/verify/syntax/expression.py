r"""Tokens to the tree of an expression: numbers, letters, functions and what joins them, as ``-2\frac12 x\sin 3y``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from fractions import Fraction

from contrapose.verify.syntax.atoms import FUNCTIONS, NAMES, TRIGONOMETRIC, Atoms, is_words
from contrapose.verify.syntax.tree import STRUCTURES, Node, Unreadable

_OTHERWISE = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_ACCENTS = ("overline", "mathbb", "dot", "ddot", "hat", "tilde")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
          "ten": "10", "twelve": "12", "sixteen": "16"}  # fmt: skip
_BRACKETS = ("(", "[", "{", r"\{", r"\begin", r"\langle")
_CLOSING = {")": "(", "]": "[", "}": "{"}
_ENDS = frozenset(
    r""") ] } \} , ; \rfloor \rceil \rangle & \\ \end \cup \cap \setminus \pm \mp \dots \mod \bmod \pmod \le \ge \ne
    \approx \in \equiv \sim \rightarrow \mapsto \over \choose \lor""".split()  # noqa: SIM905
)
"""Tokens before which a product ends."""


class Expressions(Atoms):
    """Recursive descent, one token ahead. What is inside brackets is the grammar's, which derives from this."""

    @abstractmethod
    def bracketed(self, opening: str) -> Node: ...

    def sum(self) -> Node:
        self.deeper()
        terms = [] if self.peek() in (r"\pm", r"\mp") else [self.term()]
        while self.peek() in ("+", "-", r"\pm", r"\mp"):
            sign, term = self.take(), self.term()
            if sign in (r"\pm", r"\mp"):
                terms = [(sign[1:], _added(terms), term)]
            else:
                terms.append(term if sign == "+" else ("neg", term))
        self.depth -= 1
        return _added(terms)

    def term(self) -> Node:
        negative = self.minus()
        node = self.power()
        while True:
            token = self.peek()
            if token == "*":
                self.at += 1
                node = _times(node, self.signed())
            elif token == "/":
                self.at += 1
                node = ("div", node, self.signed())
            elif token in (r"\bmod", r"\mod"):
                self.at += 1
                node = ("fn", "mod", node, self.signed())
            elif self.unit_follows(node):
                node = self.unit(node)
            elif self.factor_follows():
                if node[0] == "unit" and token[0].isdecimal():
                    raise Unreadable("several units")
                node = _times(node, self.power())
            else:
                return ("neg", node) if negative else node

    def signed(self) -> Node:
        return ("neg", self.power()) if self.minus() else self.power()

    def factor_follows(self) -> bool:
        token = self.peek()
        if not token or token in _ENDS or (token == "|" and self.bars):
            return False
        return token[0].isalnum() or token[0] in ".([{|" or (token[0] == "\\" and not is_words(token))

    def power(self) -> Node:
        node = self.postfix(self.primary())
        if self.peek() == "^":
            self.at += 1
            node = self.postfix(("pow", node, self.exponent()))
        return node

    def exponent(self) -> Node:
        self.deeper()
        negative = self.minus()
        node = self.postfix(self.primary())
        if self.peek() == "^":
            self.at += 1
            node = ("pow", node, self.exponent())
        self.depth -= 1
        return ("neg", node) if negative else node

    def postfix(self, node: Node) -> Node:
        while True:
            token = self.peek()
            if token == "!":
                self.at += 1
                double = self.peek() == "!"
                self.at += double
                if self.peek() == "!":
                    raise Unreadable("three factorials")
                node = ("fn", "factorial2" if double else "factorial", node)
            elif token == "%":
                self.at += 1
                node = ("percent", node)
            elif token == "°":
                self.at += 1
                node = ("unit", node, "degree")
            elif token == "'" and node[0] == "sym":
                self.at += 1
                node = ("sym", node[1] + "'")
            elif token == "_" and node[0] == "num":
                self.at += 1
                base = self.raw().removeprefix("base").strip("() ")
                node = ("base", str(node[1]), _BASES.get(base, base))
            else:
                return node

    def primary(self) -> Node:
        self.deeper()
        node = self.leaf(self.take())
        self.depth -= 1
        return node

    def leaf(self, token: str) -> Node:
        if token[0].isdecimal() or token[0] == ".":
            return self.number(token)
        if token.isalpha():
            return self.symbol(token) if len(token) == 1 else self.word(token)
        if token in _BRACKETS:
            return self.bracketed(token)
        if token == "|" and not self.bars:
            return self.absolute()
        if token[0] == "\\":
            return self.named(token[6:-1]) if token.startswith(r"\text{") else self.command(token[1:])
        raise Unreadable(f"{token!r} is no value")

    def absolute(self) -> Node:
        self.bars += 1
        node = self.sum()
        self.bars -= 1
        self.take("|")
        return ("fn", "abs", node)

    def command(self, name: str) -> Node:
        if name in FUNCTIONS:
            return self.function(name)
        if name in NAMES:
            return self.symbol("\\" + name)
        if name in _ACCENTS:
            letters = self.raw()
            return self.symbol(letters if name == "hat" and letters in ("i", "j", "k") else f"\\{name} {letters}")
        if name not in _COMMANDS:
            raise Unreadable(f"\\{name} is unknown")
        return _COMMANDS[name](self)

    def rounded(self, name: str) -> Node:
        node = self.sum()
        self.take(rf"\r{name}")
        return ("fn", name, node)

    def root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.peek() == "[":
            self.at += 1
            degree = self.sum()
            self.take("]")
        return ("fn", "root", self.argument(), degree)

    def function(self, name: str) -> Node:
        name = _OTHERWISE.get(name, name)
        power: Node | None = None
        base: list[Node] = []
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                power = self.exponent()
            else:
                base = [self.argument()]
        if self.peek() in ("(", "{", "["):
            opening = self.take()
            items = self.items()
            if _CLOSING.get(self.take()) != opening:
                raise Unreadable("brackets that do not fit")
        else:
            items = [self.bare_argument()]
        if power == ("neg", ("num", Fraction(1))) and name in TRIGONOMETRIC:
            return ("fn", "arc" + name, *items)
        node: Node = ("fn", name, *items, *base)
        return node if power is None else ("pow", node, power)

    def bare_argument(self) -> Node:
        r"""The argument of ``\sin 2x``: a product without signs, up to the next function."""
        self.deeper()
        node = self.signed()
        while self.factor_follows() and self.peek().lstrip("\\") not in FUNCTIONS and self.peek() not in ("(", "["):
            node = _times(node, self.power())
        if self.peek() == "/" and self.peek(1).isdecimal():
            self.at += 1
            node = ("div", node, self.power())
        self.depth -= 1
        return node

    def series(self, kind: str) -> Node:
        self.take("_")
        self.take("{")
        variable = self.take()
        self.take("=")
        low = self.sum()
        self.take("}")
        self.take("^")
        return (kind, variable, low, self.argument(), self.term())


def _added(terms: list[Node]) -> Node:
    if len(terms) > 1 and any(term[0] in STRUCTURES for term in terms):
        raise Unreadable("arithmetic of structures")
    return ("num", Fraction(0)) if not terms else terms[0] if len(terms) == 1 else ("add", *terms)


def _times(a: Node, b: Node) -> Node:
    if a[0] in STRUCTURES or b[0] in STRUCTURES - {"tuple"}:
        raise Unreadable("arithmetic of structures")
    return (*a, b) if a[0] == "mul" else ("mul", a, b)


_COMMANDS: dict[str, Callable[[Expressions], Node]] = {
    "frac": lambda parser: ("div", parser.argument(), parser.argument()),
    "binom": lambda parser: ("fn", "binom", parser.argument(), parser.argument()),
    "sqrt": Expressions.root,
    "lfloor": lambda parser: parser.rounded("floor"),
    "lceil": lambda parser: parser.rounded("ceil"),
    "sum": lambda parser: parser.series("sum"),
    "prod": lambda parser: parser.series("prod"),
}
