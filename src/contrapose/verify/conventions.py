"""What counts as the same answer where mathematics leaves it to custom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    r"""House rules of a comparison, each a switch. The defaults are those of competition mathematics.

    percent: a gold ``20\%`` is met by ``20\%``, ``20``, ``0.2`` and ``1/5``. Either way a gold ``20`` is not met by
        ``20\%``, and ``20\%`` is one fifth wherever else it stands.
    units: a unit, or currency, that only one of the two names is ignored. Two different units are never equal. Single
        letters are units after a space (``5 m/s``) if no letter is left in either.
    degrees: the same for the degree sign, and ``60^\circ`` is ``\frac{\pi}{3}``. Inside a function
        (``\sin 30^\circ``) it is always a factor.
    unordered: bare lists (``1, 2`` or ``1 and 2``) and sets have no order. Tuples always have one.
    intervals: ``(0, 1]``, ``0 < x \le 1`` and ``x \in (0, 1]`` are the same set.
    labels: ``x = 3``, ``f(x) = 3`` or ``\text{Area} = 3`` is met by ``3`` and meets it. Two labels must agree.
        ``m+n = 3`` meets ``3`` as the answer, not as the gold.
    e_notation: ``1.5e-3`` is a number.
    thousands: ``1,000``, ``1 000`` and ``1{,}000`` are one thousand.
    decimal_comma: ``3,14`` is a number and no list.
    tolerance: the greatest relative error of a number; 0 is exact, and then 0.333 is not a third, nor is any
        ``\approx 0.333`` read.
    """

    percent: bool = True
    units: bool = True
    degrees: bool = True
    unordered: bool = True
    intervals: bool = True
    labels: bool = True
    e_notation: bool = True
    thousands: bool = True
    decimal_comma: bool = False
    tolerance: float = 0.0
