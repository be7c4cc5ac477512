"""Run logs: rows come back as they were, whatever they hold, and a file goes back to where a checkpoint stood."""

import errno
import json
import math
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrapose.report.log import JsonLines, WriteFailed, read_rows, write_json
from contrapose.types import ContraposeError


def rows_of(path):
    return [json.loads(line, parse_constant=_never) for line in path.read_bytes().splitlines()]


def _never(constant):
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.jsonl"


def test_rows_are_appended_a_line_each(path):
    rows = [{"step": 1, "list": [1, 2.5, "x"]}, {"step": 2, "nested": {"a": [{"b": None}]}, "ok": True}, {}]
    with closing(JsonLines(path)) as lines:
        for row in rows:
            lines.append(row)
    assert rows_of(path) == rows
    assert path.read_bytes().count(b"\n") == 3


def test_what_could_not_replace_a_file_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(WriteFailed):
        write_json(tmp_path / "taken", {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_row_can_be_read_as_soon_as_it_is_written(path):
    with closing(JsonLines(path)) as lines:
        for step in range(3):
            lines.append({"step": step})
            assert rows_of(path)[-1] == {"step": step}
            assert lines.size() == path.stat().st_size


def test_an_empty_log_has_no_size(path):
    with closing(JsonLines(path)) as lines:
        assert lines.size() == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_become_null_wherever_they_stand(path, bad):
    with closing(JsonLines(path)) as lines:
        lines.append({"a": bad, "b": [1.5, bad, (bad, 2)], "c": {"d": {"e": bad}}, "f": 0.1})
    assert rows_of(path) == [{"a": None, "b": [1.5, None, [None, 2]], "c": {"d": {"e": None}}, "f": 0.1}]


@pytest.mark.parametrize(
    "text",
    ["\ud800", "a\udfffb", "\ud83d", "two\nlines\r\n", "\u2028\u2029\x85", "½ 日本 \U0001f600", "\x00\x1b", '"\\'],
)
def test_any_text_stays_on_one_line_and_comes_back(path, text):
    with closing(JsonLines(path)) as lines:
        lines.append({"text": text, text: 1})
    assert path.read_bytes().isascii()
    assert len(path.read_bytes().splitlines()) == 1
    assert rows_of(path) == [{"text": text, text: 1}]


def test_numbers_come_back_exactly(path):
    row = {"lr": 1.2345678901234567e-7, "big": 2**80, "third": 1 / 3, "minus": -0.0, "tiny": 5e-324}
    with closing(JsonLines(path)) as lines:
        lines.append(row)
    assert rows_of(path) == [row]


def test_reopening_goes_on_at_the_end(path):
    for step in range(3):
        with closing(JsonLines(path)) as lines:
            assert lines.size() == path.stat().st_size
            lines.append({"step": step})
    assert rows_of(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_cut_goes_back_to_a_remembered_size_and_writing_goes_on_there(path):
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 1})
        remembered = lines.size()
        lines.append({"step": 2, "text": "x" * 10_000})
        lines.append({"step": 3})
        lines.cut(remembered)
        assert lines.size() == remembered == path.stat().st_size
        lines.append({"step": 4})
    assert rows_of(path) == [{"step": 1}, {"step": 4}]


def test_cut_after_reopening_drops_half_a_line_too(path):
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 1})
        remembered = lines.size()
    with path.open("ab") as file:
        file.write(b'{"step": 2, "text": "cut o')
    with closing(JsonLines(path)) as lines:
        lines.cut(remembered)
        lines.append({"step": 3})
    assert rows_of(path) == [{"step": 1}, {"step": 3}]


def test_cut_to_nothing_and_to_the_present_size(path):
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 1})
        lines.cut(lines.size())
        assert rows_of(path) == [{"step": 1}]
        lines.cut(0)
        assert path.read_bytes() == b""


def test_cut_never_makes_a_file_longer(path):
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 1})
        size = lines.size()
        with suppress(ContraposeError):  # refusing is as good as leaving it alone
            lines.cut(size + 10)
        assert path.stat().st_size == size


def test_what_is_no_plain_value_is_refused_and_leaves_no_half_row(path):
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 1})
        with pytest.raises(TypeError):
            lines.append({"step": 2, "what": object()})
        lines.append({"step": 3})
    assert rows_of(path) == [{"step": 1}, {"step": 3}]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=4), keep=st.integers(0, 4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_come_back_and_any_cut_keeps_the_first(path, rows, keep):
    path.unlink(missing_ok=True)
    with closing(JsonLines(path)) as lines:
        sizes = [0]
        for row in rows:
            lines.append(row)
            sizes.append(lines.size())
        assert rows_of(path) == rows
        lines.cut(sizes[min(keep, len(rows))])
        assert rows_of(path) == rows[:keep]


class Full:
    """A file on a disk that fills up in the middle of a row; what it takes at once is little."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        if self._room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._file.write(data[: min(self._room, 7)])
        self._room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_row_is_written_whole_or_not_at_all(path):
    with closing(JsonLines(path)) as lines:
        lines.append({"step": 1})
        lines._file = Full(lines._file, 20)
        lines.append({"step": 2})
        with pytest.raises(WriteFailed, match=r"log\.jsonl: cannot be written: No space left on device \([\d,]+ bytes"):
            lines.append({"step": 3})
        lines._file._room = 100
        lines.append({"step": 4})
    assert read_rows(path) == [{"step": 1}, {"step": 2}, {"step": 4}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is always full")
def test_a_full_disk_is_one_line_and_an_exit_code():
    with closing(JsonLines(Path("/dev/full"))) as lines, pytest.raises(WriteFailed, match="No space left") as error:
        lines.append({})
    assert error.value.exit_code == 74


def test_a_file_that_cannot_be_replaced_is_as_it_was(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": True})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("contrapose.report.log.sync", full)
    with pytest.raises(WriteFailed, match=r"a\.json: cannot be written"):
        write_json(tmp_path / "a.json", {"new": True})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": True}
