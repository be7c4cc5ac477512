"""From files to prompts: what is read, what is kept once, and what is refused by file and row."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from contrapose.prompts.abacus import split_of
from contrapose.prompts.sources import ABACUS_COUNT, final_answer, load_prompts
from contrapose.types import ContraposeError


def write(path, *rows):
    """A jsonl file; a row that is a text is written as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def row(problem="1+1?", answer="2", **other):
    return {"problem": problem, "answer": answer, **other}


def refusal(path, **options):
    """The one line with which ``path`` is refused."""
    with pytest.raises(ContraposeError) as error:
        load_prompts(path, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


def test_jsonl_rows_become_prompts_in_order(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("1+1?", "2", level=3), row("1+2?", "3"), row("½ of 4 €?", "2"))
    loaded = load_prompts(path)
    assert [(p.problem, p.answer, p.source, p.tokens) for p in loaded] == [
        ("1+1?", "2", "sums", ()),
        ("1+2?", "3", "sums", ()),
        ("½ of 4 €?", "2", "sums", ()),
    ]
    assert all(p.id.startswith("sums/") for p in loaded)
    assert len({p.id for p in loaded}) == 3


def test_ids_belong_to_the_problem_not_to_its_place(tmp_path):
    rows = [row(f"{i}+1?", str(i + 1)) for i in range(5)]
    (tmp_path / "other").mkdir()
    one = load_prompts(write(tmp_path / "sums.jsonl", *rows))
    other = load_prompts(write(tmp_path / "other" / "sums.jsonl", *reversed(rows)))
    assert {p.problem: p.id for p in one} == {p.problem: p.id for p in other}


def test_empty_lines_are_skipped_and_a_last_newline_is_not_needed(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("\n" + json.dumps(row("a")) + "\n  \n\n" + json.dumps(row("b")))
    assert [p.problem for p in load_prompts(str(path))] == ["a", "b"]


def test_columns_are_named_by_the_caller(tmp_path):
    path = write(tmp_path / "sums.jsonl", {"question": "1+1?", "solution": "2", "problem": "no", "answer": "no"})
    (prompt,) = load_prompts(path, problem_key="question", answer_key="solution")
    assert (prompt.problem, prompt.answer) == ("1+1?", "2")


@pytest.mark.parametrize(("answer", "text"), [(2, "2"), (-7, "-7"), (0, "0"), (2.5, "2.5"), (142.0, "142.0")])
def test_numbers_are_answers(tmp_path, answer, text):
    assert load_prompts(write(tmp_path / "sums.jsonl", row(answer=answer)))[0].answer == text


def test_numbers_beyond_any_float_are_answers(tmp_path):
    assert load_prompts(write(tmp_path / "sums.jsonl", row(answer=10**400)))[0].answer == str(10**400)


def test_numbers_are_problems(tmp_path):
    assert load_prompts(write(tmp_path / "sums.jsonl", row(problem=12)))[0].problem == "12"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("2", "2"),
        (" 2 ", "2"),
        ("She has 1 + 1 = <<1+1=2>>2.\n#### 2", "2"),
        ("#### 1,234", "1,234"),
        ("#### 1\nno:\n#### 2 ", "2"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_the_answer_follows_the_four_hashes(tmp_path, solution, answer):
    assert final_answer(solution) == answer
    assert load_prompts(write(tmp_path / "sums.jsonl", row(answer=solution)))[0].answer == answer


def test_a_problem_that_stands_twice_is_kept_once_as_it_stood_first(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("a", "1"), row("b", "2"), row("a", "3"), row("b", "2"), row("A", "4"))
    assert [(p.problem, p.answer) for p in load_prompts(path)] == [("a", "1"), ("b", "2"), ("A", "4")]


def test_limit_takes_the_first_different_problems_and_reads_no_further(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("a"), row("a"), row("b"), row("c"), "not json")
    assert [p.problem for p in load_prompts(path, limit=2)] == ["a", "b"]
    assert [p.problem for p in load_prompts(path, limit=3)] == ["a", "b", "c"]
    assert "sums.jsonl:5" in refusal(path, limit=4)


def test_lone_surrogates_are_kept(tmp_path):
    (prompt,) = load_prompts(write(tmp_path / "sums.jsonl", r'{"problem": "a \ud800", "answer": "2"}'))
    assert prompt.problem == "a \ud800"


# --- parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_rows_become_the_same_prompts(tmp_path):
    rows = [row("1+1?", "2"), row("1+2?", "#### 3"), row("1+1?", "2")]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "sums.parquet")
    assert load_prompts(str(tmp_path / "sums.parquet")) == load_prompts(write(tmp_path / "sums.jsonl", *rows))


def test_parquet_numbers_and_limit(tmp_path):
    parquet.write_table(pa.table({"q": ["a", "b", "c"], "n": [1, 2, 3]}), tmp_path / "n.parquet")
    loaded = load_prompts(str(tmp_path / "n.parquet"), problem_key="q", answer_key="n", limit=2)
    assert [(p.problem, p.answer) for p in loaded] == [("a", "1"), ("b", "2")]


def test_parquet_rows_are_refused_by_number(tmp_path):
    parquet.write_table(pa.table({"problem": ["a", "b"], "answer": ["1", None]}), tmp_path / "sums.parquet")
    line = refusal(str(tmp_path / "sums.parquet"))
    assert "sums.parquet row 2" in line
    assert "'answer'" in line


def test_parquet_without_rows_or_that_is_none(tmp_path):
    nothing = pa.table({"problem": pa.array([], pa.string()), "answer": pa.array([], pa.string())})
    parquet.write_table(nothing, tmp_path / "empty.parquet")
    assert "holds no rows" in refusal(str(tmp_path / "empty.parquet"))
    (tmp_path / "junk.parquet").write_bytes(b"PAR1 and then something else")
    assert "junk.parquet is not a parquet file" in refusal(str(tmp_path / "junk.parquet"))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, False, None, [], ["2"], {"value": 2}, "", " \n", float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["problem", "answer"])
def test_what_is_neither_text_nor_number_is_refused(tmp_path, key, answer):
    path = write(tmp_path / "sums.jsonl", row("a"), row("b"), row(**{key: answer}))
    line = refusal(path)
    assert f"{path}:3" in line
    assert f"'{key}'" in line


@pytest.mark.parametrize("solution", ["####", "two\n#### ", "#### \n"])
def test_an_answer_that_is_empty_after_the_hashes_is_refused(tmp_path, solution):
    path = write(tmp_path / "sums.jsonl", row("a"), row("b", solution))
    assert f"{path}:2" in refusal(path)


@pytest.mark.parametrize("bad", ["{", "nonsense", '{"problem": "a", "answer": }', '{"problem": "a"} {}', "{'a': 1}"])
def test_a_row_that_is_not_json_is_named_by_file_and_line(tmp_path, bad):
    path = write(tmp_path / "sums.jsonl", row("a"), "", bad, row("b"))
    assert f"{path}:3 is not JSON" in refusal(path)


@pytest.mark.parametrize("bad", ["[1, 2]", '"text"', "3", "null", "true"])
def test_a_row_that_is_no_object_is_named_by_file_and_line(tmp_path, bad):
    path = write(tmp_path / "sums.jsonl", row("a"), bad)
    assert f"{path}:2 is not a JSON object" in refusal(path)


def test_a_row_nested_beyond_reason_is_named_by_file_and_line(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("a"), "[" * 100_000)
    assert f"{path}:2" in refusal(path)


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_bytes(json.dumps(row("a")).encode() + b'\n{"problem": "caf\xe9", "answer": "2"}\n')
    assert "sums.jsonl" in refusal(str(path))


def test_a_missing_column_names_the_nearest(tmp_path):
    path = write(tmp_path / "sums.jsonl", {"problems": "a", "answer": "1", "level": 1})
    line = refusal(path)
    assert f"{path}:1 has no column 'problem' (did you mean 'problems'?)" in line
    assert "data.problem_key" in line


def test_a_missing_column_without_a_near_one_names_them_all(tmp_path):
    path = write(tmp_path / "sums.jsonl", {"problem": "a", "x": "1"})
    assert "has no column 'answer' (one of: problem, x)" in refusal(path)


def test_a_column_that_is_missing_later_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("a"), {"problem": "b"})
    assert f"{path}:2 has no column 'answer'" in refusal(path)


@pytest.mark.parametrize("text", ["", "\n", "\n \n\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    path = tmp_path / "sums.jsonl"
    path.write_text(text)
    assert f"{path} holds no rows" in refusal(str(path))


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet"])
def test_a_missing_file_is_refused(tmp_path, name):
    assert f"{tmp_path / name} does not exist" in refusal(str(tmp_path / name))


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    assert "folder.jsonl" in refusal(str(tmp_path / "folder.jsonl"))


@pytest.mark.parametrize("path", ["sums.csv", "sums.json", "sums", "", "abacuss", "org/name", "sums.JSONL.gz"])
def test_unknown_kinds_are_refused(path):
    line = refusal(path)
    assert repr(path) in line
    assert ".jsonl" in line
    assert ".parquet" in line


# --- abacus -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_abacus_splits(split):
    loaded = load_prompts(f"abacus:{split}", limit=30)
    assert len(loaded) == 30
    assert {split_of(p.problem) for p in loaded} == {split}
    assert loaded == load_prompts("abacus", limit=30, default_split=split)


def test_abacus_without_a_split_trains():
    assert {split_of(p.problem) for p in load_prompts("abacus", limit=30)} == {"train"}


def test_a_named_split_wins_over_the_default():
    loaded = load_prompts("abacus:validation", limit=5, default_split="test")
    assert loaded == load_prompts("abacus:validation", limit=5)


def test_abacus_has_its_own_counts():
    assert len(load_prompts("abacus:test")) == ABACUS_COUNT["test"]
    assert len(load_prompts("abacus:validation")) == ABACUS_COUNT["validation"]


def test_an_unknown_split_names_the_nearest():
    assert "'abacus:tset'" in refusal("abacus:tset")
    assert "did you mean 'test'?" in refusal("abacus:tset")
    assert "one of: train, validation, test" in refusal("abacus:zzz")
