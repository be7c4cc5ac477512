"""Where problems come from: abacus, named data sets, files, the hub, reasoning-gym -> prompts."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

from contrapose.prompts import abacus, gym
from contrapose.prompts.catalogue import ALIASES, BENCHMARKS, TRAINING, DataSet, as_it_is, checked, find
from contrapose.prompts.rows import READERS, Rows, hub_rows, is_file, local
from contrapose.types import ContraposeError, Prompt, nearest

ABACUS_COUNT: dict[abacus.Split, int] = {"train": 8192, "validation": 400, "test": 800}
"""How many problems of a task that makes them are drawn, where no limit is given."""


class Loaded(NamedTuple):
    """The prompts of a source, and a line for each row that could not be read: where it stands, and why."""

    prompts: list[Prompt]
    broken: list[str]

    def whole(self) -> list[Prompt]:
        """The prompts, for whoever must not lose one. Raises ContraposeError that names the first broken row."""
        if self.broken:
            more = f" (and {len(self.broken) - 1} rows more)" if len(self.broken) > 1 else ""
            raise ContraposeError(f"data: {self.broken[0]}{more}")
        return self.prompts


class _Broken(Exception):
    """A row that cannot be read. The text says why."""


def load(
    spec: str,
    *,
    folder: str = "",
    problem_key: str = "",
    answer_key: str = "",
    limit: int | None = None,
    default_split: str = "train",
) -> Loaded:
    """The prompts of ``spec``, in order, and the rows that are broken.

    ``spec`` is one of ``abacus[:SPLIT]``; a name of the catalogue; a ``.jsonl``, ``.parquet`` or ``.csv`` file;
    ``hub:ORG/NAME[/CONFIG][:SPLIT]``, also ``hub:./FOLDER`` with files that ``datasets`` reads; ``gym:TASK[:SPLIT]``.
    With a ``folder`` a benchmark is read from there, a training set if it is there; else they come from the hub. The
    keys name the columns of problem and answer, ``outer.inner`` if nested; empty, they are ``problem`` and ``answer``,
    or the hub copy's own. ``limit`` takes the first so many good rows (of abacus and the gym: draws so many).

    Ids are ``NAME/HASH`` of the problem; where it stands again, ``NAME/HASH-2``, and so on. Raises ContraposeError that
    names what is valid; where the first row lacks a column, or there are no rows; and where a benchmark has another
    number of problems or, in a folder, other texts.
    """
    kind, _, rest = spec.partition(":")
    if kind == "abacus":
        split = _split(spec, rest or default_split)
        return Loaded(abacus.problems(split, limit or ABACUS_COUNT[split]), [])
    if kind == "gym":
        task, _, rest = rest.partition(":")
        split = _split(spec, rest or default_split)
        return Loaded(gym.problems(task, split, limit or ABACUS_COUNT[split]), [])
    if dataset := find(kind):
        _check_split(dataset, spec, rest or default_split)
        return _named(dataset, folder, problem_key, answer_key, limit)
    columns = _Columns(problem_key or "problem", answer_key or "answer")
    if kind == "hub":
        name, rows = hub_rows(rest, default_split)
        return _collect(name, spec, rows, columns, limit)
    file = local(spec)
    if file.suffix not in READERS:
        near = nearest(kind, ["abacus", *BENCHMARKS, *TRAINING, *ALIASES])
        raise ContraposeError(
            f"data: {spec!r} is no named data set{near}, nor hub:ORG/NAME, gym:TASK, or a .jsonl, .parquet or .csv file"
        )
    return _file(file, file.stem, columns, limit)


def final_answer(answer: str) -> str:
    r"""The answer itself: what follows ``####`` (GSM8K), and of that the last ``\boxed{}`` (MATH), if there are any."""
    text = answer.rpartition("####")[2].strip()
    return _last_box(text).strip() if _BOX.search(text) else text


_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def _last_box(text: str) -> str:
    """What stands in the box that opens last, of those that are closed; empty if none is."""
    opened: list[int] = []  # where the content of each open brace begins; 0 where it is no box's
    last = (0, 0)
    for found in _BRACES.finditer(text):
        if found[0] == "}" and opened:
            last = max(last, (opened.pop(), found.start()))
        elif found[0] == "{":
            opened.append(0)
        elif found[0].endswith("{") and len(found[0]) > 2:
            opened.append(found.end())
    return text[slice(*last)] if last[0] else ""


class _Columns(NamedTuple):
    """Where a row holds its problem and its answer, and what takes the wrapping from a problem."""

    problem: str
    answer: str
    clean: Callable[[str], str] = as_it_is


def _split(spec: str, split: str) -> abacus.Split:
    known = list(get_args(abacus.Split))
    if split not in known:
        raise ContraposeError(f"data: {spec!r} has no such split{nearest(split, known)}")
    return split  # type: ignore[return-value]


def _check_split(dataset: DataSet, spec: str, split: str) -> None:
    """A benchmark may be read for whatever purpose; a training set is never evaluated on by mistake."""
    named = ":" in spec
    if split != dataset.split and (named or dataset.split == "train"):
        hub = dataset.hub.rpartition(":")[0]
        ask = f"; ask for {dataset.name}:{dataset.split}" + (f", or hub:{hub}:SPLIT" if hub else "")
        raise ContraposeError(f"data: {dataset.name} is a {dataset.split} set, and {split!r} was asked for{ask}")


def _named(dataset: DataSet, folder: str, problem_key: str, answer_key: str, limit: int | None) -> Loaded:
    file = local(folder) / dataset.file
    there = bool(folder) and is_file(file)
    if folder and dataset.rows and not there:
        raise ContraposeError(
            f"data: {file} does not exist: put {dataset.name} there, or take its hub copy (no data.dir)"
        )
    if there:
        where, columns = str(file), _Columns(problem_key or "problem", answer_key or "answer", dataset.clean)
        loaded = _file(file, dataset.name, columns)
    else:
        where = f"hub:{dataset.hub}"
        columns = _Columns(problem_key or dataset.problem_key, answer_key or dataset.answer_key, dataset.clean)
        loaded = _collect(dataset.name, where, _hub_of(dataset), columns)
    if dataset.rows:
        _check_benchmark(dataset, loaded, where, texts=there)
    return Loaded(loaded.prompts[:limit], loaded.broken)


def _hub_of(dataset: DataSet) -> Rows:
    """The rows of the hub's copy; where they are not to be had, the error tells of both ways."""
    ask = f"give a folder that holds {dataset.file} (--data-dir, data.dir)"
    if not dataset.hub:
        raise ContraposeError(f"data: {dataset.name} has no copy on the hub that is known to be the same: {ask}")
    try:
        return hub_rows(dataset.hub, dataset.split)[1]
    except ContraposeError as error:
        raise ContraposeError(f"{error}; or {ask}") from None


def _check_benchmark(dataset: DataSet, loaded: Loaded, where: str, *, texts: bool) -> None:
    anyway = f"to evaluate it anyway, give it by its own name: --data {where}"
    if len(loaded.whole()) != dataset.rows:
        raise ContraposeError(
            f"data: {dataset.name} has {dataset.rows} problems, and {where} holds {len(loaded.prompts)}; {anyway}"
        )
    if texts and not checked(loaded.prompts, dataset):
        raise ContraposeError(f"data: {where} differs from the reference copy of {dataset.name} in its text; {anyway}")


# --- from rows to prompts ---------------------------------------------------------------------------------------------


def _file(file: Path, name: str, columns: _Columns, limit: int | None = None) -> Loaded:
    if not is_file(file):
        fault = "is not a file" if file.exists() else f"does not exist: paths are taken from {Path.cwd()}"
        raise ContraposeError(f"data: {file} {fault}")
    try:
        return _collect(name, str(file), READERS[file.suffix](file), columns, limit)
    except OSError as error:
        raise ContraposeError(f"data: {file} cannot be read: {error.strerror or error}") from None


def _collect(name: str, place: str, rows: Rows, columns: _Columns, limit: int | None = None) -> Loaded:
    """The prompts of ``rows``, called ``name``, from ``place``."""
    prompts: list[Prompt] = []
    broken: list[str] = []
    times: Counter[str] = Counter()
    parsed = False
    for where, row in rows:
        try:
            if isinstance(row, str):
                raise _Broken(row)
            if not parsed:
                _check_columns(row, columns, where)
                parsed = True
            problem, answer = _problem(row, columns), _answer(row, columns.answer)
        except _Broken as error:
            broken.append(f"{where} {error}")
            continue
        digest = hashlib.sha256(problem.encode()).hexdigest()[:12]
        times[digest] += 1
        again = f"-{times[digest]}" if times[digest] > 1 else ""
        prompts.append(Prompt(f"{name}/{digest}{again}", problem, answer, name))
        if len(prompts) == limit:
            break
    if not prompts and not broken:
        raise ContraposeError(f"data: {place} holds no rows: each is a problem with its answer")
    return Loaded(prompts, broken)


def _check_columns(row: dict[str, Any], columns: _Columns, where: str) -> None:
    """A column that the first row lacks is no fault of the row."""
    for key in (columns.problem, columns.answer):
        try:
            _value(row, key)
        except _Broken as error:
            raise ContraposeError(
                f"data: {where} {error}; set data.problem_key and data.answer_key, one pair for all files of a run: "
                "rename the columns of a file that differs"
            ) from None


def _problem(row: dict[str, Any], columns: _Columns) -> str:
    key, value = columns.problem, _value(row, columns.problem)
    match value:
        case [{"role": "user", "content": str(turn)}]:
            value = turn
        case list():
            raise _Broken(f"column {key!r}: expected a text, or a chat of one turn, the user's")
    problem = columns.clean(_text(value, key))
    if not problem:
        raise _Broken(f"column {key!r}: nothing but instructions")
    return problem


def _answer(row: dict[str, Any], key: str) -> str:
    answer = final_answer(_text(_value(row, key), key))
    if not answer:
        raise _Broken(f"column {key!r}: nothing follows ####, or no box is closed")
    return answer


def _value(row: dict[str, Any], key: str) -> Any:
    """The value under ``key``, a column or the dotted way into a nested one."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise _Broken(f"has no column {key!r}{nearest(part, list(value if isinstance(value, dict) else row))}")
        value = value[part]
    return value


def _text(value: Any, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _Broken(f"column {key!r}: expected a text or a number, found {type(value).__name__}")
    text = str(value)
    if not text.strip() or (isinstance(value, float) and not math.isfinite(value)):
        raise _Broken(f"column {key!r}: expected a text or a number, found {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Broken(f"column {key!r}: holds half a character, or is not UTF-8") from None
    return text
