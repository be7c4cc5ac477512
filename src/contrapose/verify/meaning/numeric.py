"""The value of a tree: exact while it is rational, else to 60 digits. Nothing large is ever computed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from fractions import Fraction
from functools import cache, partial
from typing import Any

from contrapose.verify.syntax.tree import Node

Value = Any  # Fraction, or a real or complex number of mpmath
DIGITS = 60
LARGEST_BITS = 1 << 17  # of an exact number
LARGEST_EXPONENT = 1 << 30  # of two, in an inexact one
LARGEST_ARGUMENT = 5_000  # of a factorial
MOST_STEPS = 10_000
INTEGERS = "klmn"  # letters that stand for whole numbers by custom


class Undefined(ArithmeticError):
    """The expression has no value here, or none that this module can compute."""


@cache
def mp(digits: int = DIGITS) -> Any:
    """mpmath's functions at so many digits."""
    from mpmath import MPContext

    context = MPContext()
    context.dps = digits
    return context


def sample(name: str, turn: int) -> Fraction:
    """Some number for a symbol, the same each time: positive in even turns, of either sign in odd ones. Of the letters
    for integers, each even turn has another one negative."""
    seed = zlib.crc32(f"{name}/{turn}".encode())
    if len(name) == 1 and name in INTEGERS:
        return Fraction(2 + seed % 37) * (-1 if turn == 2 * INTEGERS.index(name) else 1)
    value = Fraction(101 + seed % 997, 211 + seed // 997 % 499)
    return -value if turn % 2 and seed // 500_000 % 2 else value


class Evaluation:
    """One evaluation: the values of the symbols, the precision, whether only real numbers count, and a budget."""

    def __init__(self, symbols: Mapping[str, Fraction], digits: int = DIGITS, real: bool = False) -> None:
        self.symbols, self.mp, self.real, self.steps = dict(symbols), mp(digits), real, MOST_STEPS

    def __call__(self, node: Node) -> Value:
        self.steps -= 1
        rule = _RULES.get(node[0])
        if rule is None or self.steps < 0:
            raise Undefined(node[0])
        return self.checked(rule(self, *node[1:]))

    def checked(self, value: Value) -> Value:
        if isinstance(value, Fraction):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST_BITS:
                raise Undefined("too large")
            return value
        if not self.mp.isfinite(value):
            raise Undefined("infinite")
        if isinstance(value, self.mp.mpc) and value.imag == 0:
            return value.real
        if self.real and isinstance(value, self.mp.mpc):
            raise Undefined("not real")
        return value

    def inexact(self, value: Value) -> Value:
        return self.mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    def combined(self, operation: Any, a: Value, b: Value) -> Value:
        if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
            a, b = self.inexact(a), self.inexact(b)
        return self.checked(operation(a, b))


def _symbol(ev: Evaluation, name: str) -> Value:
    if name in ev.symbols:
        return ev.symbols[name]
    if name == "\\pi":
        return +ev.mp.pi
    if name == "e":
        return +ev.mp.e
    if name == "i":
        return ev.mp.mpc(0, 1)
    raise Undefined(name)


def _call(ev: Evaluation, name: str, *arguments: Node) -> Value:
    """An unknown function: some number that depends on the values of its arguments."""
    values = [ev.mp.nstr(ev.inexact(ev(a)), 30) for a in arguments]
    return sample(f"{name}({values})", 0)


def _add(ev: Evaluation, *terms: Node) -> Value:
    total: Value = Fraction(0)
    for term in terms:
        total = ev.combined(_sum, total, ev(term))
    return total


def _sum(a: Value, b: Value) -> Value:
    """The sum, unless one is so great that the other would be lost without trace."""
    if not isinstance(a, Fraction) and a != 0 != b:
        large, small = sorted((abs(a), abs(b)))[::-1]
        if large > 10.0 ** (DIGITS // 2) and small < large * 10.0 ** (15 - DIGITS):
            raise Undefined("digits are lost")
    return a + b


def _multiply(ev: Evaluation, *factors: Node) -> Value:
    product: Value = Fraction(1)
    for factor in factors:
        value = ev(factor)
        product = ev.combined(lambda a, b: a * b, product, value)
    return product


def _divide(ev: Evaluation, top: Node, bottom: Node) -> Value:
    a, b = ev(top), ev(bottom)
    if b == 0:
        raise Undefined("division by zero")
    return ev.combined(lambda a, b: a / b, a, b)


def _power(ev: Evaluation, base: Node, exponent: Node) -> Value:
    return power(ev, ev(base), ev(exponent))


def power(ev: Evaluation, a: Value, b: Value) -> Value:
    if a == 0:
        if not isinstance(b, Fraction) or b < 0:
            raise Undefined("a power of zero")
        return Fraction(int(b == 0))
    if isinstance(a, Fraction) and isinstance(b, Fraction) and b.denominator == 1:
        if abs(a) != 1 and abs(b) * max(a.numerator.bit_length(), a.denominator.bit_length()) > LARGEST_BITS:
            raise Undefined("too large")
        return a ** int(b % 2 if abs(a) == 1 else b)
    x, y = ev.inexact(a), ev.inexact(b)
    if abs(y) * (abs(ev.mp.log(abs(x), 2)) + 8) > LARGEST_EXPONENT:
        raise Undefined("too large")
    if isinstance(a, Fraction) and isinstance(b, Fraction) and a > 0 and (exact := _exact_root(a, b)) is not None:
        return exact
    return ev.mp.power(x, y)


def _exact_root(a: Fraction, b: Fraction) -> Fraction | None:
    """a ** b where that is rational, as in 8^{2/3}."""
    if b.denominator != 2 or abs(b.numerator) > 64 or max(a.numerator, a.denominator).bit_length() > 2048:
        return None
    top, bottom = math.isqrt(a.numerator), math.isqrt(a.denominator)
    return Fraction(top, bottom) ** b.numerator if top**2 == a.numerator and bottom**2 == a.denominator else None


def _root(ev: Evaluation, radicand: Node, degree: Node) -> Value:
    a, n = ev(radicand), ev(degree)
    if n == 0:
        raise Undefined("a zeroth root")
    if isinstance(n, Fraction) and n.denominator == 1 and n % 2 == 1 and not isinstance(a, ev.mp.mpc) and a < 0:
        return -power(ev, -a, 1 / n)
    return power(ev, a, ev.combined(lambda x, y: x / y, Fraction(1), n))


def _factorial(ev: Evaluation, a: Value) -> Value:
    if isinstance(a, Fraction) and a.denominator == 1:
        if not 0 <= a <= LARGEST_ARGUMENT:
            raise Undefined("factorial")
        return Fraction(math.factorial(int(a)))
    return ev.mp.gamma(ev.inexact(a) + 1) if abs(a) < LARGEST_ARGUMENT else _undefined()


def _double_factorial(_: Evaluation, a: Value) -> Value:
    if not isinstance(a, Fraction) or a.denominator != 1 or not 0 <= a <= LARGEST_ARGUMENT:
        raise Undefined("double factorial")
    return Fraction(math.prod(range(int(a), 0, -2)))


def _binomial(ev: Evaluation, n: Value, k: Value) -> Value:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1 and n >= 0:
        k = min(k, n - k)
        if k > 0 and k * n.numerator.bit_length() > LARGEST_BITS:
            raise Undefined("too large")
        return Fraction(math.comb(int(n), int(k)) if k >= 0 else 0)
    if isinstance(k, Fraction) and k < 0:
        raise Undefined("a binomial of negative numbers")
    if abs(n) > LARGEST_ARGUMENT or abs(k) > LARGEST_ARGUMENT:
        raise Undefined("too large")
    return ev.mp.binomial(ev.inexact(n), ev.inexact(k))


def _logarithm(ev: Evaluation, a: Value, base: Value = None) -> Value:
    if a == 0 or base in (0, 1):
        raise Undefined("logarithm")
    return ev.mp.log(ev.inexact(a)) if base is None else ev.mp.log(ev.inexact(a)) / ev.mp.log(ev.inexact(base))


def _undefined(*_: Any) -> Value:
    raise Undefined


def _whole(function: Any) -> Any:
    def rule(_: Evaluation, *values: Value) -> Value:
        if any(not isinstance(v, Fraction) or v.denominator != 1 for v in values):
            raise Undefined("whole numbers only")
        return Fraction(function(*map(int, values)))

    return rule


def _rounded(ev: Evaluation, a: Value, up: bool) -> Value:
    if isinstance(a, Fraction):
        return Fraction(math.ceil(a) if up else math.floor(a))
    if isinstance(a, ev.mp.mpc) or abs(a) > 10 ** (DIGITS // 2):
        raise Undefined("rounding")
    return Fraction(int(ev.mp.ceil(a) if up else ev.mp.floor(a)))


def _modulo(_: Evaluation, a: Value, b: Value) -> Value:
    if not isinstance(a, Fraction) or not isinstance(b, Fraction) or b == 0:
        raise Undefined("modulo")
    return a % b


def _extreme(function: Any) -> Any:
    def rule(ev: Evaluation, *values: Value) -> Value:
        if any(isinstance(v, ev.mp.mpc) for v in values):
            raise Undefined("order of complex numbers")
        return function(values)

    return rule


_EXACT = {
    "factorial": _factorial, "factorial2": _double_factorial, "binom": _binomial, "ln": _logarithm, "log": _logarithm,
    "lg": lambda ev, a: _logarithm(ev, a, Fraction(10)), "abs": lambda ev, a: abs(a), "mod": _modulo,
    "floor": partial(_rounded, up=False), "ceil": partial(_rounded, up=True), "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm), "max": _extreme(max), "min": _extreme(min),
    "exp": lambda ev, a: power(ev, ev.mp.e, a),
}  # fmt: skip
_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
          "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "Re": "re", "Im": "im"}  # fmt: skip


def _function(ev: Evaluation, name: str, *arguments: Node) -> Value:
    if name == "root":
        return _root(ev, *arguments)
    values = [ev(a) for a in arguments]
    try:
        if name in _EXACT:
            return _EXACT[name](ev, *values)
        (argument,) = map(ev.inexact, values)
        if abs(argument) > LARGEST_EXPONENT:
            raise Undefined("too large")
        return getattr(ev.mp, _NAMES.get(name, name))(argument)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise Undefined(name) from error


def _series(ev: Evaluation, variable: str, low: Node, high: Node, body: Node, product: bool) -> Value:
    start, stop = ev(low), ev(high)
    whole = all(isinstance(v, Fraction) and v.denominator == 1 for v in (start, stop))
    if not whole or not -1 <= stop - start <= MOST_STEPS:
        raise Undefined("bounds")
    total: Value = Fraction(int(product))
    outer = ev.symbols.get(variable)
    for k in range(int(start), int(stop) + 1):
        ev.symbols[variable] = Fraction(k)
        total = ev.combined((lambda a, b: a * b) if product else _sum, total, ev(body))
    ev.symbols.pop(variable, None)
    if outer is not None:
        ev.symbols[variable] = outer
    return total


def _unit(ev: Evaluation, node: Node, name: str) -> Value:
    value = ev(node)
    return ev.inexact(value) * ev.mp.pi / 180 if name == "degree" else _undefined()


_RULES: dict[str, Any] = {
    "num": lambda ev, value: value, "sym": _symbol, "call": _call, "add": _add, "mul": _multiply, "div": _divide,
    "neg": lambda ev, a: -ev(a), "pow": _power, "fn": _function, "unit": _unit,
    "percent": lambda ev, a: ev.combined(lambda x, y: x / y, ev(a), Fraction(100)),
    "ratio": lambda ev, *parts: _divide(ev, *parts) if len(parts) == 2 else _undefined(), "clock": _divide,
    "sum": partial(_series, product=False), "prod": partial(_series, product=True),
    "base": lambda ev, digits, base: _based(digits, base),
}  # fmt: skip


def _based(digits: str, base: str) -> Fraction:
    try:
        return Fraction(int(digits, int(base)))
    except ValueError as error:
        raise Undefined("base") from error
