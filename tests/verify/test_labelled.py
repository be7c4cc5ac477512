r"""Agreement with answers that people have labelled, and with the golds of the benchmarks."""

import json
import random
from pathlib import Path

import pytest

from contrapose.verify.answer import find
from contrapose.verify.equal import compare

DATA = Path(__file__).parents[3] / "shared" / "data"
BENCHMARKS = [
    "aime2024", "aime2025", "aime2026", "amc23", "amc_aimo83", "gsm8k_test", "hmmt_feb_2025", "math500", "minerva_math",
    "olympiadbench",
]  # fmt: skip


def _rows(name):
    file = DATA / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip("the files are not here")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _judged_correct(row):
    answer = find(row["prediction"], phrases=True)
    return answer is not None and compare(row["gold"], answer) == "correct"


def test_people_and_verdicts_agree_where_no_convention_decides():
    rows = [row for row in _rows("graders/open") if row["core"]]
    mistaken = [row for row in rows if _judged_correct(row) != row["expected"]]
    assert len(mistaken) <= 0.005 * len(rows), [row["id"] for row in mistaken]
    assert sum(not row["expected"] for row in mistaken) <= 1, [row["id"] for row in mistaken]


def test_verdicts_do_not_depend_on_which_side_is_the_gold():
    rows = [row for row in _rows("graders/open") if "%" not in row["gold"] + row["prediction"]]
    pairs = [(row["gold"], row["prediction"]) for row in rows if row["form"] == "string" and "boxed" not in str(row)]
    assert [pair for pair in pairs if (compare(*pair) == "correct") != (compare(*pair[::-1]) == "correct")] == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_gold_is_right_against_itself(name):
    golds = [row["answer"] for row in _rows(f"benchmarks/{name}")]
    spellings = [(gold, find(rf"Therefore $\boxed{{{gold}}}$.")) for gold in golds]
    spellings += [
        (gold, gold.replace(r"\frac", r"\dfrac").replace("(", r"\left(").replace(")", r"\right)")) for gold in golds
    ]
    assert [pair for pair in spellings if compare(pair[0], pair[1] or "") != "correct"] == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_gold_of_another_row_is_wrong(name):
    golds, rng = [row["answer"] for row in _rows(f"benchmarks/{name}")], random.Random(0)
    pairs = [(gold, other) for _ in range(3) for gold, other in zip(golds, rng.sample(golds, len(golds)), strict=True)]
    pairs = [(gold, other) for gold, other in pairs if gold.strip() != other.strip()]
    mistaken = [(gold, other) for gold, other in pairs if compare(gold, other) == "correct"]
    assert len(mistaken) <= 0.005 * len(pairs), mistaken
