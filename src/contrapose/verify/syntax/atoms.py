r"""The smallest parts of an expression: numbers, letters, words and units, and the cursor that reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from contrapose.verify.syntax.notation import QUALIFIERS
from contrapose.verify.syntax.tree import Node, Unreadable, symbols
from contrapose.verify.syntax.units import is_unit, names_unit

DEEPEST = 100
"""Rules, and nodes, one in another."""
TRIGONOMETRIC = frozenset(a + b for a in ("", "arc") for b in ("sin", "cos", "tan", "cot", "sec", "csc"))
FUNCTIONS = TRIGONOMETRIC | set(
    """sinh cosh tanh coth arcsinh arccosh arctanh ln log lg exp gcd lcm max min abs floor ceil asin acos atan
    Re Im""".split()  # noqa: SIM905
)
NAMES = set(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega pi infty emptyset ell
    hbar partial nabla angle triangle dots mho aleph perp parallel""".split()  # noqa: SIM905
)
"""Commands that are symbols."""


class Atoms(ABC):
    """A cursor over tokens and the rules for leaves. The rules for what holds leaves are those of deriving classes."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth, self.bars = tokens, 0, 0, 0

    @abstractmethod
    def items(self) -> list[Node]: ...

    @abstractmethod
    def primary(self) -> Node: ...

    @abstractmethod
    def power(self) -> Node: ...

    @abstractmethod
    def exponent(self) -> Node: ...

    @abstractmethod
    def function(self, name: str) -> Node: ...

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if not token or (wanted and token not in wanted):
            raise Unreadable(f"{token!r} where {wanted} should be")
        self.at += 1
        return token

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable("too deep")

    def minus(self) -> bool:
        """Whether the signs that follow come to a minus."""
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        return negative

    def raw(self) -> str:
        """A group, or one token, as it is written: a subscript, an accent's letters."""
        if self.peek() != "{":
            return self.take().removeprefix("\\")
        start, depth = self.at, 0
        while True:
            depth += {"{": 1, "}": -1}.get(self.take(), 0)
            if depth == 0:
                return "".join(self.tokens[start + 1 : self.at - 1]).replace("\\text", "").strip("{}\\ ")

    def number(self, token: str) -> Node:
        """A number, repeating decimal or mixed number."""
        value: Node = ("num", Fraction(token))
        if self.peek() == r"\overline" or (self.peek() == r"\dot" and "." in token):
            return self.repeating(token)
        if token.isdecimal() and self.peek() == r"\frac":
            start = self.at
            part = self.primary()
            if _is_proper(part):
                return ("add", value, part)
            self.at = start
        elif token.isdecimal() and self.peek().isdecimal() and self.peek(1) == "/" and self.peek(2).isdecimal():
            part = ("div", ("num", Fraction(self.peek())), ("num", Fraction(self.peek(2))))
            self.at += 3
            if _is_proper(part):
                return ("add", value, part)
            raise Unreadable("two numbers side by side")
        elif self.peek() and (self.peek()[0].isdecimal() or self.peek()[0] == "."):
            raise Unreadable("two numbers side by side")
        return value

    def repeating(self, token: str) -> Node:
        self.take()
        digits, places = self.raw(), len(token.partition(".")[2])
        if not digits.isdecimal() or "." not in token:
            raise Unreadable("no repeating decimal")
        return ("num", Fraction(token) + Fraction(int(digits), (10 ** len(digits) - 1) * 10**places))

    def symbol(self, name: str) -> Node:
        if self.peek() == "_":
            self.at += 1
            name += "_" + self.raw()
        while self.peek() == "'":
            name += self.take()
        if self.peek() != "(" or not (name[0] in "fgh" or self.names_function(name)):
            return ("sym", name)
        self.at += 1
        items = self.items()
        self.take(")")
        return ("call", name, *items)

    def names_function(self, name: str) -> bool:
        """Whether a letter before a bracket is a function and no factor: a capital before letters or a number alone."""
        ahead = 1
        while len(self.peek(ahead)) == 1 and self.peek(ahead).isalnum() and self.peek(ahead + 1) == ",":
            ahead += 2
        last = self.peek(ahead)
        simple = last.isdecimal() or (len(last) == 1 and last.isalpha())
        return simple and self.peek(ahead + 1) == ")" and (name[0].isupper() or name[:2].lstrip("\\").isupper())

    def word(self, word: str) -> Node:
        """Plain letters: a function, a Greek letter, or a product of letters."""
        name = word.lower()
        if name in FUNCTIONS and self.peek():
            return self.function(name)
        if name in NAMES and len(name) > 2:
            return self.symbol("\\" + name)
        self.at -= 1
        self.tokens[self.at : self.at + 1] = list(word)
        return self.primary()

    def named(self, name: str) -> Node:
        if name in FUNCTIONS:
            return self.function(name)
        if len(name) == 1:
            return self.symbol(name)
        if name in ("dollar", "euro", "pound"):
            return ("unit", self.power(), name)
        raise Unreadable("words among mathematics")

    def argument(self) -> Node:
        r"""A group, or a single digit or letter: ``\frac12``."""
        token = self.peek()
        if len(token) > 1 and (token.isdecimal() or token.isalpha()):
            self.tokens[self.at : self.at + 1] = list(token)
        if self.peek().isdecimal():
            return ("num", Fraction(self.take()))
        if self.peek().isalpha():
            return ("sym", self.take())
        return ("neg", self.primary()) if self.minus() else self.primary()

    def unit_follows(self, node: Node) -> bool:
        token = self.peek()
        if is_words(token):
            return not qualifies(token) and (token[6:-1] not in FUNCTIONS or is_unit(token[6:-1]))
        if is_letter(token):
            return node[0] not in ("sym", "call")
        if token == r"\pmod":
            return True
        plain = len(token) > 1 and token.isalpha() and (is_unit(token) or (len(token) > 3 and token not in FUNCTIONS))
        return plain and not symbols(node)

    def unit(self, node: Node) -> Node:
        """A value with its unit, the unit as it is written: ``m/s^2``."""
        run: list[str] = []
        while True:
            token = self.peek()
            if token.startswith(r"\text{"):
                run.append(self.take()[6:-1])
            elif token == r"\pmod":
                self.at += 1
                run.append(f"mod {_digits(self.argument())}")
            elif token.isalpha() and (len(token) > 1 or run[-1:] == ["/"]):
                run.append(self.take())
            elif run and token == "^":
                self.at += 1
                run[-1] += f"^{_digits(self.exponent())}"
            elif run and (token == "*" or (token == "/" and self.peek(1)[-1:].isalpha() | self.peek(1).endswith("}"))):
                run.append(self.take())
            elif names_unit(words := " ".join(run)):
                return ("unit", node, words)
            else:
                raise Unreadable(f"{words} is no unit")


def is_letter(token: str) -> bool:
    r"""Whether a token is a single letter in ``\text{}``, which may be a unit."""
    return token.startswith(r"\text{") and len(token) == len(r"\text{m}")


def qualifies(token: str) -> bool:
    return token[6:].rstrip("}").partition(" ")[0] in QUALIFIERS


def _is_proper(part: Node) -> bool:
    r"""Whether a fraction is of two whole numbers and below one, as in ``2\frac{1}{2}``."""
    if part[0] != "div" or part[1][0] != "num" or part[2][0] != "num":
        return False
    top, bottom = part[1][1], part[2][1]
    return bool(0 < top < bottom and top.denominator == bottom.denominator == 1)


def _digits(node: Node) -> str:
    if node[0] == "neg":
        return "-" + _digits(node[1])
    return str(node[1]) if node[0] in ("num", "sym") else repr(node)


def is_words(token: str) -> bool:
    return token.startswith(r"\text{") and not is_letter(token)
