"""The folder of a run: taken up where it was, by one process at a time, and never lost."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrapose.config import resolve
from contrapose.prompts.abacus import model_folder
from contrapose.report.log import WriteFailed
from contrapose.train import checkpoint
from contrapose.train.facts import changes
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.train.work import Work
from contrapose.types import ContraposeError
from reliability.kills import digest, settings


def run(folder: Path, how, resume: bool = False) -> Run:
    return Run(resolve(None, how)[0], folder, resume=resume)


def done(run: Run) -> dict[str, str]:
    """Train to the end; the digest of what is left."""
    with run:
        assert train(run)
        run.finish()
    return digest(run.folder)


@pytest.fixture(scope="module")
def how(tmp_path_factory):
    return settings(tmp_path_factory.mktemp("data"), "rence")


@pytest.fixture(scope="module")
def whole(how, tmp_path_factory):
    """The digest of a run that was never stopped."""
    return done(run(tmp_path_factory.mktemp("whole") / "run", how))


@pytest.fixture(scope="module")
def stopped(how, tmp_path_factory):
    """The folder of a run that was stopped in its fourth step, after the first of two updates."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with run(folder, how) as one:

        def on_trained(row):
            one.stop.requested |= row["step"] == 4

        one.on_trained = on_trained
        assert not train(one)
        assert (one.step, len(one.work.updates)) == (3, 1)
    return folder


def copied(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def test_a_step_that_was_begun_goes_on_with_its_next_update(stopped, how, whole, tmp_path):
    assert done(run(copied(stopped, tmp_path), how, resume=True)) == whole


def test_no_random_generator_has_a_say(how, whole, tmp_path):
    """Whatever the state of Python's and torch's own generators: there is none that a checkpoint would have to save."""
    one = run(tmp_path / "run", how)

    def scramble(*_):
        random.seed(torch.seed())

    one.on_trained = one.on_eval = one.on_group = scramble
    assert done(one) == whole


def test_a_step_that_was_begun_is_saved_to_the_last_bit(stopped):
    [folder] = (p for p in checkpoint.saved(stopped) if (p / "work.json").exists())
    work = Work.load(folder, torch.device("cpu"))
    work.save(stopped.parent)
    for name in ("work.json", "work.safetensors"):
        assert (stopped.parent / name).read_bytes() == (folder / name).read_bytes()


def test_killed_before_its_first_checkpoint_a_run_begins_again(how, whole, tmp_path):
    class Killed(BaseException):
        pass

    def kill(row):
        raise Killed

    one = run(tmp_path / "run", [*how, "checkpoint.every=0"])
    with one, pytest.raises(Killed):
        train(one, kill)
    again = run(tmp_path / "run", how, resume=True)
    assert "no checkpoint was written yet: starting from the beginning" in again.notes
    assert {**done(again), "config.toml": ""} == {**whole, "config.toml": ""}


def test_two_processes_cannot_have_one_folder(stopped, how, tmp_path):
    folder = copied(stopped, tmp_path)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with run(folder, how, resume=True), pytest.raises(ContraposeError, match="is being written by another process"):
        run(folder, how, resume=True)
    assert {p: p.read_bytes() for p in before} == before
    with pytest.raises(ContraposeError, match="already holds a run"):
        run(folder, how)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(stopped, how, whole, tmp_path):
    """The steps are made again, and everything is as if nothing had happened."""
    folder = copied(stopped, tmp_path)
    weights = checkpoint.saved(folder)[-1] / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = run(folder, how, resume=True)
    assert again.step == 2
    assert [note for note in again.notes if "step-000003 is damaged (model/model.safetensors has" in note]
    assert done(again) == whole


def test_what_was_changed_since_the_checkpoint_is_told(stopped, how, tmp_path):
    again = run(copied(stopped, tmp_path), [*how, "steps=5"], resume=True)
    with again:
        assert [note for note in again.notes if note.startswith("steps was 4 at the checkpoint and is 5 now")]
    assert changes({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}) == [
        "a.c was 2 at the checkpoint and is None now: from here on the run may differ from one that was never stopped",
        "a.d was None at the checkpoint and is 3 now: from here on the run may differ from one that was never stopped",
    ]


def test_a_disk_without_room_for_a_checkpoint_is_told_before_anything_is_trained(how, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 4_000_000)
    with pytest.raises(WriteFailed, match=r"a checkpoint needs 4,\d+,\d+ bytes, 4,000,000 are free"):
        run(tmp_path / "run", how)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_anything_else_is_not_written_to(how, tmp_path):
    """Neither a model that lies there, nor rows of somebody else."""
    for name, content in (("model/config.json", "{}"), ("metrics.jsonl", '{"mine": 1}')):
        folder = tmp_path / name.partition("/")[0]
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(content)
        with pytest.raises(ContraposeError, match=r"--out: .* is not empty, it holds"):
            run(folder, how)
        assert [p.read_text() for p in folder.rglob("*") if p.is_file()] == [content]
    (tmp_path / "begun").mkdir()
    for name in ("metrics.jsonl", "data.json", ".config.toml.part"):  # killed before it was a run
        (tmp_path / "begun" / name).touch()
    run(tmp_path / "begun", how).__exit__()


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4)])
def test_a_step_that_was_begun_ends_with_as_many_updates(stopped, how, tmp_path, before, after):
    with run(copied(stopped, tmp_path), [*how, f"batch.updates={after}"], resume=True) as again:
        assert train(again)
    assert [len(row["updates"]) for row in again.history] == [before] * 4


def test_a_reference_that_was_changed_is_told(tmp_path, how):
    base = tmp_path / "base"
    shutil.copytree(model_folder("abacus"), base)
    how = [*how, "objective.name=grpo", "objective.reference_coef=0.1", f"model.reference={base}", "steps=1"]
    with run(tmp_path / "run", how) as one:
        assert train(one)
    weights = load_file(base / "model.safetensors")
    save_file({name: x + 1e-3 for name, x in weights.items()}, base / "model.safetensors", {"format": "pt"})
    with run(tmp_path / "run", how, resume=True) as again:
        assert any(note.startswith("reference was ") for note in again.notes)


LOSSES = {
    "updates": lambda state: state | {"updates": 0},
    "progress": lambda state: state | {"now": state["now"] | {"progress": 0.0}},
    "kl_coef": lambda state: state | {"now": state["now"] | {"kl_coef": 0.001}},
    "sizes": lambda state: state | {"sizes": dict.fromkeys(state["sizes"], 0)},
    "orders": lambda state: of_pool(state, orders={"": {"epoch": -1, "left": [], "turns": 0}}),
    "cache": lambda state: of_pool(state, cache=[]),
    "mastered": lambda state: of_pool(state, mastered=[]),
    "mastered_visits": lambda state: of_pool(state, mastered_visits={}),
    "acceptance": lambda state: of_pool(state, acceptance=1.0),
}
"""What a checkpoint holds, each left out once."""


def of_pool(state: dict, **values: object) -> dict:
    return state | {"pool": state["pool"] | values}


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A run in which everything matters, and a copy of its folder when it was stopped in the middle of a step."""
    base = tmp_path_factory.mktemp("rich")
    how = [*settings(base, "rence"), "steps=9", "filter.t_master=0.7", "eval.every=3"]
    how += ["objective.margin=constant", "objective.kl_target=1e-5"]
    with run(base / "stopped", how) as one:

        def on_trained(row):
            pool = one.pool.state_dict()
            one.stop.requested |= row["step"] > 3 and all(pool[key] for key in ("cache", "mastered", "mastered_visits"))

        one.on_trained = on_trained
        assert not train(one) and one.work and one.step < 8
    return how, base / "stopped", done(run(base / "whole", how))


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["nothing", *LOSSES, "moments", "work"])
def test_nothing_in_a_checkpoint_can_be_left_out(rich, tmp_path, monkeypatch, lost):
    """The control of all tests above: without any one of them the run ends otherwise."""
    how, stopped, whole = rich
    load_state = checkpoint.load_state
    if lost == "moments":
        monkeypatch.setattr(checkpoint, "load_optimizer", lambda *_: None)
    elif lost == "work":
        monkeypatch.setattr(Work, "load", lambda *_: None)
    elif lost != "nothing":
        monkeypatch.setattr(checkpoint, "load_state", lambda folder: LOSSES[lost](load_state(folder)))
    again = run(copied(stopped, tmp_path), how, resume=True)
    if lost == "progress":  # only a scheduled margin reads it: what it says is enough
        with again:
            assert again.now.progress == 0 != load_state(checkpoint.saved(stopped)[-1])["now"]["progress"]
    else:
        assert (done(again) == whole) == (lost == "nothing")
