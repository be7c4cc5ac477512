"""A disk that is full in the middle of a run: exit code 74, one line, and once there is room the run goes on."""

import re
import signal

import pytest

from reliability.kills import digest, leftovers, settings


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """A run that always had room: its settings and its digest."""
    folder = tmp_path_factory.mktemp("whole")
    how = [*settings(folder, "rence"), "eval.validation=''"]  # or best/ would be the first that is large
    assert zygote.run(folder / "whole", how).code == 0
    return how, digest(folder / "whole")


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        (1_000, "config.toml"),
        (2_500, "evaluations/step-000000/"),
        (13_000, "rollouts.jsonl"),
        (1_000_000, "checkpoints/step-000002"),  # its weights
        (2_000_000, "checkpoints/step-000002"),  # its moments
    ],
)
def test_whichever_file_does_not_fit(whole, zygote, tmp_path, limit, name):
    """No file can be larger than ``limit`` bytes; ``name`` is the first that would be."""
    how, expected = whole
    ended = zygote.run(tmp_path / "run", how, limit=limit)
    assert ended.code == 74, ended.said
    *_, line = ended.said.strip().splitlines()
    assert re.fullmatch(r"error: .*: cannot be written: .*File too large.* \([\d,]+ bytes are free\).*", line)
    assert f"run/{name}" in line
    assert zygote.run(tmp_path / "run", how).code == 0
    assert digest(tmp_path / "run") == expected
    assert leftovers(tmp_path / "run") == []


@pytest.mark.slow
def test_room_that_comes_and_goes(whole, zygote, tmp_path):
    """A run whose disk is full again and again, at more and more bytes, and that is killed in between."""
    how, expected = whole
    for limit in (500, 2_000, 6_000, 9_000, 20_000, 1_500_000):
        assert zygote.run(tmp_path / "run", how, limit=limit).code == 74
        assert zygote.run(tmp_path / "run", how, at=("step: before a pass", 3)).code == -signal.SIGKILL
    assert zygote.run(tmp_path / "run", how).code == 0
    assert digest(tmp_path / "run") == expected
