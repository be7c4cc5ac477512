"""Equality of answers: exact for plain numbers, symbolic for the rest, and never generous with a wrong value."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrapose.verify.equal import LONGEST_ANSWER, equal, number

INTEGERS = [
    ("7", "7"),
    ("7", "007"),
    ("-7", "-07"),
    ("7", "+7"),
    ("+7", "7"),
    ("0", "-0"),
    ("0", "000"),
    ("7", " 7 "),
    ("7", "$7$"),
    ("7", "7."),
    ("-5", "- 5"),
    ("7", r"\left7\right"),
    ("7", r"\displaystyle 7"),
]
THOUSANDS = [
    ("1000", "1,000"),
    ("1,000", "1000"),
    ("1234567", "1,234,567"),
    ("-12000", "-12,000"),
    ("1000", r"1\,000"),
    ("1000", r"1{,}000"),
    ("1000000", r"1\!000\!000"),
    ("1000.5", "1,000.5"),
]
DECIMALS = [
    ("0.5", ".5"),
    ("0.5", "0.50"),
    ("-0.5", "-.5"),
    ("5", "5.0"),
    ("5", "5.000"),
    ("2.75", "02.75"),
    ("100000", "100,000.0"),
]
FRACTIONS = [
    ("1/2", "0.5"),
    ("1/2", "2/4"),
    ("1/2", "+1/2"),
    ("3", "6/2"),
    ("1/2", r"\frac{1}{2}"),
    ("1/2", r"\dfrac{1}{2}"),
    ("1/2", r"\tfrac{1}{2}"),
    ("1/2", r"\cfrac{1}{2}"),
    ("1/2", r"\frac12"),
    ("1/2", r"\dfrac12"),
    ("1/2", r"\tfrac 1 2"),
    ("1/2", r"\frac{1}2"),
    ("1/2", r"\frac 1{2}"),
    ("-1/2", r"-\frac{1}{2}"),
    ("-1/2", r"\frac{-1}{2}"),
    ("-1/2", r"\frac{1}{-2}"),
    ("-1/2", r"-\frac12"),
    ("1/2", r"-\frac{-1}{2}"),
    (r"\frac{3}{2}", r"1\frac{1}{2}"),
    (r"\frac{22}{7}", r"\frac{ 22 }{ 7 }"),
    ("0", "0/5"),
]
LATEX = [
    (r"\sqrt{2}", r"\sqrt2"),
    (r"\sqrt{2}", r"2^{1/2}"),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"\pi", "π"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    (r"2\pi", r"\pi \cdot 2"),
    (r"\{1,2\}", r"\{2,1\}"),
    (r"\{1,2\}", r"\{1, 2\}"),
    ("(1,2)", "(1, 2)"),
    (r"(1,\frac{1}{2})", r"\left( 1, 0.5 \right)"),
    (r"[0,1)", r"\left[0, 1\right)"),
    (r"(-\infty,3]", r"\left(-\infty, 3\right]"),
    (r"(-\infty, 1) \cup (2, \infty)", r"(-\infty,1)\cup(2,\infty)"),
    ("x+1", "1+x"),
    ("x^2-1", "(x-1)(x+1)"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\sin x", r"\sin(x)"),
    ("4", "2+2"),
    ("8", "2^3"),
    ("5", "x=5"),
    (r"\text{blue}", r"\text{ blue }"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}\frac{2}{2}\\2\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}\frac{2}{2}\\2\end{pmatrix}"),
]
MONEY = [("18", r"\$18"), (r"\$18", "18"), ("18.90", r"\$18.90"), ("2125", r"\$2,125")]
EQUALS = [*INTEGERS, *THOUSANDS, *DECIMALS, *FRACTIONS, *LATEX, *MONEY]

DIFFERENT = [
    ("7", "-7"),
    ("7", "8"),
    ("7", "77"),
    ("7", "70"),
    ("7", "7.01"),
    ("1000", "1"),
    ("1000", "1,00,0"),
    ("1000", "1,0,0,0"),
    ("1000", "1,0000"),
    ("1234", "12,34"),
    ("1/2", "2"),
    ("1/2", "1/3"),
    ("1/2", "2/1"),
    ("1/2", "-1/2"),
    (r"\frac12", r"\frac21"),
    ("1/3", "0.333"),
    ("1/3", "0.3333333333333333"),
    ("0.1", "0.10000000000000001"),
    ("9007199254740993", "9007199254740992"),
    ("1", "0.99999999999999999999"),
    ("1/0", "2/0"),
    ("1/0", "1"),
    (r"\sqrt{2}", "1.414"),
    (r"\sqrt{2}", r"\sqrt{3}"),
    (r"\sqrt{2}", r"-\sqrt{2}"),
    (r"\pi", "3.14"),
    (r"\pi", r"2\pi"),
    (r"\{1,2\}", r"\{1,3\}"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("(1,2)", "(2,1)"),
    ("(1,2]", "[1,2]"),
    (r"(-\infty,3)", r"(-\infty,3]"),
    (r"\infty", r"-\infty"),
    ("x+1", "x+2"),
    ("x+1", "x-1"),
    ("x^2", "2x"),
    (r"\text{even}", r"\text{odd}"),
    ("A", "B"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ("11/2", "1 1/2"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUALS)
def test_the_same_value_in_another_notation_is_right(gold, answer):
    assert equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_another_value_is_wrong(gold, answer):
    assert not equal(gold, answer)
    assert not equal(answer, gold)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (f"1/{2**99}", f"1/{2**98}"),
        (rf"\frac{{1}}{{{2**99}}}", rf"\frac{{1}}{{{2**98}}}"),
        (f"{10**399}", f"{10**399 + 1}"),
        (f"{10**400}", f"{10**400 + 1}"),
        (f"{10**600}", f"{10**600 + 1}"),
        ("0." + "0" * 399 + "1", "0." + "0" * 399 + "2"),
        ("0." + "3" * 400, "1/3"),
        (f"{10**399 + 1}/{10**399}", "1"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
        ("0.0000001", r"10^{-8}"),
    ],
    ids=lambda text: text[:20],
)
def test_numbers_that_floats_cannot_tell_apart_differ(a, b):
    assert equal(a, a)
    assert not equal(a, b)
    assert not equal(b, a)


def test_a_long_number_is_equal_in_its_other_notations():
    ten = "1" + "0" * 399
    assert equal(ten, ten + ".0")
    assert equal(ten, f"{ten}/1")
    assert equal(ten, f"{int(ten):,}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", Fraction(3)),
        ("-03", Fraction(-3)),
        ("1,234", Fraction(1234)),
        (".25", Fraction(1, 4)),
        ("3.", Fraction(3)),
        ("-6/4", Fraction(-3, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"\tfrac34", Fraction(3, 4)),
        ("1/0", None),
        ("1.2.3", None),
        ("1,23", None),
        (",123", None),
        ("1e5", None),
        ("x", None),
        ("", None),
        (".", None),
        ("-", None),
        ("1/2/3", None),
        (r"\frac123", None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_number_reads_plain_numbers_exactly_and_nothing_else(text, value):
    assert number(text) == value


@given(st.integers(), st.integers())
def test_integers_are_equal_only_to_themselves(a, b):
    assert equal(str(a), f"{a:,}")
    assert equal(str(a), f"{b:+d}") == (a == b)


@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999), st.integers(1, 50))
def test_fractions_are_equal_by_value_not_by_spelling(a, b, factor):
    spelled = f"{b.numerator * factor}/{b.denominator * factor}"
    assert equal(f"{a.numerator}/{a.denominator}", spelled) == (a == b)
    assert equal(rf"\frac{{{b.numerator}}}{{{b.denominator}}}", spelled)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_trailing_zeros_change_nothing(value):
    assert equal(f"{value:f}", f"{value:f}000")
    assert not equal(f"{value:f}", f"{value:f}1")


def test_an_empty_answer_is_never_right():
    for gold, answer in [("", ""), ("1", ""), ("", "1"), (" ", ""), ("$$", "$$"), (".", ".")]:
        assert not equal(gold, answer)


@pytest.mark.parametrize(
    "answer", ["1 or 7", "7, 8", "6, 7", "7 8", "(7, 7)", r"7 \text{ or } 8", "7x", "7!", "7i", r"7 \pm 1", r"\{6, 7\}"]
)
def test_an_answer_that_holds_the_gold_among_others_is_wrong(answer):
    assert not equal("7", answer)


def test_an_answer_longer_than_any_is_wrong_though_its_value_is_right():
    at_the_limit = "7" + "+0" * ((LONGEST_ANSWER - 1) // 2)
    assert not equal("7", at_the_limit + "+0+0")


def test_a_long_answer_that_is_the_gold_itself_is_right():
    long = "+".join(f"x_{{{i}}}" for i in range(LONGEST_ANSWER))
    assert len(long) > LONGEST_ANSWER
    assert equal(long, long)


@pytest.mark.parametrize("part", ["9", "1/", "(", "{", "x+", "1,", ",000", "7 "])
def test_a_megabyte_of_answer_is_wrong(part):
    assert not equal("7", part * (1_000_000 // len(part)))


@pytest.mark.parametrize(
    "answer", ["(", ")", "^", "_", "&", "%", "\\", r"\frac", r"\frac{", "}{", "\x00", "\ud800", "∞∞"]
)
def test_answers_that_mean_nothing_are_wrong_and_do_no_harm(answer):
    assert not equal("7", answer)
