"""When two problems are the same text, and the account of what was left out."""

import pytest

from contrapose.prompts.clean import STEPS, Report, case, copies, key, shown, tokens
from contrapose.types import Prompt


def same(a: str, b: str) -> bool:
    return key(tokens(a)) == key(tokens(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is  2+2 ?\n", "what is 2 + 2?"),
        (r"Find $\left( x+1 \right)^2$.", r"Find \((x + 1)^2\)."),
        (r"Compute $$\log_2 64$$", r"Compute \[\log_264.\]"),
        (r"$a,\ b,\quad c$", "$a, b, c$"),
        (r"Solve $x\,=\,1.$", r"Solve $x = 1$."),
        ("Janet’s duck – lays", "Janet's duck - lays"),  # noqa: RUF001
        ("Find the value of $ab$", "Find the value of $a b$"),
        (r"Evaluate $\log_8 2$", r"Evaluate $\log_82$"),
        ("What is 3 +12 / 4", "What is 3+ 12/4"),
    ],
)
def test_spacing_case_and_delimiters_make_no_other_problem(a, b):
    assert same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is 2+2?", "What is 2-2?"),
        ("What is 2+2?", "What is 2+3?"),
        (r"$\tan 22.5^\circ$", r"$\tan 225^\circ$"),
        ("Compute $5!$", "Compute $5$"),
        ("What is 1 1/2 + 2?", "What is 11/2 + 2?"),
        ("What is 0.5 of 8?", "What is 0. 5 of 8?"),
        (r"Evaluate $\log_{82}$", r"Evaluate $\log_8 2$"),
        (r"$\frac{a}{bc}$", r"$\frac{ab}{c}$"),
        (r"$x \leftarrow y$", "$x arrow y$"),
        (r"$\begin{matrix} 1 \\ 2 \end{matrix}$", r"$\begin{matrix} 1 2 \end{matrix}$"),
        (r"a row \\[2pt] b", "a row 2pt b"),
    ],
)
def test_numbers_operators_and_structure_do(a, b):
    assert not same(a, b)


def test_a_cjk_character_is_a_word():
    assert tokens("求 $x+1$ 的值。") == ["求", "x", "+", "1", "的", "值", "。"]


def test_copies_are_found_wherever_they_stand():
    problems = ["one?", "two?", "ONE", "three?", "Two ?", "one?"]
    assert copies(Prompt(str(i), text, "1") for i, text in enumerate(problems)) == [[0, 2, 5], [1, 4]]


def test_untrusted_text_is_shown_short_and_on_one_line():
    assert shown("a\x1b[31m\n\tb \ud800 c\u202e") == "a [31m b c"
    assert len(shown("x" * 10**6)) == 103


def prompt(name: str) -> Prompt:
    return Prompt(name, f"problem {name}", "1", f"{name[0]}.jsonl")


REPORT = Report(
    {"a.jsonl": 5, "b.jsonl": 2},
    (
        case("duplicate", prompt("a/2"), "the same problem as a/1"),
        case("duplicate", prompt("b/1"), "the same problem as a/1"),
        case("overlap", prompt("a/3"), "holds 40% of math500/1"),
        case("bad_gold", prompt("a/4"), "the answer is unparsed"),
    ),
)


def test_what_was_left_out_and_what_was_kept_are_all_rows():
    counts = REPORT.counts()
    assert counts["a.jsonl"] == {**dict.fromkeys(STEPS, 0), "rows": 5} | {
        "duplicate": 1,
        "overlap": 1,
        "bad_gold": 1,
        "kept": 3,
    }
    assert counts["b.jsonl"]["kept"] == 1


def test_a_person_reads_a_line_for_each_kind_with_an_example():
    assert REPORT.lines() == [
        "left out, answers that cannot be graded: 1 (a/4: the answer is unparsed)",
        "left out, copies of other problems: 2 (a/2: the same problem as a/1)",
        "kept, though words are those of a held-out problem: 1 (a/3: holds 40% of math500/1)",
    ]
    assert Report({"a": 3}).lines() == []


def test_the_report_is_plain_values():
    plain = REPORT.to_dict()
    assert plain["sources"] == REPORT.counts()
    assert plain["cases"][0] == {
        "step": "duplicate",
        "source": "a.jsonl",
        "prompt": "a/2",
        "problem": "problem a/2",
        "why": "the same problem as a/1",
    }
