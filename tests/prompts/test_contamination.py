"""Held-out problems are found in training data, and nothing else is taken for one."""

import json
import random
import re
from functools import cache
from pathlib import Path

import pytest

from contrapose.prompts import abacus
from contrapose.prompts.clean import tokens
from contrapose.prompts.contamination import HeldOut, N
from contrapose.types import Prompt

DATA = Path(__file__).parents[3] / "shared" / "data"
HERE = pytest.mark.skipif(not DATA.is_dir(), reason="the files are not here")
LONG = "A farmer has $7$ goats, $11$ hens and a dog named $x$. How many legs do they all have together?"
SHORT = r"Evaluate $\log_264$."


def held(*problems: str) -> HeldOut:
    return HeldOut([Prompt(f"held/{i}", problem, "1") for i, problem in enumerate(problems)])


def is_whole(text: str, *problems: str) -> bool:
    return any(match.whole for match in held(*problems).matches(text))


@pytest.mark.parametrize("problem", [LONG, SHORT])
def test_the_same_text_is_found_however_it_is_spaced(problem):
    assert is_whole(problem, "Another one.", problem)
    assert is_whole(re.sub(r"\s+", " \n ", problem).upper().replace("\\LOG", "\\log"), problem)
    assert is_whole(problem.replace("$", " $ ").rstrip(".?"), problem)


@pytest.mark.parametrize("problem", [LONG, SHORT])
def test_a_problem_is_found_inside_a_longer_text(problem):
    assert is_whole(f"Warm-up 3. {problem} Explain your answer in $2$ sentences.", problem)
    assert is_whole(f"You are given this:\n\n{problem}\n\nAnswer in a box", problem)


@pytest.mark.parametrize(
    "text",
    [
        LONG.replace("11", "12"),
        LONG.replace("legs", "heads"),
        SHORT.replace("64", "32"),
        r"Evaluate $\log_264 + \log_232$.",
        r"Find $\log_264$.",
    ],
)
def test_another_number_or_another_question_is_another_problem(text):
    assert not is_whole(text, LONG, SHORT)


def test_the_share_is_of_the_held_out_problem():
    """Its 23 tokens make 14 sequences; eleven of its tokens in a row are two of them, however long the text is."""
    beginning = LONG[: LONG.index("named")]
    (match,) = held(LONG, "Nothing of this.").matches(f"{beginning} barked. " + "And so on, for many words. " * 9)
    assert match == (Prompt("held/0", LONG, "1"), pytest.approx(2 / 14), False)
    assert held(LONG).matches("How many legs do three dogs have?") == []


def test_the_greatest_share_comes_first():
    other = LONG.replace("goats", "cows")
    found = held(other, LONG).matches(f"{LONG} And so on.")
    assert [match.problem.id for match in found] == ["held/1", "held/0"]
    assert [match.whole for match in found] == [True, False]


CHOOSE = r"Compute $\dbinom{5}{3}$."


@pytest.mark.parametrize(
    "text", ["{}, giving an integer.", "Now {}: give an integer", "{}! Quickly", "{}, or {}, at once"]
)
def test_a_short_problem_has_a_share_of_one_wherever_it_stands(text):
    """It is then left out if the answer is the same, and listed if not: what follows may go on with the formula."""
    assert held("Another one.", CHOOSE).matches(text.replace("{}", CHOOSE[:-1])) == [
        (Prompt("held/1", CHOOSE, "1"), 1.0, False)
    ]


def test_a_short_problem_is_whole_where_a_line_ends():
    assert is_whole(f"Warm-up\n{CHOOSE[:-1]}\nGive an integer", CHOOSE)
    assert is_whole(f"{CHOOSE[:-1]}, then {CHOOSE} Give an integer", CHOOSE)


def test_what_stands_in_many_problems_is_found_only_alone():
    index = held("Find $x$.", "Solve this now.", "Solve this for me.")
    assert index.matches("If $2x=4$, find $x$. Solve this now.") == []
    assert [match.whole for match in index.matches("find x")] == [True]
    assert [match.problem.id for match in index.matches("Come. Solve this for me. Or not.")] == ["held/2"]


def test_a_formula_without_words_is_no_part_of_another():
    assert not is_whole("2-3+4=", "3+4=")
    assert not is_whole("9-1+2+3+4+5+6+7=", "1+2+3+4+5+6+7=")
    assert is_whole("3 + 4 =", "3+4=")


def test_nothing_of_abacus_is_in_another_split():
    splits = {split: abacus.problems(split, count) for split, count in (("train", 8192), ("test", 800))}
    index = HeldOut(splits["test"])
    assert [p.id for p in splits["train"] if index.matches(p.problem)] == []
    assert all(index.matches(p.problem) for p in splits["test"])


def test_a_text_without_a_token_matches_nothing():
    assert held("", "$ $", LONG).matches("What is it?") == []
    assert not is_whole("What is it?", ".")


def test_no_text_is_slow():
    """Every text costs time in proportion to its length, whatever it repeats."""
    index = held(*(f"{LONG} {i}" for i in range(300)), SHORT)
    assert index.matches("a b " * 100_000) == []
    assert index.matches(". " * 100_000) == []


# --- problems made up -------------------------------------------------------------------------------------------------

NAMES = ("Ada", "Bo", "Cleo", "Dov", "Eli")
THINGS = ("pears", "marbles", "stamps", "ribbons", "acorns", "coins")
FAMILY = [
    f"{name} puts {i + 2} {thing} into each of {j + 3} jars and keeps ${i * j}$ of them. How many {thing} are there?"
    for i, name in enumerate(NAMES)
    for j, thing in enumerate(THINGS)
]


def test_of_a_family_of_problems_each_is_found_and_none_is_taken_for_another():
    """Siblings share a good part of each other."""
    held_out, others = FAMILY[::2], FAMILY[1::2]
    index = held(*held_out)
    for place, problem in enumerate(held_out):
        for variant in (problem, f" {problem.upper()}\n", f"Hint: none. {problem} Go.", problem.replace(" ", "  ")):
            best = index.matches(variant)[0]
            assert (best.problem.id, best.whole) == (f"held/{place}", True)
    for problem in others:
        assert not any(match.whole for match in index.matches(problem))


# --- real problems ----------------------------------------------------------------------------------------------------


@cache
def rows(name: str) -> list[Prompt]:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Prompt(row["id"], row["problem"], row["answer"]) for row in map(json.loads, lines)]


@cache
def benchmarks() -> list[Prompt]:
    files = sorted(file for file in (DATA / "benchmarks").glob("*.jsonl") if ".meta" not in file.name)
    return [problem for file in files for problem in rows(f"benchmarks/{file.stem}")]


@cache
def index() -> HeldOut:
    return HeldOut(benchmarks())


@HERE
def test_every_benchmark_problem_is_found_planted():
    """As it is, spaced otherwise, and inside a longer text: all 3,009 of them, the shortest of five tokens too."""
    rng = random.Random(0)
    for problem in benchmarks():
        text = problem.problem
        planted = (
            text,
            re.sub(r"\s+", lambda _: rng.choice((" ", "  ", "\n")), f" {text} "),
            f"Hint: none. {text} Go.",
        )
        for variant in planted:
            assert index().matches(variant)[0].whole, variant


@HERE
@pytest.mark.parametrize("name", ["math_train_12k", "gsm8k_train"])
def test_no_problem_of_a_disjoint_training_set_is_taken_for_one(name):
    found = [index().matches(problem.problem) for problem in rows(f"train/{name}.sample2000")]
    assert not any(match.whole for matches in found for match in matches)
    assert any(found)


@HERE
def test_hardly_a_benchmark_problem_is_shorter_than_a_sequence():
    assert sum(len(tokens(problem.problem)) < N for problem in benchmarks()) == 4
