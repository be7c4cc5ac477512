r"""What is too large or too deep is refused before anything is computed."""

import random
import time

import pytest

from contrapose.verify.equal import LONGEST_ANSWER, compare

SEEDS = [
    "3", "1/2", r"\frac{3}{4}", "2\\frac{1}{2}", r"(9\pm 8, 2)", "(1, 2]", r"(-\infty, 3) \cup (4, 5)", r"\{1, 2\}",
    "x = 3, y = 4", "1, 2 and 3", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"20\%", r"5 \text{ cm}^2", "4210_5",
    r"60^\circ", r"\text{(B)}", "2.5e8", r"3:4", "12:30", r"k\pi, k \in \mathbb{Z}", r"x \ge 0 \text{ and } x < 1",
    r"\sum_{k=1}^{n} k", r"\log_2 8", r"\sqrt[3]{x+1}", "f(x) = x^2", r"\text{even}", "9.8 m/s^2", r"0.\overline{3}",
]  # fmt: skip
PIECES = [
    r"\frac", "{", "}", "(", ")", "[", "]", ",", "=", r"\le", "<", "_", "^", "2", "AB_{16}", "_2", r"\text{", "cm", " ",
    "%", r"\circ", r"\pm", r"\cup", r"\in", r"\infty", "x", "k", r"\mathbb Z", r"\begin{pmatrix}", r"\end{pmatrix}",
    "&", "\\\\", "!", "|", r"\sqrt", r"\sum_{k=1}^{n}", "or", "and", ";", ":", "-", "+", ".", "e", "i", r"\pi", r"\log",
    r"\overline{3}", r"\ldots", "'", "∞", "²", "1e5", r"\pmod 7", r"\binom{n}{k}", "\x00", "\ud800",
]  # fmt: skip
SIZE = LONGEST_ANSWER - 20
GREAT = [
    "9^{9^{9}}", "1.0000001^{99999999}", r"\pi^{99999999}", "(1+i)^{99999}", "e^{e^{e^{e^{e}}}}", "x^{x^{x^{x}}}",
    "(x+1)^{99999}", "i^{99999999999}", "99999!", "4999.5!", "n!^{n!}", "3!!!!", r"\binom{9999999}{5000000}",
    r"\sum_{k=1}^{9999999} k", r"\prod_{k=1}^{5000} k^k", r"\sum_{k=1}^{9999}\sum_{j=1}^{9999} jk", "1e9999", "1e-9999",
    r"\tan 10^{100000}", r"\cosh(10^{9})", r"\log_{1.0000001} 2", r"\gcd(10^{10000}, 7^{3000})",
    r"\int_0^1 \int_0^1 e^{\sin(x^y)} dx dy", r"\lim_{n\to\infty} n!^{1/n}",
]  # fmt: skip
DEEP = [
    "1/" * (SIZE // 2) + "1",
    r"\frac" * (SIZE // 5),
    r"\sqrt" * (SIZE // 5) + "2",
    "(" * (SIZE // 2) + "1" + ")" * (SIZE // 2),
    r"1\pm " * (SIZE // 5) + "1",
    "3" + "!" * SIZE,
    "3" + "%" * SIZE,
    "3" + "°" * SIZE,
    r"(1,2)\cup" * (SIZE // 9) + "(1,2)",
    "2^" * (SIZE // 2) + "2",
    "2^{" * (SIZE // 4) + "2" + "}" * (SIZE // 4),
    "-" * SIZE + "1",
    r"\sin" * (SIZE // 4) + "x",
    "|" * SIZE,
    "x_{" * (SIZE // 4) + "1" + "}" * (SIZE // 4),
    r"\sum_{k=1}^{9}" * (SIZE // 14) + "k",
    r"x\ne 1, " * (SIZE // 8),
    "x>1 or " * (SIZE // 7),
    "5 m/" * (SIZE // 4),
    "(A) " * (SIZE // 4),
    "{2 \\over " * (SIZE // 9),
    "5 million " * (SIZE // 10),
    r"\log " * (SIZE // 5) + "2",
]


@pytest.mark.parametrize("answer", [*GREAT, *DEEP], ids=lambda text: text[:30])
def test_what_cannot_be_computed_is_no_answer_and_costs_nothing(answer):
    start = time.process_time()
    for gold in ("7", "x+1", r"\pi"):
        assert compare(gold, answer) in ("wrong", "unparsed")
        assert compare(answer, gold) in ("wrong", "unparsed")
    assert time.process_time() - start < 10.0  # the first limit or integral imports sympy


@pytest.mark.parametrize("text", GREAT)
def test_it_is_still_itself_and_no_more(text):
    assert compare(text, text) == "correct"
    assert compare(text, f"{text} + 1") != "correct"


def test_whatever_is_written_gets_a_verdict():
    """Answers with pieces cut out and others put in, against what they were: never an error, whichever side is gold."""
    rng = random.Random(0)
    for _ in range(6000):
        gold = rng.choice(SEEDS)
        answer = list(rng.choice((gold, rng.choice(SEEDS))))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(answer))
            if rng.random() < 0.5:
                del answer[at : at + rng.randint(1, 5)]
            else:
                answer.insert(at, rng.choice(PIECES))
        for pair in ((gold, "".join(answer)), ("".join(answer), gold)):
            assert compare(*pair) in ("correct", "wrong", "unparsed"), pair


def test_long_lists_are_compared_in_any_order():
    numbers = [str(i) for i in range(400)]
    assert compare(", ".join(numbers), ", ".join(numbers[::-1])) == "correct"
    assert compare(", ".join(numbers), ", ".join([*numbers[:0:-1], "400"])) == "wrong"
