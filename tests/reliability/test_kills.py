"""Killed anywhere, or asked to stop anywhere, and taken up again: the run ends as one that was never stopped."""

import json
import random
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from reliability.kills import digest, leftovers, settings

PHASES = ("step", "checkpoint", "evaluation", "finish")


@pytest.fixture(scope="module", params=["rence", "conspo"])
def whole(request, zygote, tmp_path_factory):
    """A run that was never stopped: its settings, its digest, and the points it passed."""
    folder = tmp_path_factory.mktemp(request.param)
    how = settings(folder, request.param)
    ended = zygote.run(folder / "whole", how)
    assert ended.code == 0, ended.said
    return how, digest(folder / "whole"), ended.points


def a_point(points: dict[str, int], chance: random.Random) -> tuple[str, int]:
    """Some point of a run, each phase and each kind of point as likely as any other."""
    phase = chance.choice(PHASES)
    name = chance.choice([point for point in sorted(points) if point.startswith(f"{phase}:")])
    return name, chance.randint(1, points[name])


def interrupted(zygote, folder: Path, whole, wanted: int, draw: Callable[[], dict], code: int) -> None:
    """Interrupt runs as ``draw`` says and take them up again until it happened ``wanted`` times; then all get through.

    Each ends as the one that was left in peace, and every prompt drawn stands in its ledger once.
    """
    settings, expected, _ = whole
    happened, run = 0, 0
    while happened < wanted:
        run += 1
        place = folder / f"run{run}"
        while (ended := zygote.run(place, settings, **(draw() if happened < wanted else {}))).code != 0:
            assert ended.code == code, ended.said
            happened += 1
        assert digest(place) == expected
        assert leftovers(place) == []
        ledger = [json.loads(line) for line in (place / "ledger.jsonl").read_text().splitlines()]
        metrics = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        drawn = Counter(row["step"] for row in ledger)
        assert {row["step"]: row["drawn_groups"] for row in metrics} == drawn


def test_a_run_killed_five_times_ends_as_one_that_never_was(whole, zygote, tmp_path):
    chance = random.Random(5)
    interrupted(zygote, tmp_path, whole, 5, lambda: {"at": a_point(whole[2], chance)}, -signal.SIGKILL)


@pytest.mark.parametrize("whole", ["rence"], indirect=True)
@pytest.mark.parametrize(
    "point", ["step: sampling", "step: after an update", "checkpoint: before sync", "evaluation: verification"]
)
def test_a_run_that_is_asked_to_stop_saves_where_it_is(whole, zygote, tmp_path, point):
    """SIGTERM while sampling, between the updates of a step, within a checkpoint and an evaluation: exit code 75."""
    how, expected, points = whole
    at = (point, points[point] // 2 + 1)
    ended = zygote.run(tmp_path / "stopped", how, at=at, number=signal.SIGTERM)
    assert ended.code == 75 and "; go on with: contrapose train --resume --out " in ended.said
    begun = {folder for folder in tmp_path.glob("stopped/checkpoints/*") if (folder / "work.json").exists()}
    assert bool(begun) == (point == "step: after an update"), ended.said
    assert zygote.run(tmp_path / "stopped", how).code == 0
    assert digest(tmp_path / "stopped") == expected
    assert leftovers(tmp_path / "stopped") == []


@pytest.mark.slow
def test_a_hundred_kills(whole, zygote, tmp_path):
    """Fifty of each objective: half of them at a point, half at any moment; one attempt in seven is left alone."""
    chance = random.Random(100)

    def draw():
        if chance.random() < 1 / 7:
            return {}
        return {"at": a_point(whole[2], chance)} if chance.random() < 0.5 else {"after": chance.uniform(0, 2.5)}

    interrupted(zygote, tmp_path, whole, 50, draw, -signal.SIGKILL)


@pytest.mark.slow
def test_twenty_stops(whole, zygote, tmp_path):
    """SIGTERM at ten points of each objective, several times in one run: nothing is lost."""
    chance = random.Random(20)
    begins = re.compile("step: (before|after) (write|sync|replace)")  # there is no run yet that could be stopped
    points = {point: passed for point, passed in whole[2].items() if not begins.fullmatch(point)}
    draw = lambda: {"at": a_point(points, chance), "number": signal.SIGTERM}  # noqa: E731
    interrupted(zygote, tmp_path, whole, 10, draw, 75)
