"""What is evaluated when, that a policy is chosen on validation problems alone, and that no kill changes a byte."""

import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrapose.config import resolve
from contrapose.evaluate import exam
from contrapose.evaluate.command import evaluate_model
from contrapose.evaluate.compare import compare
from contrapose.evaluate.exam import Exam, Request
from contrapose.prompts.abacus import BASE_MODEL
from contrapose.report.log import WriteFailed
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import seed_of
from contrapose.train.evaluations import Evaluations, chosen, folder_names
from contrapose.train.folders import damage
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.types import ContraposeError
from models import tiny, tokenizer
from train_scripted import ScriptedEngine
from user import few_sums

SMALL = ["steps=4", "batch.prompts=4", "batch.updates=2", "rollout.k=4", "optim.lr=1e-3", "diagnose.every=0"]
ASKED = ["eval.every=1", "eval.samples=1", "eval.data=test.jsonl", "eval.validation=valid.jsonl"]


def problems(path, first, last):
    """Sums that abacus cannot ask, as a file."""
    rows = ({"problem": f"{i}+{i}+{i}+{i}+1=", "answer": str(4 * i + 1)} for i in range(first, last))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_files(folder):
    problems(folder / "test.jsonl", 1, 5)
    problems(folder / "valid.jsonl", 5, 10)
    problems(folder / "train.jsonl", 10, 30)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    with few_sums():
        yield


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Fuse:
    """Lasts for ``n`` calls; the next one kills."""

    def __init__(self, n):
        self.left = n

    def __call__(self, *_):
        if not self.left:
            raise Killed
        self.left -= 1


@cache
def made_once():
    return tiny("qwen2")


@cache
def configured(*settings):
    return resolve("abacus", [*SMALL, *ASKED, *settings])[0]


class Policy(ScriptedEngine):
    """Its weights say which step it is from, and ``right[step]`` how many of each set's problems it then answers right;
    two of them side by side. ``asked`` counts what it was asked."""

    def __init__(self, sets, right, fuse=lambda: None):
        number = {p.id: i for held in sets for i, p in enumerate(held.prompts)}
        super().__init__(lambda prompt, _: int(number[prompt.id] < right[self.step]))
        self.model, self.tokenizer, self.eos, self.fuse = made_once(), tokenizer(), (1,), fuse
        self.weight = self.model.lm_head.weight.data
        self.weight.zero_()

    @property
    def step(self):
        return int(self.weight[0, 0])

    @property
    def asked(self):
        return [prompt for together in self.rounds for prompt in together]

    def trained_to(self, step):
        self.weight[0, 0] = step

    def side_by_side(self, *_):
        return 2

    def generate(self, *args):
        for step in super().generate(*args):
            self.fuse()
            yield step

    def save(self, folder):
        folder.mkdir(exist_ok=True)
        save_file({"weight": self.weight}, folder / "model.safetensors")
        self.fuse()

    def load(self, folder):
        self.weight.copy_(load_file(folder / "model.safetensors")["weight"])


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """The sets of a run, which are made once."""
    folder = tmp_path_factory.mktemp("held")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files(folder)
        with Run(configured(), folder / "run") as run:
            return run.evaluations.sets


def scripted(folder, held, accuracies, *settings):
    """Evaluations of a run whose validation accuracy after each step is given, in fifths; and what was saved when."""
    config = configured(*settings)
    folder.mkdir(exist_ok=True)
    found, saved, shown, synced = Evaluations(config, folder, held), [], [], []
    engine = Policy(held, accuracies)

    def save(path):
        saved.append(engine.step)
        engine.save(path)

    def sync(path):
        synced.append(path)
        engine.load(path)

    for step in range(len(accuracies)):
        engine.trained_to(step)
        found.run(step, engine, save, lambda problems, more: None, shown.append)
    if len(accuracies) > config.steps:
        found.run_chosen(engine, sync, lambda problems, more: None, shown.append)
    assert sorted(shown, key=lambda row: (row["step"], row["split"])) == found.rows
    assert found.rows == json.loads((folder / "eval.json").read_text())
    return found, saved, synced


def test_the_best_on_validation_is_kept_and_the_earliest_of_equals(tmp_path, held):
    found, saved, synced = scripted(tmp_path / "run", held, [1, 3, 2, 3, 0])
    assert saved == [0, 1]
    assert found.chosen["step"] == 1
    choice = json.loads((tmp_path / "run" / "choice.json").read_text())
    assert choice == found.choice()
    assert choice["step"] == 1 and choice["accuracy"]["value"] == 0.6
    assert choice["rule"] == "highest accuracy on valid.jsonl, the earliest of equals"
    assert synced == [tmp_path / "run" / "best" / "step-000001"] == [found.best(1)]
    assert damage(found.best(1)) is None
    found.forget([4])
    assert list((tmp_path / "run" / "best").iterdir()) == synced


def test_test_problems_are_asked_before_after_and_of_the_chosen_policy_only(tmp_path, held):
    found, _, _ = scripted(tmp_path / "run", held, [1, 3, 2, 0, 0])
    asked = [(row["step"], row["split"]) for row in found.rows]
    assert [step for step, split in asked if split == "validation"] == [0, 1, 2, 3, 4]
    assert [step for step, split in asked if split == "test"] == [0, 1, 4]
    [columns] = found.tests()
    assert list(columns) == ["step 0 (before)", "step 1 (best)", "step 4 (last)"]


@pytest.mark.parametrize(
    ("accuracies", "named"), [([5, 0, 0, 0, 0], "step 0 (before, best)"), ([0, 0, 0, 0, 5], "step 4 (last, best)")]
)
def test_a_policy_that_was_tested_is_not_tested_again(tmp_path, held, accuracies, named):
    found, _, synced = scripted(tmp_path / "run", held, accuracies)
    assert not synced
    assert [row["step"] for row in found.rows if row["split"] == "test"] == [0, 4]
    assert named in next(found.tests())


def resumed(folder, held, step):
    again = Evaluations(configured(), folder, held)
    again.resume(step)
    return again


def test_what_was_chosen_after_the_checkpoint_is_forgotten_with_it(tmp_path, held):
    """Killed when step 3 was best, and gone on with from a checkpoint of step 2: that of step 1 is still there."""
    found, _, _ = scripted(tmp_path / "run", held, [1, 2, 0, 3])
    assert found.chosen["step"] == 3
    assert {p.name for p in (tmp_path / "run" / "best").iterdir()} >= {"step-000001", "step-000003"}
    at_the_checkpoint = [row for row in found.rows if row["step"] <= 2]
    assert chosen(at_the_checkpoint)["step"] == 1
    again = resumed(tmp_path / "run", held, 2)
    assert json.loads((tmp_path / "run" / "eval.json").read_text()) == at_the_checkpoint
    assert json.loads((tmp_path / "run" / "choice.json").read_text())["step"] == 1
    again.forget([2])
    assert [p.name for p in (tmp_path / "run" / "best").iterdir()] == ["step-000001"]


def test_policies_that_a_checkpoint_chose_are_kept(tmp_path, held):
    found, _, _ = scripted(tmp_path / "run", held, [1, 2, 3, 4])
    found.forget({1, 3, 7})
    assert {p.name for p in (tmp_path / "run" / "best").iterdir()} == {"step-000001", "step-000003"}


def test_a_run_that_evaluates_nothing_leaves_nothing(tmp_path):
    """Stopped and gone on with, too."""
    found = resumed(tmp_path, [], 0)
    found.run(0, None, None, None, None)
    found.run_chosen(None, None, None, None)
    assert not (tmp_path / "eval.json").exists()


def flip(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (lambda best: flip(best / "model.safetensors"), "model.safetensors is not as it was written"),
        (lambda best: best.rename(best.with_name("elsewhere")), "it is missing"),
    ],
)
def test_a_chosen_policy_that_is_damaged_is_told_at_once(tmp_path, held, damaged, said):
    """When the run is taken up, and at its end; what was evaluated stays as it was."""
    found, _, _ = scripted(tmp_path / "run", held, [1, 2, 0, 0])
    damaged(found.best(1))
    before = (tmp_path / "run" / "eval.json").read_bytes()
    with pytest.raises(WriteFailed) as error:
        resumed(tmp_path / "run", held, 2)
    said = f"--resume: the chosen policy {found.best(1)} is not as it was saved: {said}: "
    assert str(error.value) == said + "put it back from a copy, or start anew in another --out"
    assert (tmp_path / "run" / "eval.json").read_bytes() == before
    with pytest.raises(WriteFailed, match=re.escape(said)):
        found.run_chosen(Policy(held, [0]), None, None, None)


def test_a_finished_run_is_not_asked_again_and_goes_back_to_any_checkpoint(tmp_path, held):
    """The policy that each kept checkpoint had chosen is still there, though a later one is better."""
    found, _, _ = scripted(tmp_path / "run", held, [1, 2, 0, 3, 4])
    found.forget([2, 4])
    assert {p.name for p in (tmp_path / "run" / "best").iterdir()} == {"step-000001", "step-000004"}
    before = tree(tmp_path / "run")
    again, engine = resumed(tmp_path / "run", held, 4), Policy(held, [None] * 5)
    engine.trained_to(4)
    again.run(4, engine, engine.save, lambda problems, more: None, lambda row: None)
    again.run_chosen(engine, None, None, None)
    assert not engine.asked
    assert tree(tmp_path / "run") == before
    assert resumed(tmp_path / "run", held, 2).chosen["step"] == 1


def test_rows_that_cannot_be_read_are_told(tmp_path, held):
    scripted(tmp_path / "run", held, [1, 2])
    (tmp_path / "run" / "eval.json").write_text("[{")
    with pytest.raises(WriteFailed, match=r"eval\.json: cannot be read: .*: remove it, and everything is asked anew"):
        resumed(tmp_path / "run", held, 1)


def test_a_test_set_never_chooses(tmp_path, held):
    """Without validation problems the test problems are asked every so often, and nothing is kept or chosen."""
    found, saved, synced = scripted(tmp_path / "run", held[:1], [1, 3, 2, 3, 0], "eval.validation=''")
    assert [(row["step"], row["split"]) for row in found.rows] == [(step, "test") for step in range(5)]
    assert not saved and not synced and found.chosen is found.choice() is None
    assert list(next(found.tests())) == ["step 0 (before)", "step 4 (last)"]


def test_problems_that_choose_must_not_be_test_problems(tmp_path):
    problems(tmp_path / "valid.jsonl", 3, 9)
    with pytest.raises(ContraposeError, match=r"eval\.validation: 2 of its 6 problems are test problems"):
        Run(configured(), tmp_path / "run")


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


# --- killed in the middle ---------------------------------------------------------------------------------------------

RIGHT = [1, 3, 2]  # of three problems, by step: step 1 is chosen, and tested at the end
LAST = 2
ASKED_IN_ALL = 3 * 3 + 3 * 3
EVENTS = ASKED_IN_ALL + 2 + 6  # answers, policies saved, rows
IN_THE_MIDDLE = 3 + 1 + 3 + 2 + 2  # step 1 was asked two of its three problems


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def few(held):
    return [replace(one, prompts=one.prompts[:3]) for one in held]


def went(folder, few, fuse=lambda *_: None, saved=None, every=1, also=lambda weight: None):
    """Train and evaluate, from a checkpoint after step ``saved`` on where there is one. Returns the step of the last
    one, and the engine. ``also`` changes the policy after each step."""
    folder.mkdir(exist_ok=True)
    found, engine = Evaluations(configured(f"steps={LAST}"), folder, few), Policy(few, RIGHT, fuse)
    if saved is not None:
        found.resume(saved)
    saved = saved or 0
    with suppress(Killed):
        for step in range(saved, LAST + 1):
            engine.trained_to(step)
            also(engine.weight)
            if step and step % every == 0:
                saved = step
                found.forget([step])
            found.run(step, engine, engine.save, lambda problems, more: None, fuse)
        found.run_chosen(engine, engine.load, lambda problems, more: None, fuse)
        found.forget([LAST])
    return saved, engine


@pytest.fixture
def whole(tmp_path, few, monkeypatch):
    """What a run leaves that nobody killed. Git is not asked again and again, and the disk not waited for."""
    monkeypatch.setattr(exam, "revision", lambda: "one")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    fuse = Fuse(EVENTS)
    _, engine = went(tmp_path / "whole", few, fuse)
    assert fuse.left == 0
    assert len(engine.asked) == ASKED_IN_ALL
    return tree(tmp_path / "whole")


@pytest.mark.parametrize("every", [1, LAST])
def test_killed_anywhere_it_ends_the_same_and_asks_no_more_than_a_part_again(tmp_path, few, whole, every):
    """At every answer, while a policy is saved, and after every row; with a checkpoint at each step or the last one."""
    for n in range(EVENTS):
        saved, before = went(tmp_path / str(n), few, Fuse(n), every=every)
        _, after = went(tmp_path / str(n), few, saved=saved, every=every)
        assert tree(tmp_path / str(n)) == whole, n
        assert len(before.asked + after.asked) <= ASKED_IN_ALL + 2


@pytest.mark.parametrize(
    ("file", "garble"),
    [
        ("step-000001/valid.jsonl/rollouts.jsonl", lambda content: b"\0" * 9 + content[9:]),
        ("step-000001/valid.jsonl/rollouts.jsonl", lambda content: content[:-9]),
        ("step-000001/valid.jsonl/settings.json", lambda content: content[:-9]),
        ("step-000001/valid.jsonl/rollouts.jsonl", lambda content: content.replace(b'"status": "c', b'"status": "k')),
    ],
)
def test_what_was_damaged_meanwhile_is_asked_again(tmp_path, few, whole, file, garble):
    saved, _ = went(tmp_path / "run", few, Fuse(IN_THE_MIDDLE), every=LAST)
    damaged = tmp_path / "run" / "evaluations" / file
    damaged.write_bytes(garble(damaged.read_bytes()))
    went(tmp_path / "run", few, saved=saved, every=LAST)
    assert tree(tmp_path / "run") == whole


def test_answers_of_another_policy_are_not_taken_over(tmp_path, few, whole):
    """A weight came out differently the second time, as on another machine: what the first answered never happened."""

    def flipped(weight):
        if weight[0, 0] >= 1:
            weight[1, 1] = 7

    saved, _ = went(tmp_path / "run", few, Fuse(IN_THE_MIDDLE))
    _, engine = went(tmp_path / "run", few, saved=saved, also=flipped)
    assert engine.asked[:3] == [p.id for p in few[1].prompts]
    went(tmp_path / "other", few, also=flipped)
    assert tree(tmp_path / "run") == tree(tmp_path / "other") != whole


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A whole run with the model that ships; two problems are asked side by side. And how to make another."""
    folder = tmp_path_factory.mktemp("real")
    write_files(folder)
    short = ["data.path=train.jsonl", "filter.mode=none", "rollout.max_tokens=32", "steps=2"]
    settings = [*SMALL, *ASKED, *short, "checkpoint.every=1", "checkpoint.keep=9"]

    def run(name, prepare=lambda run: None, **resume):
        with Run(resolve("abacus", settings)[0], folder / name, **resume) as run:
            prepare(run)
            train(run)
        return folder / name

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(EmbeddedEngine, "side_by_side", lambda *_: 2)
        patch.setattr(os, "fsync", lambda descriptor: None)
        run("whole")
        yield folder, run


def kept(run):
    """What a run has of its evaluations."""
    return {name: held for name, held in tree(run).items() if name.split("/")[0] in BY_EVALUATIONS}


BY_EVALUATIONS = ("eval.json", "choice.json", "evaluations", "best")


def killed(run):
    run.on_group = Fuse(9 + 2)


def stopped(run):
    left = iter([False] * (9 + 1))
    run.on_group = lambda problems: setattr(run.stop, "requested", next(left, True))


@pytest.mark.parametrize("how", [killed, stopped])
def test_a_run_that_is_interrupted_in_an_evaluation_goes_on_there(real, how):
    """After step 1 it had asked three of five problems, two of them side by side with another."""
    folder, run = real
    with suppress(Killed):
        run(how.__name__, how)
    [rows] = (folder / how.__name__).glob("evaluations/step-000001/*/rollouts.jsonl")
    assert rows.read_bytes().count(b"\n") == 2
    asked = []
    run(how.__name__, lambda run: setattr(run, "on_group", asked.append), resume=True)
    assert len(asked) >= 5 + 9
    assert kept(folder / how.__name__) == kept(folder / "whole")


def test_the_best_policy_is_that_of_its_step(real):
    folder, _ = real
    step = json.loads((folder / "whole" / "choice.json").read_text())["step"]
    best = folder / "whole" / "best" / f"step-{step:06d}"
    assert best in best.parent.iterdir()
    assert damage(best) is None
    checkpoint = folder / "whole" / "checkpoints" / best.name / "model" if step else BASE_MODEL
    one, other = (load_file(path / "model.safetensors") for path in (best, checkpoint))
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_runs_evaluations_are_folders_like_any_other(real, tmp_path):
    """They are compared; and they are what ``contrapose eval`` makes of a checkpoint with the same settings."""
    run = real[0] / "whole"
    before, after = (run / "evaluations" / f"step-00000{step}" / "valid.jsonl" for step in (0, 2))
    found = compare(before, after)
    assert [(one.data, one.problems) for one in found.sets] == [("valid.jsonl", 5)]
    assert found.settings == ()
    rows = {row["step"]: row for row in json.loads((run / "eval.json").read_text()) if row["split"] == "validation"}
    assert (found.sets[0].first, found.sets[0].second) == tuple(rows[step]["accuracy"]["value"] for step in (0, 2))

    exams = (Exam("valid.jsonl", 1, "plain"),)
    seed = seed_of(0, "evaluation")
    model = str(run / "checkpoints" / "step-000002" / "model")
    evaluate_model(Request(model, exams, temperature=1.0, max_tokens=32, seed=seed), out=tmp_path / "by hand")
    assert (tmp_path / "by hand" / "rollouts.jsonl").read_bytes() == (after / "rollouts.jsonl").read_bytes()
    told, again = (json.loads((path / "settings.json").read_text()) for path in (after, tmp_path / "by hand"))
    assert told.pop("model") == "abacus at step 2"
    assert again.pop("model") == model
    assert told == again


# --- where it is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("abacus", "abacus"),
        ("abacus:validation", "abacus-validation"),
        ("hub:a/b:test", "hub-a-b-test"),
        ("../../x", "x"),
        ("/etc/passwd", "etc-passwd"),
        ("..", "data"),
        ("", "data"),
        (".hidden.jsonl", "hidden.jsonl"),
        ("a b\n\0\x1b[2J.jsonl", "a-b-2J.jsonl"),
        ("\N{SNOWMAN}", "data"),
        ("C:\\x\\y.csv", "C-x-y.csv"),
        ("y/" * 150 + "x.jsonl", "y-" * 28 + "x.jsonl"),
        ("x" * 300, "x" * 64),
    ],
)
def test_a_data_set_has_a_folder_whatever_it_is_called(spec, name):
    assert folder_names([spec]) == {spec: name}


def test_no_two_data_sets_share_a_folder():
    specs = ["a:b", "a/b", "A b", "a-b-2", "a:b", "x" * 300, "y" + "x" * 300]
    names = folder_names(specs)
    assert list(names) == list(dict.fromkeys(specs))
    assert len({name.lower() for name in names.values()}) == len(names)
    assert names["a:b"] == "a-b" and names["a/b"] == "a-b-2"
