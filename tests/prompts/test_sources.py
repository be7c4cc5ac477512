"""From a source to prompts: what is read, what is broken, and what is refused by file and row."""

import csv
import json
import os
import sys

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from contrapose.prompts.abacus import split_of
from contrapose.prompts.sources import ABACUS_COUNT, final_answer, load
from contrapose.types import ContraposeError
from user import load_prompts


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


def test_a_problem_that_stands_again_has_a_number(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("a", "1"), row("b", "2"), row("a", "3"), row("b", "2"), row("a", "4"))
    loaded = load_prompts(path)
    assert [(p.problem, p.answer) for p in loaded] == [("a", "1"), ("b", "2"), ("a", "3"), ("b", "2"), ("a", "4")]
    a, b = loaded[0].id, loaded[1].id
    assert [p.id for p in loaded] == [a, b, f"{a}-2", f"{b}-2", f"{a}-3"]


def test_limit_takes_the_first_good_rows_and_reads_no_further(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("a"), "not json", row("b"), row("c"), "nor this")
    for limit in (1, 2, 3):
        assert [p.problem for p in load(path, limit=limit).prompts] == ["a", "b", "c"][:limit]
    assert [len(load(path, limit=limit).broken) for limit in (1, 2, 3, 4)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so $x = \boxed{2}$.", "2"),
        (r"\boxed{1} or rather \boxed{\frac{1}{2}}, that is all", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x : x > 0 \right.}", r"\left\{ x : x > 0 \right."),
        (r"{ \fbox {a} } and {\boxed{b", "a"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{1} #### \boxed{4}", "4"),
        (r"\boxed{1} #### 4", "4"),
        (r"\boxed{unclosed", ""),
        (r"\boxed 5", ""),
        (r"a \boxedin{b}", r"a \boxedin{b}"),
    ],
)
def test_of_a_solution_the_last_box_is_the_answer(solution, answer):
    assert final_answer(solution) == answer


def test_boxes_without_end_take_no_longer_than_their_length():
    assert final_answer(r"\boxed{" * 100_000) == ""
    assert final_answer(r"\boxed{" * 50_000 + "1" + "}" * 50_000) == "1"


def test_nested_columns_have_dotted_names(tmp_path):
    path = write(tmp_path / "verl.jsonl", {"problem": "a", "reward_model": {"ground_truth": "2", "style": "rule"}})
    assert load_prompts(path, answer_key="reward_model.ground_truth")[0].answer == "2"
    assert "'reward_model.ground_truths' (did you mean 'ground_truth'?)" in refusal(
        path, answer_key="reward_model.ground_truths"
    )
    line = refusal(path, problem_key="problem.text", answer_key="reward_model.ground_truth")
    assert "no column 'problem.text' (one of: problem, reward_model)" in line


def test_a_column_whose_name_has_a_dot_is_found(tmp_path):
    path = write(tmp_path / "sums.jsonl", {"problem": "a", "answer.text": "2", "answer": {"text": "3"}})
    assert load_prompts(path, answer_key="answer.text")[0].answer == "2"


USER = {"role": "user", "content": "1+1?"}


def test_a_chat_of_one_user_turn_is_a_problem(tmp_path):
    assert load_prompts(write(tmp_path / "chat.jsonl", row([USER])))[0].problem == "1+1?"
    parquet.write_table(pa.table({"problem": [[USER]], "answer": ["2"]}), tmp_path / "chat.parquet")
    assert load_prompts(str(tmp_path / "chat.parquet"))[0].problem == "1+1?"


@pytest.mark.parametrize(
    "chat",
    [
        [],
        [USER, USER],
        [{"role": "system", "content": "Be brief."}, USER],
        [{"role": "assistant", "content": "2"}],
        [{"role": "user", "content": [{"type": "image"}]}],
        [{"role": "user"}],
        ["1+1?"],
    ],
)
def test_any_other_chat_is_broken(tmp_path, chat):
    loaded = load(write(tmp_path / "chat.jsonl", row(), row(chat)))
    assert len(loaded.prompts) == 1
    (line,) = loaded.broken
    assert "chat.jsonl:2 column 'problem'" in line and "the user's" in line


# --- csv --------------------------------------------------------------------------------------------------------------


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_csv_rows_become_the_same_prompts_as_jsonl(tmp_path, problems):
    path = write_csv(tmp_path / "sums.csv", [["answer", "problem"], *(("2", text) for text in problems)])
    assert load(path) == load(write(tmp_path / "sums.jsonl", *(row(text) for text in problems)))


def test_csv_has_long_fields_and_a_byte_order_mark(tmp_path):
    text = "1+" * 100_000 + "1"
    (tmp_path / "sums.csv").write_text(f"problem,answer\n{text},2\n", encoding="utf-8-sig")
    assert load_prompts(str(tmp_path / "sums.csv"))[0].problem == text


def test_broken_csv_rows_are_named_by_the_line_they_begin_at(tmp_path):
    lines = [
        b"problem,answer",
        b'"two',
        b'lines",1',  # 2 and 3
        b"",
        b"only",  # 5
        b"a,b,c",  # 6
        b"caf\xe9,2",  # 7
        b'"a"b,2',  # 8
        b",2",  # 9
        b"good,2",
        b'"half of the last, 2',  # 11
        b"",
    ]
    (tmp_path / "sums.csv").write_bytes(b"\n".join(lines))
    loaded = load(str(tmp_path / "sums.csv"))
    assert [p.problem for p in loaded.prompts] == ["two\nlines", "good"]
    assert [line.partition("sums.csv:")[2].split()[0] for line in loaded.broken] == ["5", "6", "7", "8", "9", "11"]
    for line, why in zip(
        loaded.broken, ["1 fields of 2", "3 fields of 2", "UTF-8", "CSV", "found ''", "CSV"], strict=True
    ):
        assert why in line


def test_every_line_that_a_stray_quote_takes_is_broken(tmp_path):
    """So that it is known how much is lost."""
    path = tmp_path / "sums.csv"
    path.write_text('problem,answer\na,1\n"b,2\nc,3\nd,4\n')
    loaded = load(str(path))
    assert [p.problem for p in loaded.prompts] == ["a"]
    assert [line.removeprefix(str(path))[:3] for line in loaded.broken] == [":3 ", ":4 ", ":5 "]
    path.write_text('problem,answer\na,1\n"b\nb",2,2\nc,3\n')
    assert [line.removeprefix(str(path))[:3] for line in load(str(path)).broken] == [":3 ", ":4 "]


def test_a_csv_file_in_another_encoding_says_so(tmp_path):
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / "sums.csv").write_bytes("probl\u00e8me,answer\na,1\n".encode(encoding))
        assert refusal(str(tmp_path / "sums.csv")) == f"data: {tmp_path / 'sums.csv'} is not UTF-8: save it so"


def test_a_csv_column_that_is_missing_names_the_nearest(tmp_path):
    assert "did you mean 'problems'" in refusal(write_csv(tmp_path / "sums.csv", [["problems", "answer"], ["a", "1"]]))


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that `datasets` reads as a data set with two splits, without a network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "train.jsonl", row("a", "#### 1"), row([USER], "2"), row("c", "3"))
    parquet_rows = pa.table({"problem": ["d", None, "e"], "answer": ["1", "2", "3"]})
    write(tmp_path / "mine" / "test.jsonl", *parquet_rows.to_pylist())
    return f"hub:{tmp_path / 'mine'}"


def test_a_folder_of_files_is_read_as_the_hub_is(hub):
    os.remove(hub.removeprefix("hub:") + "/train.jsonl")
    loaded = load(f"{hub}:test")
    assert [(p.problem, p.answer, p.source) for p in loaded.prompts] == [("d", "1", "mine"), ("e", "3", "mine")]
    assert loaded.broken == [f"{hub}:test row 2 column 'problem': expected a text or a number, found NoneType"]
    assert load(hub, default_split="test").prompts == loaded.prompts
    assert [p.problem for p in load(f"{hub}:test", limit=1).prompts] == ["d"]


def test_a_split_that_the_hub_lacks_is_refused(hub):
    os.remove(hub.removeprefix("hub:") + "/train.jsonl")
    assert "Unknown split" in refusal(f"{hub}:tset")
    assert f"{hub}x cannot be loaded" in refusal(f"{hub}x")


def test_the_address_names_repository_configuration_and_split(monkeypatch):
    datasets, asked = pytest.importorskip("datasets"), []

    def load_dataset(repo, config, *, split):
        asked.append((repo, config, split))
        return [row()]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for address in ("o/n", "o/n/main", "o/n/main:test", "o/n:train[:10]"):
        (prompt,) = load_prompts(f"hub:{address}", default_split="validation")
        assert (prompt.source, prompt.id.rpartition("/")[0]) == ("o/n", "o/n")
    assert asked == [
        ("o/n", None, "validation"),
        ("o/n", "main", "validation"),
        ("o/n", "main", "test"),
        ("o/n", None, "train[:10]"),
    ]


def test_a_folder_may_be_named_from_where_one_is(hub, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    os.remove(folder / "test.jsonl")
    monkeypatch.chdir(folder)
    assert [p.id.partition("/")[0] for p in load_prompts("hub:.", limit=1)] == ["mine"]
    monkeypatch.chdir(tmp_path)
    assert load_prompts("hub:./mine") == load_prompts(hub)


def test_a_folder_with_a_file_that_cannot_be_read_says_why(hub, tmp_path):
    (tmp_path / "mine" / "train.jsonl").write_text('{"problem": "a", "answer": "1"}\n{"problem": \n')
    assert "cannot be loaded: ArrowInvalid: JSON parse error: Invalid value. in row 1" in refusal(hub)


def test_a_row_of_the_hub_that_cannot_be_decoded_is_named(monkeypatch):
    def rows(*_, **__):
        yield row()
        raise RuntimeError("no decoder\nfor images")

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", rows)
    assert refusal("hub:o/n") == "data: hub:o/n row 2 cannot be read: RuntimeError: no decoder"


@pytest.mark.parametrize("place", ["~nobody-of-that-name/a.jsonl", "hub:~nobody-of-that-name/a"])
def test_the_home_of_nobody_is_a_folder_that_does_not_exist(place):
    assert "~nobody-of-that-name/a" in refusal(place)


@pytest.mark.parametrize("address", ["", "name", "/nowhere/at/all", "o/", "/o"])
def test_an_address_that_is_none_is_refused(address):
    assert f"hub:{address}" in refusal(f"hub:{address}")


def test_the_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'contrapose[hub]'" in refusal("hub:o/n")


# --- parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_rows_become_the_same_prompts(tmp_path):
    rows = [row("1+1?", "2"), row("1+2?", "#### 3"), row("1+1?", "2")]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "sums.parquet")
    assert load(str(tmp_path / "sums.parquet")) == load(write(tmp_path / "sums.jsonl", *rows))


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


def test_parquet_text_that_is_not_utf8_is_refused(tmp_path):
    _, offsets, content = pa.array([b"good", b"caf\xe9"]).buffers()
    texts = pa.StringArray.from_buffers(2, offsets, content)
    parquet.write_table(pa.table({"problem": texts, "answer": ["1", "2"]}), tmp_path / "sums.parquet")
    assert "sums.parquet is not a parquet file that can be read: 'utf-8'" in refusal(str(tmp_path / "sums.parquet"))


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
    assert "set data.problem_key and data.answer_key, one pair for all files of a run: rename the columns" in line


def test_a_missing_column_without_a_near_one_names_them_all(tmp_path):
    path = write(tmp_path / "sums.jsonl", {"problem": "a", "x": "1"})
    assert "has no column 'answer' (one of: problem, x)" in refusal(path)


def test_broken_rows_are_collected_in_order_and_the_others_kept(tmp_path):
    path = write(tmp_path / "sums.jsonl", "{", row("a"), "[1]", {"problem": "b"}, row("c", None), row("d"), '{"problem')
    loaded = load(path)
    assert [p.problem for p in loaded.prompts] == ["a", "d"]
    assert [line.removeprefix(path)[:3] for line in loaded.broken] == [":1 ", ":3 ", ":4 ", ":5 ", ":7 "]
    assert all("\n" not in line for line in loaded.broken)
    assert f"{path}:1 is not JSON" in refusal(path) and "and 4 rows more" in refusal(path)


def test_a_file_without_a_good_row_is_refused_by_whoever_needs_all(tmp_path):
    path = write(tmp_path / "sums.jsonl", "{", row(""))
    assert (load(path).prompts, len(load(path).broken)) == ([], 2)
    assert "sums.jsonl:1 is not JSON" in refusal(path) and "and 1 rows more" in refusal(path)


def test_what_is_no_text_is_broken(tmp_path):
    path = write(tmp_path / "sums.jsonl", row(), r'{"problem": "a \ud800", "answer": "2"}', row(answer="\udfff"))
    assert [line.partition(" ")[2][:16] for line in load(path).broken] == ["column 'problem'", "column 'answer':"]


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "sums.jsonl", row())

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    assert f"{path} cannot be read: Permission denied" in refusal(path)


def test_a_column_that_is_missing_later_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "sums.jsonl", row("a"), {"problem": "b"})
    assert f"{path}:2 has no column 'answer'" in refusal(path)


@pytest.mark.parametrize("text", ["", "\n", "\n \n\n"])
def test_an_empty_file_is_refused(tmp_path, text):
    path = tmp_path / "sums.jsonl"
    path.write_text(text)
    assert f"{path} holds no rows" in refusal(str(path))


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet", "gone.csv"])
def test_a_missing_file_is_refused(tmp_path, name):
    assert f"{tmp_path / name} does not exist" in refusal(str(tmp_path / name))


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    assert "folder.jsonl is not a file" in refusal(str(tmp_path / "folder.jsonl"))


@pytest.mark.parametrize("name", ["a.jsonl", "math500"])
def test_a_file_that_cannot_be_looked_for_is_refused(tmp_path, monkeypatch, name):
    def closed(path):
        raise PermissionError(13, "Permission denied")

    assert "cannot be read: File name too long" in refusal(f"{'a' * 300}.jsonl")
    monkeypatch.setattr("pathlib.Path.is_file", closed)
    assert "cannot be read: Permission denied" in refusal(name, folder=str(tmp_path))


@pytest.mark.parametrize("path", ["sums.tsv", "sums.json", "sums", "", "abacuss", "org/name", "sums.JSONL.gz"])
def test_unknown_kinds_are_refused(path):
    line = refusal(path)
    assert repr(path) in line
    assert ".jsonl" in line
    assert ".parquet" in line
    assert ".csv" in line


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
