"""Hostile answers, through the graders as they are used: each gets a verdict, and no other verdict changes."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from contrapose.types import FAULTS
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.workers import Workers

FILE = Path(__file__).parents[3] / "shared" / "data" / "graders" / "hostile.jsonl"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the hostile answers are not here")

ORDINARY = [
    ("2", r"so \boxed{2}", True),
    ("2", r"so \boxed{3}", False),
    (r"\frac{1}{2}", r"it is \boxed{0.5}", True),
    (r"\frac{1}{2}", r"it is \boxed{\frac{1}{3}}", False),
    ("2", "The answer is 2.", True),
    ("2", "The answer is 22.", False),
    (r"2\sqrt{2}", r"\boxed{\sqrt{8}}", True),
    (r"2\sqrt{2}", r"\boxed{\sqrt{2}}", False),
    ("x+1", r"\boxed{1+x}", True),
    ("x+1", r"\boxed{x-1}", False),
    (r"\{1,2\}", r"\boxed{\{2,1\}}", True),
    ("(1,2]", r"\boxed{[1,2]}", False),
    (r"(x+1)^2", r"\boxed{x^2+2x+1}", True),
    (r"\text{even}", r"\boxed{odd}", False),
]


def read():
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if "prediction_parts" in row:
            row["prediction"] = "".join(part * count for part, count in row["prediction_parts"])
    return rows


def interleaved(hostile, per_hostile):
    """``(row or None, gold, text, right or None)``: each hostile row before, among and after ordinary ones."""
    ordinary = (ORDINARY[n % len(ORDINARY)] for n in range(len(hostile) * per_hostile))
    for row in hostile:
        yield row, row["gold"], row["prediction"], row["expected"]
        for _ in range(per_hostile):
            yield None, *next(ordinary)


def judge(items, limits=Limits()):
    with Workers(Grading(answer="stated"), limits) as pool:
        pool.check()
        return list(pool.map((gold, text) for _, gold, text, _ in items))


def hold(items, findings, limits=Limits()):
    """What must be true of them."""
    assert len(findings) == len(items)
    mistakes = []
    for (row, gold, text, right), finding in zip(items, findings, strict=True):
        name = row["id"] if row else (gold, text)
        assert finding.seconds <= limits.seconds + 1, name
        judged = row is not None or finding.status in ("correct", "wrong")
        if not judged or (right is not None and (finding.status == "correct") != right):
            mistakes.append((name, finding.status, finding.note))
    assert mistakes == []


def test_every_hostile_answer_gets_a_verdict_and_harms_no_other(tmp_path, monkeypatch):
    """Canaries are files that an answer creates if it is ever run; they would appear where we stand."""
    monkeypatch.chdir(tmp_path)
    hostile = read()
    assert len(hostile) > 100
    random.Random(0).shuffle(hostile)
    items = list(interleaved(hostile, 10))
    findings = judge(items)
    hold(items, findings)
    assert list(tmp_path.iterdir()) == []
    canaries = [row["canary"] for row in hostile if "canary" in row]
    assert canaries and not any((folder / name).exists() for name in canaries for folder in (Path("/tmp"), Path.home()))


def test_boxed_hostile_answers_are_no_better():
    """The same in a box, as a model would write them: nothing that is wrong becomes right."""
    hostile = [row for row in read() if row["form"] == "string" and row["expected"] is False]
    boxed = [{**row, "prediction": rf"so \boxed{{{row['prediction']}}}"} for row in hostile]
    items = list(interleaved(boxed, 2))
    hold(items, judge(items))


@pytest.mark.slow
def test_a_thousand_hostile_answers_among_ten_thousand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = read()
    hostile = random.Random(0).choices(rows, k=1000)
    items = list(interleaved(hostile, 10))
    start = time.monotonic()
    findings = judge(items)
    elapsed = time.monotonic() - start
    hold(items, findings)
    again = {}
    for (row, *_), finding in zip(items, findings, strict=True):
        if row and finding.status not in FAULTS:
            assert again.setdefault(row["id"], finding.status) == finding.status, "the same answer, another verdict"
    assert list(tmp_path.iterdir()) == []
    faults = Counter(finding.status for finding in findings if finding.status in FAULTS)
    assert elapsed < 600 + Limits().seconds * sum(faults.values())
