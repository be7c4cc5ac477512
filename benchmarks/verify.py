"""Right answers and speed: our verifier beside math-verify called plainly, on a file of labelled pairs.

    python benchmarks/verify.py FILE.jsonl [--rounds 5]

Rows hold ``gold``, ``prediction``, ``expected`` and, if they are there, ``core`` (the verdict depends on no convention)
and ``tags``. Speed is wall time of our workers together against math-verify in one process, in turn, medians of rounds;
each of our rounds has a fresh pool, so that nothing is remembered.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

from math_verify import parse, verify

from contrapose.verify.answer import find
from contrapose.verify.equal import compare, exact
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.workers import Workers

GRADING = Grading(answer="stated")


def plain(gold: str, prediction: str) -> bool:
    """What a reader of math-verify's own page writes; a bare answer is boxed, so that all of it is read."""
    return bool(verify(parse(_in_a_box(gold)), parse(_in_a_box(prediction))))


def _in_a_box(text: str) -> str:
    bare = not any(sign in text for sign in ("$", "boxed", "\\(", "\\[", "nswer", "\n")) and len(text) < 200
    return f"\\boxed{{{text}}}" if bare else text


def ours(pairs: list[tuple[str, str]]) -> tuple[list[bool], float]:
    """Verdicts, and the seconds they took once the workers stood ready."""
    with Workers(GRADING, Limits()) as workers:
        workers.check()
        start = time.perf_counter()
        found = [finding.status == "correct" for finding in workers.map(pairs)]
        return found, time.perf_counter() - start


def theirs(pairs: list[tuple[str, str]]) -> tuple[list[bool], float]:
    start = time.perf_counter()
    found = [plain(*pair) for pair in pairs]
    return found, time.perf_counter() - start


def agreement(rows: list[dict], verdicts: dict[str, list[bool]]) -> None:
    """How often each is right: on the core, and by tag beyond it; false positives and negatives of the core."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups["core" if row.get("core", True) else "the rest"].append(i)
        for tag in row.get("tags", []) if not row.get("core", True) else []:
            groups[f"  {tag}"].append(i)
    print(f"{'':24}{'rows':>6}" + "".join(f"{name:>14}" for name in verdicts))
    for group, members in sorted(groups.items(), key=lambda g: (g[0].startswith(" "), -len(g[1]))):
        right = [sum(found[i] == rows[i]["expected"] for i in members) for found in verdicts.values()]
        print(f"{group:24}{len(members):6}" + "".join(f"{r:8} {r / len(members):4.0%}" + " " for r in right))
    for name, found in verdicts.items():
        wrong = [i for i in groups["core"] if found[i] != rows[i]["expected"]]
        positives = [str(rows[i].get("id", i)) for i in wrong if found[i]]
        negatives = [str(rows[i].get("id", i)) for i in wrong if not found[i]]
        print(
            f"core, {name}: {1 - len(wrong) / len(groups['core']):.1%}; false positives {', '.join(positives) or '-'};"
        )
        print(f"    false negatives {', '.join(negatives) or '-'}")


def row_by_row(pairs: list[tuple[str, str]]) -> None:
    """Both in this one process, a row at a time: no row weighs more than another."""
    compare("1", r"\int_0^1 2x\,dx")  # imports what is imported at first use
    ratios = []
    for gold, text in pairs:
        start = time.perf_counter()
        plain(gold, text)
        middle = time.perf_counter()
        compare(gold, find(text, phrases=True) or "")
        ratios.append((middle - start) / (time.perf_counter() - middle))
    slower = sum(ratio < 1 for ratio in ratios) / len(ratios)
    print(f"    row by row in one process: {statistics.median(ratios):.1f}x, slower on {slower:.0%} of the rows")


def pool(times: int = 50) -> None:
    """What isolation costs: until the first verdict, for a round trip, and to replace a worker."""
    start = time.perf_counter()
    with Workers(GRADING, Limits(workers=1)) as workers:
        workers.check()
        ready = time.perf_counter() - start
        trips, births = [], []
        for _ in range(times):
            start = time.perf_counter()
            workers.submit("2", "2").result()
            trips.append(time.perf_counter() - start)
        for _ in range(times):
            start = time.perf_counter()
            worker = workers.nursery.bear()
            worker.send([json.dumps(["2", "2"]).encode()], 5.0)
            worker.receive(5.0)
            births.append(time.perf_counter() - start)
            worker.kill()
    trip, birth = (statistics.median(column) * 1e3 for column in (trips, births))
    print(f"pool: ready after {ready:.1f} s; a round trip {trip:.2f} ms; a fresh worker's first verdict {birth:.1f} ms")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    rows = [json.loads(line) for line in given.file.read_text(encoding="utf-8").splitlines()]
    pairs = [(row["gold"], row["prediction"]) for row in rows]
    agreement(rows, {"math-verify": theirs(pairs)[0], "contrapose": ours(pairs)[0]})
    pool()
    fast = [exact(gold, find(text, phrases=True) or "") is not None for gold, text in pairs]
    for name, chosen in (("fast path", True), ("the rest", False)):
        part = [pair for pair, is_fast in zip(pairs, fast, strict=True) if is_fast == chosen]
        took = [(theirs(part)[1], ours(part)[1]) for _ in range(given.rounds)]
        plainly, pooled = (statistics.median(column) for column in zip(*took, strict=True))
        ratios = [a / b for a, b in took]
        print(
            f"{name}: {len(part)} rows; math-verify {len(part) / plainly:,.0f} a second, "
            f"contrapose {len(part) / pooled:,.0f}, {statistics.median(ratios):.1f}x "
            f"({min(ratios):.1f} to {max(ratios):.1f})"
        )
        row_by_row(part)


if __name__ == "__main__":
    main()
