"""Data sets by name: which copy is read, and that a benchmark is the benchmark."""

import json
import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from contrapose.prompts.catalogue import ALIASES, BENCHMARKS, TRAINING, checked, checksum, find, unwrap_dapo
from contrapose.prompts.sources import final_answer, load
from contrapose.types import ContraposeError, Prompt
from contrapose.verify.grading import grading_of
from user import load_prompts

DATA = Path(__file__).parents[3] / "shared" / "data"
FOLDER = DATA / "benchmarks"
with_data = pytest.mark.skipif(not FOLDER.exists(), reason="the benchmark files are not here")


def refusal(spec, **options):
    with pytest.raises(ContraposeError) as error:
        load_prompts(spec, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


def from_hub(monkeypatch, rows, asked=None):
    """Let the hub answer with ``rows``, whatever is asked for."""
    datasets = pytest.importorskip("datasets")

    def load_dataset(repo, config, *, split):
        if asked is not None:
            asked.append((repo, config, split))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_name_is_found_once():
    names = [*BENCHMARKS, *TRAINING, *ALIASES]
    assert len(set(names)) == len(names)
    assert all(find(name).name == ALIASES.get(name, name) for name in names)
    assert find("sums.jsonl") is None and find("") is None


@pytest.mark.parametrize("dataset", [*BENCHMARKS.values(), *TRAINING.values()], ids=lambda d: d.name)
def test_an_entry_is_whole(dataset):
    assert not dataset.hub or re.fullmatch(r"[\w.-]+/[\w.-]+(/\w+)?:(train|test)", dataset.hub)
    assert bool(dataset.rows) == bool(dataset.checksum) == (dataset.name in BENCHMARKS)
    assert dataset.split == ("test" if dataset.rows else "train")
    assert dataset.name in BENCHMARKS or dataset.hub
    grading_of("math", "boxed", dataset.conventions)


def test_a_name_that_is_none_names_the_nearest():
    assert "did you mean 'math500'?" in refusal("math50")
    assert "did you mean 'gsm8k'?" in refusal("gsm8k2")


# --- the checksum -----------------------------------------------------------------------------------------------------

SUMS = [Prompt("1", "1+1?", "2"), Prompt("2", "1+2?", "3")]


def test_the_checksum_is_of_texts_not_of_order_or_names():
    again = [Prompt("b", "1+2?", "3", "s", (1,)), Prompt("a", "1+1?", "2")]
    assert checksum(again) == checksum(SUMS)


@pytest.mark.parametrize(
    "other",
    [
        [Prompt("1", "1+1?", "2"), Prompt("2", "1+2?", "4")],
        [Prompt("1", "1+1 ?", "2"), Prompt("2", "1+2?", "3")],
        [Prompt("1", "1+1?", "3"), Prompt("2", "1+2?", "2")],
        [Prompt("1", "1+1?2", ""), Prompt("2", "1+2?", "3")],
        [*SUMS, SUMS[0]],
        SUMS[:1],
    ],
)
def test_the_checksum_tells_every_difference(other):
    assert checksum(other) != checksum(SUMS)


# --- benchmarks in a folder -------------------------------------------------------------------------------------------


@with_data
@pytest.mark.parametrize("dataset", BENCHMARKS.values(), ids=lambda d: d.name)
def test_a_benchmark_in_a_folder_is_the_benchmark(dataset):
    loaded = load(dataset.name, folder=str(FOLDER), default_split="test")
    assert (len(loaded.prompts), loaded.broken) == (dataset.rows, [])
    assert checked(loaded.prompts, dataset)
    assert len({p.id for p in loaded.prompts}) == dataset.rows
    assert {p.source for p in loaded.prompts} == {dataset.name}
    assert {p.id.partition("/")[0] for p in loaded.prompts} == {dataset.name}


@with_data
def test_a_benchmark_has_short_names_and_a_limit():
    assert load_prompts("hmmt2025:test", folder=str(FOLDER)) == load_prompts("hmmt_feb_2025", folder=str(FOLDER))
    assert load_prompts("amc83", folder=str(FOLDER), limit=2) == load_prompts("amc_aimo83", folder=str(FOLDER))[:2]


def lines_of(name):
    return (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()


def test_the_order_and_further_columns_do_not_matter(tmp_path):
    if not FOLDER.exists():
        pytest.skip("the benchmark files are not here")
    rows = [json.dumps({**json.loads(line), "level": 3}) for line in reversed(lines_of("aime2024"))]
    (tmp_path / "aime2024.jsonl").write_text("\n".join(rows))
    assert checked(load_prompts("aime2024", folder=str(tmp_path)), BENCHMARKS["aime2024"])


@with_data
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_changed_character_or_a_missing_row_is_refused(tmp_path, name):
    lines, file = lines_of(name), tmp_path / f"{name}.jsonl"
    middle = json.loads(lines[len(lines) // 2])
    changed = {**middle, "problem": middle["problem"][:-1] + "!"}
    file.write_text("\n".join([*lines[: len(lines) // 2], json.dumps(changed), *lines[len(lines) // 2 + 1 :]]))
    line = refusal(name, folder=str(tmp_path))
    assert f"{file} differs from the reference copy of {name}" in line and f"--data {file}" in line
    file.write_text("\n".join(lines[1:]))
    line = refusal(name, folder=str(tmp_path))
    assert f"{name} has {len(lines)} problems, and {file} holds {len(lines) - 1}" in line and f"--data {file}" in line
    assert len(load_prompts(str(file))) == len(lines) - 1
    file.write_text("\n".join([lines[0][:-9], *lines[1:]]))
    assert f"{file}:1 is not JSON" in refusal(name, folder=str(tmp_path))


def test_a_folder_without_the_benchmark_is_refused(tmp_path):
    assert f"{tmp_path / 'math500.jsonl'} does not exist" in refusal("math500", folder=str(tmp_path))


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_copy_on_the_hub_is_counted_and_may_be_checked(monkeypatch):
    asked = []
    rows = [{"question": f"q{i}", "answer": f"so\n#### {i}"} for i in range(1319)]
    from_hub(monkeypatch, rows, asked)
    loaded = load_prompts("gsm8k_test", limit=2)
    assert asked == [("openai/gsm8k", "main", "test")]
    assert [(p.problem, p.answer, p.source) for p in loaded] == [("q0", "0", "gsm8k_test"), ("q1", "1", "gsm8k_test")]
    assert not checked(loaded, BENCHMARKS["gsm8k_test"])
    from_hub(monkeypatch, rows[1:])
    line = refusal("gsm8k_test")
    assert "gsm8k_test has 1319 problems" in line and "holds 1318" in line and "hub:openai/gsm8k/main:test" in line


@with_data
def test_the_same_texts_from_the_hub_are_the_benchmark(monkeypatch):
    from_hub(monkeypatch, [json.loads(line) for line in lines_of("math500")])
    assert checked(load_prompts("math500"), BENCHMARKS["math500"])


def test_without_folder_or_network_both_ways_are_told(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    line = refusal("aime2024")
    assert "ConnectionError: no network" in line and "--data-dir, data.dir" in line
    monkeypatch.setitem(sys.modules, "datasets", None)
    line = refusal("aime2024")
    assert "pip install 'contrapose[hub]'" in line and "--data-dir, data.dir" in line and "aime2024.jsonl" in line


def test_a_benchmark_without_a_copy_on_the_hub_asks_for_a_folder():
    assert "a folder that holds olympiadbench.jsonl (--data-dir, data.dir)" in refusal("olympiadbench")


# --- training sets ----------------------------------------------------------------------------------------------------


def test_a_training_set_is_read_from_a_folder_that_holds_it_else_from_the_hub(tmp_path, monkeypatch):
    asked = []
    from_hub(monkeypatch, [{"question": "from the hub?", "answer": "#### 1"}], asked)
    assert load_prompts("gsm8k", folder=str(tmp_path))[0].problem == "from the hub?"
    assert asked == [("openai/gsm8k", "main", "train")]
    (tmp_path / "gsm8k.jsonl").write_text('{"problem": "from the file?", "answer": "1"}\n')
    (prompt,) = load_prompts("gsm8k:train", folder=str(tmp_path))
    assert (prompt.problem, prompt.source) == ("from the file?", "gsm8k")


def test_columns_that_are_given_win(monkeypatch):
    from_hub(monkeypatch, [{"question": "a", "answer": "1", "problem": "b", "final": "2"}])
    (prompt,) = load_prompts("gsm8k", problem_key="problem", answer_key="final")
    assert (prompt.problem, prompt.answer) == ("b", "2")


def test_a_training_set_is_not_evaluated_on_by_mistake(monkeypatch):
    from_hub(monkeypatch, [{"problem": "a", "answer": "1"}])
    line = refusal("math", default_split="test")
    assert "math is a train set, and 'test' was asked for" in line and "math:train" in line
    assert load_prompts("math:train", default_split="test")
    assert "hub:hiyouga/math12k:SPLIT" in refusal("math:test")
    assert "aime2024 is a test set, and 'train' was asked for" in refusal("aime2024:train")


QUESTION = "Find $m + n$.\n\nSolve it."
BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


@pytest.mark.parametrize(
    "wrapped",
    [
        QUESTION,
        BEFORE + QUESTION + AFTER,
        BEFORE.replace("$Answer (without quotes)", r"\boxed{$Answer}") + QUESTION + AFTER,
        QUESTION + r" Please reason step by step, and put your final answer within \boxed{}.",
        QUESTION + r" Please reason step by step, and put your final answer within \boxed{{}}.",
    ],
)
def test_dapo_is_unwrapped(wrapped):
    assert unwrap_dapo(wrapped) == QUESTION


def test_a_row_of_nothing_but_instructions_is_broken(monkeypatch):
    from_hub(monkeypatch, [{"prompt": BEFORE + "1+1?" + AFTER, "solution": "2"}, {"prompt": BEFORE, "solution": "2"}])
    loaded = load("dapo-math-17k")
    assert [p.problem for p in loaded.prompts] == ["1+1?"]
    assert "row 2 column 'prompt': nothing but instructions" in loaded.broken[0]


def test_unwrapping_takes_no_longer_than_the_text():
    """In time that grows with the square of the length, this would never end."""
    text = f"a{' ' * 10_000_000}b"
    assert unwrap_dapo(f" {text} ") == text


@with_data
def test_no_instruction_is_left_in_dapo(tmp_path):
    sample = DATA / "train" / "dapo_math_17k.sample2000.jsonl"
    (tmp_path / "dapo-math-17k.jsonl").write_bytes(sample.read_bytes())
    loaded = load("dapo-math-17k", folder=str(tmp_path))
    assert (len(loaded.prompts), loaded.broken) == (2000, [])
    assert not [p for p in loaded.prompts if "step by step, and put" in p.problem or "boxed" in p.problem[-20:]]


# --- what the entries claim -------------------------------------------------------------------------------------------


@with_data
@pytest.mark.parametrize("name", ["math500", "minerva_math"])
def test_the_last_box_of_a_solution_is_the_answer(name):
    answers = {r["id"]: r["answer"] for r in map(json.loads, lines_of(name))}
    solutions = {r["id"]: r["solution"] for r in map(json.loads, lines_of(f"{name}.meta"))}
    assert {key: final_answer(text) for key, text in solutions.items()} == {k: v.strip() for k, v in answers.items()}


@with_data
def test_the_golds_of_minerva_are_as_rounded_as_its_tolerance_says():
    """Half a unit of the last digit, over the value: of the 125 decimal golds within 1e-4 for 12, 1 % for 89."""
    rounding = []
    for gold in (p.answer for p in load_prompts("minerva", folder=str(FOLDER))):
        digits = re.fullmatch(r"-?(\d*\.?\d*)(?:e-?\d+)?", gold)
        if digits and ("." in gold or "e" in gold) and Decimal(digits[1]):
            unit = Decimal(10) ** -len(digits[1].partition(".")[2])
            rounding.append(unit / 2 / Decimal(digits[1]))
    tolerance = Decimal(str(BENCHMARKS["minerva_math"].conventions["tolerance"]))
    assert [len(rounding), *(sum(r <= t for r in rounding) for t in (Decimal("1e-4"), tolerance))] == [125, 12, 89]
