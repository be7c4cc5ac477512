"""What is evaluated when, and that a checkpoint is chosen on validation problems alone."""

import json

import pytest
import torch
from safetensors.torch import load_file

from contrapose.config import resolve
from contrapose.train.evaluations import Evaluations
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.types import ContraposeError
from train_scripted import ScriptedEngine

SMALL = ["steps=4", "batch.prompts=4", "batch.updates=2", "rollout.k=4", "optim.lr=1e-3", "diagnose.every=0"]
ASKED = ["eval.every=1", "eval.samples=1", "eval.data=test.jsonl", "eval.validation=valid.jsonl"]


def problems(path, first, last):
    """Sums that abacus cannot ask, as a file."""
    rows = ({"problem": f"{i}+{i}+{i}+{i}+1=", "answer": str(4 * i + 1)} for i in range(first, last))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems(tmp_path / "test.jsonl", 1, 5)
    problems(tmp_path / "valid.jsonl", 5, 10)


def scripted(folder, accuracies, *settings):
    """Evaluations of a run whose validation accuracy after each step is given, in fifths; and what was saved when."""
    config, _ = resolve("abacus", [*SMALL, *ASKED, *settings])
    with Run(config, folder) as run:
        held = run.evaluations.sets
    found, saved, shown, synced = Evaluations(config, folder, held), [], [], []

    def save(path):
        saved.append(step)
        path.mkdir(parents=True)

    for step, right in enumerate(accuracies):
        number = {p.id: i for h in held for i, p in enumerate(h.prompts)}
        engine = ScriptedEngine(lambda prompt, _, right=right, number=number: int(number[prompt.id] < right))
        found.run(step, engine, save, lambda problems: None, shown.append)
    found.run_chosen(engine, synced.append, lambda problems: None, shown.append)
    assert shown == found.rows == json.loads((folder / "eval.json").read_text())
    return found, saved, synced


def test_the_best_on_validation_is_kept_and_the_earliest_of_equals(tmp_path):
    found, saved, synced = scripted(tmp_path / "run", [1, 3, 2, 3, 0])
    assert saved == [0, 1]
    assert found.chosen["step"] == 1
    choice = json.loads((tmp_path / "run" / "choice.json").read_text())
    assert choice == found.choice()
    assert choice["step"] == 1 and choice["accuracy"]["value"] == 0.6
    assert choice["rule"] == "highest accuracy on valid.jsonl, the earliest of equals"
    assert synced == [tmp_path / "run" / "best" / "step-000001"] == [found.best(1)]
    found.forget_others()
    assert list((tmp_path / "run" / "best").iterdir()) == synced


def test_test_problems_are_asked_before_after_and_of_the_chosen_policy_only(tmp_path):
    found, _, _ = scripted(tmp_path / "run", [1, 3, 2, 0, 0])
    asked = [(row["step"], row["split"]) for row in found.rows]
    assert [step for step, split in asked if split == "validation"] == [0, 1, 2, 3, 4]
    assert [step for step, split in asked if split == "test"] == [0, 4, 1]
    [columns] = found.tests()
    assert list(columns) == ["step 0 (before)", "step 1 (best)", "step 4 (last)"]


@pytest.mark.parametrize(
    ("accuracies", "named"), [([5, 0, 0, 0, 0], "step 0 (before, best)"), ([0, 0, 0, 0, 5], "step 4 (last, best)")]
)
def test_a_policy_that_was_tested_is_not_tested_again(tmp_path, accuracies, named):
    found, _, synced = scripted(tmp_path / "run", accuracies)
    assert not synced
    assert [row["step"] for row in found.rows if row["split"] == "test"] == [0, 4]
    assert named in next(found.tests())


def test_what_was_chosen_after_the_checkpoint_is_forgotten_with_it(tmp_path):
    """Killed when step 3 was best, and gone on with from a checkpoint of step 2: that of step 1 is still there."""
    found, _, _ = scripted(tmp_path / "run", [1, 2, 0, 3])
    assert found.chosen["step"] == 3
    assert {p.name for p in (tmp_path / "run" / "best").iterdir()} >= {"step-000001", "step-000003"}
    at_the_checkpoint = [row for row in found.rows if row["step"] <= 2]
    resumed = Evaluations(resolve("abacus", [*SMALL, *ASKED])[0], tmp_path / "run", found.sets)
    resumed.resume(at_the_checkpoint)
    assert json.loads((tmp_path / "run" / "eval.json").read_text()) == at_the_checkpoint
    assert json.loads((tmp_path / "run" / "choice.json").read_text())["step"] == 1
    assert [p.name for p in (tmp_path / "run" / "best").iterdir()] == ["step-000001"]


def test_a_test_set_never_chooses(tmp_path):
    """Without validation problems the test problems are asked every so often, and nothing is kept or chosen."""
    found, saved, synced = scripted(tmp_path / "run", [1, 3, 2, 3, 0], "eval.validation=''")
    assert [(row["step"], row["split"]) for row in found.rows] == [(step, "test") for step in range(5)]
    assert not saved and not synced and found.chosen is found.choice() is None
    assert list(next(found.tests())) == ["step 0 (before)", "step 4 (last)"]


def test_problems_that_choose_must_not_be_test_problems(tmp_path):
    problems(tmp_path / "valid.jsonl", 3, 9)
    with pytest.raises(ContraposeError, match=r"eval\.validation: 2 of its 6 problems are test problems"):
        Run(resolve("abacus", [*SMALL, *ASKED])[0], tmp_path / "run")


@pytest.mark.parametrize("data", ["math500", "abacus:test", "hmmt2025", "gym:chain_sum:test"])
def test_a_benchmark_or_a_test_split_must_not_choose(tmp_path, data):
    with pytest.raises(ContraposeError, match=rf"eval\.validation: {data} is for testing"):
        Run(resolve("abacus", [*SMALL, *ASKED, f"eval.validation={data}"])[0], tmp_path / "run")


def test_held_out_problems_are_not_trained_on(tmp_path):
    problems(tmp_path / "train.jsonl", 1, 40)
    with Run(
        resolve("abacus", [*SMALL, *ASKED, "data.path=train.jsonl", "data.max_prompt_tokens=64"])[0], tmp_path / "run"
    ) as run:
        asked = {p.problem for p in run.evaluations.held_out}
        assert len(asked) == 9
        assert len(run.pool) == 39 - 9 and not asked & {p.problem for p in run.pool.prompts()}


def test_a_file_that_is_named_twice_is_trained_on_and_asked_and_that_is_said(tmp_path):
    problems(tmp_path / "train.jsonl", 1, 9)
    settings = ["data.path=train.jsonl", "eval.data=train.jsonl", "eval.validation=''", "data.max_prompt_tokens=64"]
    with Run(resolve("abacus", [*SMALL, *ASKED, *settings])[0], tmp_path / "run") as run:
        [asked] = run.evaluations.sets
        assert asked.split == "train" and len(asked.prompts) == len(run.pool) == 8
        assert any("train.jsonl: is trained on too" in line for line in run.describe())
    with pytest.raises(ContraposeError, match=r"eval\.validation: 8 of its 8 problems are test problems"):
        Run(resolve("abacus", [*SMALL, *ASKED, *settings[:2], "eval.validation=train.jsonl"])[0], tmp_path / "other")


def test_a_run_keeps_its_best_policy_also_across_a_stop(tmp_path):
    """The folder best/ holds the weights of the step that was chosen, stopped in between or not."""

    def folders(name, stop):
        with Run(
            resolve("abacus", [*SMALL, *ASKED, "steps=2", "checkpoint.every=1", "checkpoint.keep=9"])[0],
            tmp_path / name,
        ) as run:
            if stop:
                run.on_eval = lambda row: setattr(run.stop, "requested", row["step"] == 1)
            assert train(run) is not stop
        if stop:
            with Run(run.config, tmp_path / name, resume=True) as run:
                assert train(run)
        return tmp_path / name

    whole, resumed = folders("whole", False), folders("resumed", True)
    step = json.loads((whole / "choice.json").read_text())["step"]
    weights = f"best/step-{step:06d}/model.safetensors"
    for name in ("eval.json", "choice.json", weights):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    best = load_file(whole / weights)
    if step:
        kept = load_file(whole / "checkpoints" / f"step-{step:06d}" / "model" / "model.safetensors")
        assert all(torch.equal(best[key], kept[key]) for key in kept)
