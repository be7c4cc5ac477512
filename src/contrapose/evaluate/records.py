"""The folder of an evaluation: what is asked, every problem with its answers, the result. It survives being killed."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from contrapose.evaluate.evaluate import Answer, Answered
from contrapose.report.log import JsonLines, WriteFailed, make_folder, on_disk, write_json
from contrapose.types import ContraposeError, Group, Prompt, Status

SETTINGS, ROWS, RESULT = "settings.json", "rollouts.jsonl", "eval.json"


class Kept(NamedTuple):
    """A row that was written: its data set, the gold answer, what counts of it, and the file's size up to its end."""

    data: str
    gold: str
    answered: Answered
    end: int


class Records:
    """Writes an evaluation to its folder, after the rows of it that are there; ``recording`` opens one.

    ``damage`` says which of these could not be read, empty where all could: it and what follows is asked again.
    """

    def __init__(self, folder: Path, lines: JsonLines) -> None:
        self.folder, self._lines = folder, lines
        self._kept: deque[Kept] = deque()
        self._size = 0
        self.damage = ""
        try:
            for row in _rows(folder / ROWS):
                self._kept.append(row)
        except ContraposeError as error:
            self.damage = str(error)

    @property
    def kept(self) -> int:
        """How many problems an interrupted evaluation left, and have not been taken over yet."""
        return len(self._kept)

    def taken_over(self, data: str, prompts: Sequence[Prompt]) -> list[Answered]:
        """What is there already of ``prompts``, the next ones to be asked: all of them or, if any is missing, none.

        Answers to problems that are asked side by side may hang on one another in the last bits of a log-prob, so that
        what is not there whole is cut off, to be asked again. Raises ContraposeError for rows of other problems.
        """
        rows = [self._kept.popleft() for _ in range(min(len(prompts), len(self._kept)))]
        for row, prompt in zip(rows, prompts, strict=False):
            if (row.data, row.answered.prompt) != (data, prompt.id):
                found = f"{row.answered.prompt!r} of {row.data!r} where {prompt.id!r} of {data!r} belongs"
                raise ContraposeError(f"--resume: {self.folder / ROWS} has {found}")
        if len(rows) < len(prompts):
            self._lines.cut(self._size)
            return []
        self._size = rows[-1].end
        return [row.answered for row in rows]

    def write(self, data: str, group: Group, found: Answered) -> None:
        """Add the row of the next problem."""
        with _goes_on():
            self._lines.append(_row(data, group, found))
        self._size = self._lines.size()

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the result."""
        with _goes_on():
            self._lines.cut(self._size)
            self._lines.flush()
            write_json(self.folder / RESULT, rows)


@contextmanager
def recording(folder: Path, settings: Mapping[str, Any], *, resume: bool) -> Iterator[Records]:
    """Write an evaluation to ``folder``, or go on with the one that lies there; no other process can meanwhile.

    ``settings`` is everything that the answers depend on. Raises ContraposeError for a folder that holds an evaluation
    or a run already, unless ``resume`` is set; and then for one that was begun with other settings.
    """
    _check(folder, settings, resume)
    make(folder)
    lines = JsonLines(folder / ROWS)
    try:
        lines.claim()
        _check(folder, settings, resume)  # another process may just have been here
        if not _held(folder):
            with _goes_on():
                write_json(folder / SETTINGS, settings)
        yield Records(folder, lines)
    finally:
        lines.close()


def make(folder: Path) -> None:
    """Make ``folder``, so that nothing is asked in vain. Raises ContraposeError where none can be made or written to,
    WriteFailed where the disk refuses."""
    with on_disk(folder):
        try:
            make_folder(folder)
            if not folder.is_dir():
                raise NotADirectoryError(None, "it is a file")
            if not os.access(folder, os.W_OK):
                raise PermissionError(None, "no permission")
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise ContraposeError(f"--out: {folder} cannot be written: {error.strerror}") from None


def refuse_used(folder: Path) -> None:
    """Raise ContraposeError if ``folder`` holds an evaluation or a run: nothing is ever overwritten."""
    if held := _held(folder):
        raise ContraposeError(
            f"--out: {folder} already holds an evaluation ({held[0]}): choose another, or go on with --resume"
        )


def begun_with(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether ``folder`` holds an evaluation that was begun with these very settings."""
    try:
        return not any(differences(_settings(folder), _as_read(settings)))
    except ContraposeError:
        return False


def read(folder: Path) -> tuple[dict[str, Any], list[Kept]]:
    """The settings of a finished evaluation, and its problems, all of them."""
    missing = [name for name in (SETTINGS, RESULT, ROWS) if not (folder / name).is_file()]
    if missing:
        raise ContraposeError(
            f"{folder} has no {missing[0]}: it is not the folder of a finished evaluation (contrapose eval --out)"
        )
    settings, rows, found = _settings(folder), list(_rows(folder / ROWS)), _result(folder)
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, 1):
        key = row.data, row.answered.prompt
        if key in seen:
            raise ContraposeError(f"{folder / ROWS}: line {number}: {key[1]!r} stands there twice")
        if row.data not in found or found[row.data].samples != len(row.answered.answers):
            samples = f"{len(row.answered.answers)} samples of {row.data!r}"
            raise ContraposeError(f"{folder / ROWS}: line {number}: {samples}, which is not what {RESULT} has")
        seen.add(key)
    held = Counter(row.data for row in rows)
    for data, exam in found.items():
        if held[data] != exam.problems:
            holds = f"its {len(rows)} lines hold {held[data]} problems of {data!r}"
            raise ContraposeError(f"{folder / ROWS}: {holds}, where {RESULT} counts {exam.problems}")
        if data not in settings["data"]:
            raise ContraposeError(f"{folder / SETTINGS}: says nothing of {data!r}, which {RESULT} has")
    return settings, rows


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The settings that differ: dotted key, and the value of either side (None where it has none)."""
    pending: list[tuple[str, Any, Any]] = [("", first, second)]
    while pending:
        key, one, other = pending.pop()
        if all(isinstance(side, Mapping) for side in (one, other) if side is not None):
            one, other = one or {}, other or {}
            inner = reversed({**one, **other})
            pending += [(f"{key}.{k}" if key else k, one.get(k), other.get(k)) for k in inner]
        elif one != other:
            yield key, one, other


def _check(folder: Path, settings: Mapping[str, Any], resume: bool) -> None:
    if not resume:
        refuse_used(folder)
    elif _held(folder):
        _check_settings(folder, settings)


def _held(folder: Path) -> list[str]:
    """What ``folder`` holds already. A process that was killed at once leaves a file without rows, and no settings."""
    held = [name for name in (SETTINGS, ROWS, RESULT) if (folder / name).exists()]
    if held == [ROWS] and not (folder / ROWS).stat().st_size and set(os.listdir(folder)) <= {ROWS, f".{SETTINGS}.part"}:
        return []
    return held


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    for key, before, now in differences(_settings(folder), _as_read(settings)):
        raise ContraposeError(
            f"--resume: {folder} was begun with {key} = {json.dumps(before)}, and now it is {json.dumps(now)}: give "
            "what it was begun with, or another --out"
        )


def _as_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they come back from a file."""
    read: dict[str, Any] = json.loads(json.dumps(settings))
    return read


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Sample(_Part):
    tokens: int = Field(ge=0)
    finished: Literal["stop", "length"]
    status: Status


class _Row(_Part):
    data: str
    prompt: str
    answer: str
    majority: float = Field(ge=0, le=1)
    samples: list[_Sample] = Field(min_length=1)


class _Settings(_Part):
    data: dict[str, dict[str, Any]]


class _Exam(_Part):
    data: str
    problems: int
    samples: int = 0
    of: list[str] | None = None


def _settings(folder: Path) -> dict[str, Any]:
    with _readable(folder / SETTINGS):
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        _Settings.model_validate(settings)
        return settings


def _result(folder: Path) -> dict[str, _Exam]:
    with _readable(folder / RESULT):
        rows = TypeAdapter(list[_Exam]).validate_python(json.loads((folder / RESULT).read_text(encoding="utf-8")))
        return {row.data: row for row in rows if row.of is None}


def _rows(path: Path) -> Iterator[Kept]:
    """The rows of ``path``. Raises ContraposeError at the first that is not whole."""
    size = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            size += len(line)
            with _readable(path, f"line {number}"):
                if not line.endswith(b"\n"):
                    raise ValueError("cut off")
                row = _Row.model_validate(json.loads(line.decode()))
            answers = tuple(Answer(s.tokens, s.finished == "length", s.status) for s in row.samples)
            yield Kept(row.data, row.answer, Answered(row.prompt, row.majority, answers), size)


@contextmanager
def _readable(path: Path, where: str = "") -> Iterator[None]:
    """Say in one line what a file holds that is not what an evaluation writes."""
    place = f"{path}: {where}: " if where else f"{path}: "
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        raise ContraposeError(f"{place}{'.'.join(map(repr, first['loc']))}: {first['msg']}") from None
    except RecursionError:
        raise ContraposeError(f"{place}nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ContraposeError(f"{place}{error}") from None


@contextmanager
def _goes_on() -> Iterator[None]:
    """Add the mend to what the disk refused."""
    try:
        yield
    except WriteFailed as error:
        raise WriteFailed(f"{error}: free space, then go on with --resume") from None


def _row(data: str, group: Group, found: Answered) -> dict[str, Any]:
    return {
        "data": data,
        "prompt": group.prompt.id,
        "problem": group.prompt.problem,
        "answer": group.prompt.answer,
        "correct": group.correct,
        "majority": found.majority,
        "samples": [
            {"text": r.text, "tokens": len(r.tokens), "finished": r.finished, "status": v.status, "boxed": v.boxed}
            for r, v in zip(group.rollouts, group.verdicts, strict=True)
        ],
    }
