r"""The same answer in another notation is right, another answer is wrong, and each rule has its switch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrapose.verify.conventions import Conventions
from contrapose.verify.equal import compare, equal

RIGHT = [
    ("4", "4"),
    ("2,3", "3,2"),
    (r"\{1,2\}", "1, 2"),
    ("x=3", "3"),
    ("3", "x = 3"),
    (r"20\%", "0.2"),
    (r"20\%", "20"),
    (r"20\%", "1/5"),
    (r"20\%", r"20\,\%"),
    (r"20\%", r"20 \text{ percent}"),
    ("0.2", r"20\%"),
    (r"-20\%", r"-20\%"),
    (r"12.5\%", r"\frac{1}{8}"),
    (r"12.5\%", r"\frac{25}{2}"),
    (r"5 \text{ cm}", "5"),
    ("5", r"5\text{ cm}"),
    (r"5 \text{ cm}", r"5\,\mathrm{cm}"),
    (r"5 \text{ centimeters}", "5 cm"),
    (r"\$18", "18"),
    ("18", r"\$18"),
    ("18", "18 dollars"),
    ("18.00", r"\$18"),
    (r"60^\circ", "60"),
    ("60", r"60^{\circ}"),
    (r"60^\circ", r"60 \text{ degrees}"),
    (r"\sin 30^\circ", "1/2"),
    (r"\tan 45^\circ", "1"),
    (r"1\,000", "1000"),
    ("1,000", "1000"),
    ("1{,}000", "1000"),
    (r"3 \pm \sqrt{2}", r"3+\sqrt2, 3-\sqrt2"),
    (r"x = 3 \pm \sqrt{2}", r"3-\sqrt2, 3+\sqrt2"),
    (r"\pm 1", "1, -1"),
    (r"\pm 1, \pm 2", "-2,-1,1,2"),
    ("(0,1]", r"0 < x \le 1"),
    ("(0,1]", r"x \in (0,1]"),
    (r"0<x\le 1", "(0,1]"),
    (r"(-\infty,3)", "x<3"),
    ("x<3", "x < 3"),
    ("3 > x", "x<3"),
    (r"(-\infty,1)\cup(2,\infty)", r"x<1 \text{ or } x>2"),
    (r"(0,1)\cup(2,3)", r"(2,3)\cup(0,1)"),
    ("2.5", r"2\frac{1}{2}"),
    ("2 1/4", "9/4"),
    (r"-2\frac12", "-2.5"),
    (r"0.\overline{3}", "1/3"),
    (r"0.1\overline{6}", "1/6"),
    ("1.5e-3", "0.0015"),
    (r"1.5\times 10^{-3}", "0.0015"),
    ("y = 2x+3", "y=3+2x"),
    ("y=2x+3", "2x - y + 3 = 0"),
    ("2x+3", "y = 2x + 3"),
    ("x^2+y^2=1", "2x^2 + 2y^2 = 2"),
    (r"\frac{1}{2}x", r"\frac{x}{2}"),
    (r"\sqrt[3]{8}", "2"),
    ("8^{2/3}", "4"),
    (r"\log_2 8", "3"),
    (r"\ln e^2", "2"),
    (r"\binom{5}{2}", "10"),
    ("5!", "120"),
    (r"\lfloor 3.7\rfloor", "3"),
    ("|{-3}|", "3"),
    ("|x|", "|x|"),
    (r"\sqrt{x^2}", "|x|"),
    (r"e^{i\pi}", "-1"),
    ("i^2", "-1"),
    (r"\cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{3\pi}{7}", r"\frac18"),
    ("2^{10}", "1024"),
    (r"\sin^2 x + \cos^2 x", "1"),
    (r"\sin 2x", r"2\sin x\cos x"),
    (r"\tan^{-1} 1", r"\pi/4"),
    (r"\arctan 1", r"\frac{\pi}{4}"),
    ("101_2", "101_{2}"),
    ("101_2", "5"),
    ("A", r"\text{(A)}"),
    ("A", "(A)"),
    ("A", r"\textbf{A}"),
    (r"\text{even}", "even"),
    (r"\text{Even}", r"\text{even}"),
    (r"\text{Yes}", "yes"),
    (r"\sum_{k=1}^{10} k", "55"),
    (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
    ("n!", "n (n-1)!"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    ("a^{m+n}", "a^m a^n"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
    ("f(x)=x^2", "x^2"),
    ("f(x)=x^2", "f(t)=t^2"),
    ("3:4", "6:8"),
    ("3:4", r"\frac34"),
    (r"\frac{1 + \sqrt{97}}{8} \approx 1.36", r"\frac{1 + \sqrt{97}}{8}"),
    (r"\frac{1 + \sqrt{97}}{8}", r"\frac{1 + \sqrt{97}}{8} \approx 1.36"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("(1,2)", "x=1,y=2"),
    ("x=1,y=2", "(1,2)"),
    ("x=1, y=2", "y=2, x=1"),
    (r"\emptyset", r"\{\}"),
    (r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"k \ge 2", r"[2,\infty)"),
    (r"\frac{\sqrt3}{3}", r"\frac{1}{\sqrt3}"),
    (r"\sqrt{6+2\sqrt5}", r"1+\sqrt5"),
    (r"\lim_{x\to 0} \frac{\sin x}{x}", "1"),
    (r"\int_0^1 x dx", r"\frac12"),
    ("x^2 + C", "C + x^2"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"-\frac12", r"\frac{1}{-2}"),
    ("1", r"0.9\overline{9}"),
    (r"2\sqrt{3} \text{ cm}", r"\sqrt{12}"),
    (r"10\text{ cm}^2", r"10\text{ cm}^{2}"),
    (r"10 \text{ m/s}", r"10\text{ m}/\text{s}"),
    (r"x \ne 2", r"x \neq 2"),
    (r"\frac{3}{4}\pi", r"\frac{3\pi}{4}"),
    ("AB = 5", "5"),
    (r"\angle ABC = 60^\circ", "60"),
    (r"\text{Area} = 5", "5"),
    (r"12^{\text{th}}", "12"),
    ("1000000", "10^6"),
    ("x+y=5", "y = 5-x"),
    ("3x", r"x \cdot 3"),
    ("0.5x", r"\frac{x}{2}"),
    (r"\cot x", r"\frac{1}{\tan x}"),
    (r"\log_{10} 100", "2"),
    (r"5 \text{ or } 7", "5, 7"),
    ("5, 7", "5 and 7"),
    ("3^{-2}", "1/9"),
    (r"(2,\infty)", r"(2, +\infty)"),
    ("x = 5", "5 = x"),
    (r"\text{June 20}", "June 20"),
    (r"\text{(B)}", "B"),
    (r"6.02 \times 10^{23}", "6.02e23"),
    (r"\frac{x+1}{x-1}", r"1+\frac{2}{x-1}"),
    (r"\{x \mid x > 2\}", r"(2,\infty)"),
    ("1-2i", "-2i+1"),
    (r"\frac{1}{1+i}", r"\frac{1-i}{2}"),
    (r"[0,1)\cup[1,2)", "[0,2)"),
    ("x² + 1", "x^2+1"),
    ("x^{10}", "x¹⁰"),
    ("x₁", "x_1"),
    ("\u03b1+1", r"\alpha + 1"),
    (r"0.\dot{3}", r"\frac13"),
    (r"\underline{15}", "15"),
    (r"\bm{15}", "15"),
    (r"\begin{cases}x=1\\y=2\end{cases}", "x=1, y=2"),
    (r"\begin{cases}x=1\\y=2\end{cases}", "(1,2)"),
    (r"\frac{1}{2}^2", r"\frac14"),
    (r"\frac{3}{2}!", r"\frac{3}{4}\sqrt\pi"),
    (r"\Delta p \approx \frac{x}{2}", "0.5x"),
    (r"a \in \{2, 3\}", "3, 2"),
    (r"\frac{NO}{BO} = \frac12", "0.5"),
    ("xy = 6", r"\frac{6}{x}"),
    ("V_1:V_2 = 11:21", "11:21"),
    ("N(n) = n+1", "n+1"),
    (r"12 \text{ min}", "12"),
    (r"\frac{dy}{dx} = 2x", "2x"),
    (r"\frac{1 + \sqrt{97}}{8} \approx 1.36", "1.36"),
    ("5", "5 = x"),
    ("x = 1 + 1 = 2", "2"),
    (r"m \ge \sqrt{2}", r"m \in [\sqrt{2}, +\infty)"),
]
WRONG = [
    ("2", "2,3"),
    ("2,3", "2"),
    ("4", r"4\sqrt2"),
    (r"1\sqrt{19}", "1"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
    (r"\frac{\pi}{2004!}", r"\frac{\pi}{2006!}"),
    ("9", r"9\%"),
    (r"5\text{ cm}", r"5\text{ km}"),
    ("5 cm", "5 km"),
    ("42", "1=2=42"),
    ("42", "1+1=42"),
    ("101_2", "101"),
    ("101_2", "101_3"),
    ("12:00", "1:00"),
    ("12:30", "6:15"),
    ("E", r"\mathrm{E}*2"),
    ("E", "2E"),
    ("(1,2)", "(2,1)"),
    ("(1,2]", "[1,2]"),
    ("x=1", "y=1"),
    ("x=1", "x=2"),
    ("1/3", "0.333"),
    (r"\frac13", "0.33333333333333333333333"),
    ("3.14", r"\pi"),
    ("f(x)", "f(y)"),
    ("x", "|x|"),
    (r"\sqrt{x^2}", "x"),
    ("x<3", "x>3"),
    ("x<3", r"x\le 3"),
    ("(0,1)", "[0,1]"),
    ("x^2=4", "2"),
    ("a^2+b=0", "0"),
    ("2x+z=1", "1"),
    ("2k", "2"),
    ("10", "10^{10}"),
    ("10^{10^{10}}", "10^{10}"),
    ("2^{10^6}+1", "2^{10^6}"),
    ("10^{10^{10}}", "10^{10^{10}}+1"),
    ("1", r"1 \pm 1"),
    (r"\pm 1", "1"),
    (r"\emptyset", "0"),
    ("none", "0"),
    (r"\text{none}", "0"),
    (r"\text{odd}", r"\text{even}"),
    ("A", "B"),
    ("A", "a"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    (r"\{1,2,2\}", r"\{1,1,3\}"),
    ("1,1,2", "1,2,2"),
    (r"10\text{ cm}^2", r"10\text{ cm}^3"),
    ("3:4", "4:3"),
    ("n", "n+1"),
    ("x", "y"),
    (r"\frac{1}{2}", "1,2"),
    ("12", "1,2"),
    ("1", "1 or 2"),
    ("7", "7x"),
    ("7", r"7 \text{ or } 8"),
    ("1", r"\approx 1"),
    ("5", r"2 \approx 5"),
    ("i", "1"),
    ("i", "-i"),
    (r"\infty", r"-\infty"),
    ("0", "10^{-50}"),
    ("0", r"\frac{1}{2004!}"),
    ("0", r"\frac{\pi}{10^{70}}"),
    (r"\pi", r"\frac{355}{113}"),
    (r"e^{\pi\sqrt{163}}", "262537412640768744"),
    ("x<1", r"(1,\infty)"),
    ("1<x<2", "1<x<3"),
    (r"\frac{0}{0}", "0"),
    ("1/0", r"\infty"),
    ("20", r"20\%"),
    (r"0.5\%", r"0.5\text{ cm}"),
    ("3x=6", "6"),
    ("y=x", "y=-x"),
    (r"\frac{a}{b}", r"\frac{b}{a}"),
    ("x^2", "x^3"),
    ("1.0e5", "1.0e6"),
    (r"3 \text{ apples}", r"3 \text{ oranges}"),
    ("x>0, y>0", "x>0"),
    (r"5 \pmod 7", r"5 \pmod 6"),
    ("15", r"15 \pm 2"),
    ("1, 2, 3", "(3,2,1)"),
    ("ab", "ac"),
    ("(1,000)", "(1,0)"),
    ("-5", "5"),
    ("5", "--5x"),
    (r"\text{No}", r"\text{Yes}"),
    ("8", "8!"),
    ("8", "8 8"),
    ("0", r"\text{}"),
    ("3", r"\{3, 4\}"),
    ("3", "(3, 4)"),
    ("x^2+C", "x^2"),
    ("2x+3", "y=2x+4"),
    ("1", r"\sin"),
    ("6", "3!!"),
    (r"\log 2", r"\log 3"),
    ("a_1", "a_2"),
    ("a_1", "a"),
    (r"[0,1)\cup(1,2)", "[0,2)"),
    ("I(0)", "-I(0)"),
    ("P(0)", "0"),
    (r"-x \in [1,2]", r"x \in [1,2]"),
    (r"3 \text{ hours } 20 \text{ minutes}", "60"),
    ("f(x) = 1-x^2", "f(w) = 1-x^2"),
    ("AB = 5", "AC = 5"),
    ("(1,2,3)", "[1,2,3)"),
    ("x > 3", "w > 3"),
    (r"10^{60}\pi", r"10^{60}\pi + 1"),
    (r"\frac{\pi}{2}^2", r"\frac{\pi}{2^2}"),
    ("1, 000", "1,000"),
    (r"1 \text{ and odd primes}", "1"),
    (r"\text{June 20}", r"\text{July 20}"),
    ("42", r"7 \approx 42"),
    (r"1.5 \text{ feet}", r"1 5 \text{ feet}"),
    ("2", "x = 1 + 2 = 2"),
]
DIRECTIONAL = "%"
"""Only a percentage is read otherwise in the gold than in the answer."""


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_the_same_in_another_notation_is_right(gold, answer):
    assert compare(gold, answer) == "correct"
    assert DIRECTIONAL in gold or compare(answer, gold) == "correct"


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_another_answer_is_wrong(gold, answer):
    assert compare(gold, answer) != "correct"
    assert DIRECTIONAL in answer or compare(answer, gold) != "correct"


@pytest.mark.parametrize(("gold", "answer"), [*RIGHT, *WRONG])
def test_every_answer_is_itself(gold, answer):
    for text in (gold, answer):
        assert equal(text, text) or not text.strip("\\{} ") or "}" not in text


@pytest.mark.parametrize(
    ("switch", "value", "gold", "answer"),
    [
        ("percent", False, r"20\%", "20"),
        ("units", False, r"5\text{ cm}", "5"),
        ("degrees", False, r"60^\circ", "60"),
        ("unordered", False, "1, 2", "2, 1"),
        ("unordered", False, r"\{1, 2\}", r"\{2, 1\}"),
        ("intervals", False, "(0, 1]", r"0 < x \le 1"),
        ("labels", False, "3", "x = 3"),
        ("labels", False, "1, 2", "(x, y) = (1, 2)"),
        ("e_notation", False, "1500", "1.5e3"),
        ("thousands", False, "1000", "1,000"),
        ("decimal_comma", True, "3, 14", "3,14"),
    ],
)
def test_a_switch_turns_its_rule_off(switch, value, gold, answer):
    assert equal(gold, answer)
    assert not equal(gold, answer, Conventions(**{switch: value}))


def test_a_decimal_comma_is_read_where_the_convention_says_so():
    assert equal("3.14", "3,14", Conventions(decimal_comma=True))
    assert not equal("3.14", "3,14")


@pytest.mark.parametrize(
    ("gold", "answer", "within"),
    [
        ("3.83e35", r"3.80 \times 10^{35}", True),
        ("100", "101", True),
        ("100", "102", False),
        (r"\pi", "3.14", True),
        ("x", "1.001x", True),
        ("1, 200", "201, 1", True),
        ("0", "0.001", False),
    ],
)
def test_a_tolerance_is_relative_to_the_gold(gold, answer, within):
    assert equal(gold, answer, Conventions(tolerance=0.01)) == within
    assert not equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer", "judgement"),
    [
        ("4", "4", "correct"),
        ("4", "5", "wrong"),
        ("4", "x", "wrong"),
        ("4", r"\frac{", "unparsed"),
        ("4", "2 +* 3", "unparsed"),
        ("4", "4" + "+0" * 1000, "too_long"),
        (r"so \boxed{4} apples and \boxed{5} pears", "4, 5", "correct"),
    ],
)
def test_a_verdict_says_why(gold, answer, judgement):
    assert compare(gold, answer) == judgement


NUMBERS = st.fractions(max_denominator=60).filter(lambda q: abs(q) < 10**6)


def _latex(q):
    return rf"{'-' if q < 0 else ''}\frac{{{abs(q.numerator)}}}{{{q.denominator}}}"


@given(NUMBERS, NUMBERS)
def test_equality_is_by_value_and_symmetric(a, b):
    for left, right in [(_latex(a), f"({b.numerator})/({b.denominator})"), (f"x = {a}", _latex(b))]:
        assert equal(left, right) == equal(right, left) == (a == b)


@given(NUMBERS, NUMBERS)
def test_lists_have_no_order_and_tuples_have_one(a, b):
    assert equal(f"{_latex(a)}, {_latex(b)}", rf"\{{{b}, {a}\}}") == (a != b or equal(f"{a}", f"{b}"))
    assert equal(f"({_latex(a)}, {_latex(b)})", f"({b}, {a})") == (a == b)


@given(NUMBERS, st.integers(2, 50))
def test_surds_are_told_apart(q, n):
    surd = rf"{_latex(q)} + \sqrt{{{n}}}"
    assert equal(surd, rf"\sqrt{{{4 * n}}}/2 + {_latex(q)}")
    assert not equal(surd, rf"\sqrt{{{n + 1}}} + {_latex(q)}")
    assert not equal(surd, rf"{_latex(q)} - \sqrt{{{n}}}")


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=4))
def test_polynomials_are_told_apart(roots):
    product = "".join(f"(x - ({r}))" for r in roots)
    assert equal(product, "".join(f"(-({r}) + x)" for r in reversed(roots)))
    assert not equal(product, product + " + 1")
    assert not equal(product, f"({product})x")


@given(st.text(r"\{}()[]^_+-*/=<>,.;|!%$123exyfi \n", max_size=40))
def test_any_text_has_a_verdict(text):
    assert compare("1", text) in ("correct", "wrong", "unparsed")
    assert compare(text, "1") in ("correct", "wrong", "unparsed")
