"""The report of one run or of several: what each wrote, and how their evaluations differ, problem by problem."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contrapose.evaluate.compare import compare
from contrapose.evaluate.statistics import FEW
from contrapose.report.log import replace_text
from contrapose.report.page import legend, page
from contrapose.report.run import Evaluation, evaluations, read
from contrapose.types import ContraposeError, told

REPORT = "report.html"
"""The report of a run, in its folder."""

Test = tuple[Path, Evaluation]
"""A run and one of its tests."""


def report_data(runs: Sequence[Path]) -> dict[str, Any]:
    """What the page shows of ``runs``.

    ``changes``: for each run what training changed, by test set. ``differences``: for each run but the first its last
    policy beside that of the first. Raises ContraposeError for what is no run folder, or one that another version
    wrote.
    """
    named = list(zip(runs, _names(runs), strict=True))
    tests = [_tests(run) for run in runs]
    first, last = ([{data: ends[i] for data, ends in found.items()} for found in tests] for i in (0, 1))
    return {
        "runs": [read(run, name, len(runs)) for run, name in named],
        "changes": [list(_paired(*ends)) for ends in zip(first, last, strict=True)],
        "differences": [list(_paired(last[0], other)) for other in last[1:]],
        **legend(),
    }


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Write the page of ``runs``. Raises ContraposeError as ``report_data``, and WriteFailed where the disk refuses."""
    replace_text(out, page(report_data(runs)))


def report_of(run: Path) -> str | None:
    """Write the report of a run that is done into its folder; where that cannot be, why, in one line: nothing else is
    lost by it."""
    try:
        write_report([run], run / REPORT)
    except Exception as error:  # whatever it is, the run is done
        return f"{told(error)}: no report was written; once mended: contrapose report {shlex.quote(str(run))}"
    return None


def _names(runs: Sequence[Path]) -> list[str]:
    """What the runs are called: their folders' names, or where two have the same, the paths as they were given."""
    names = [run.absolute().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _tests(run: Path) -> dict[str, tuple[Test, Test]]:
    """A run's first and last test on each data set."""
    found: dict[str, list[Evaluation]] = {}
    for row in sorted(evaluations(run), key=lambda row: row.step):
        if row.split == "test":
            found.setdefault(row.data, []).append(row)
    return {data: ((run, rows[0]), (run, rows[-1])) for data, rows in found.items()}


def _paired(these: dict[str, Test], those: dict[str, Test]) -> Iterator[dict[str, Any]]:
    """The second minus the first on every data set that both have, or a ``note`` why they cannot be compared.

    ``enough``: how many problems would show a difference of this size, where these do not.
    """
    for data in (data for data in these if data in those):
        (run, before), (other, after) = these[data], those[data]
        if (run, before.step) == (other, after.step):
            continue
        about = {"data": data, "from": before.step, "to": after.step}
        if before.answers is None or after.answers is None:
            yield about | {"note": "eval.json does not say where the answers are: an older version wrote it"}
            continue
        try:
            found = compare(run / before.answers, other / after.answers)
        except ContraposeError as error:
            yield about | {"note": str(error)}
            continue
        one = found.sets[0]
        differs = one.problems >= FEW and one.difference.value
        yield about | {
            "problems": one.problems,
            "first": one.first,
            "second": one.second,
            "difference": one.difference._asdict(),
            "same": one.same,
            "enough": one.enough if differs else None,
            "settings": [[key, str(here), str(there)] for key, here, there in found.settings],
        }
