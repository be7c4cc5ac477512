"""Evaluation: what is counted with a scripted engine, and what is written with the model that ships."""

import json

import pytest
import torch

from contrapose.evaluate.command import evaluate_model
from contrapose.evaluate.evaluate import evaluate
from contrapose.evaluate.statistics import average_at_k
from contrapose.prompts.abacus import BASE_MODEL, split_of
from contrapose.rollout.sampler import Sampling
from contrapose.types import ContraposeError, Prompt, Rollout
from contrapose.verify.verifier import Verifier
from train_scripted import at_once

PROMPTS = [Prompt(f"p{i}", f"{i}+0=", str(i)) for i in range(3)]
RIGHT, WRONG, CUT, EMPTY = "right", "wrong", "cut", "empty"
SCRIPT = {"p0": [RIGHT, WRONG], "p1": [CUT, EMPTY], "p2": [RIGHT, RIGHT]}


class Scripted:
    """Answers as ``SCRIPT`` says, the last prompt first, and remembers what it was asked."""

    def __init__(self, script=None):
        self.script = script or SCRIPT
        self.asked = []

    def sync(self, model):
        raise AssertionError("an evaluation does not change the policy")

    def generate(self, prompts, k, seed, sampling, cancelled=()):
        self.asked.append(([p.id for p in prompts], k, seed, sampling))
        for prompt in reversed(prompts):
            assert len(self.script[prompt.id]) == k
            yield at_once(prompt, [self._answer(prompt, how) for how in self.script[prompt.id]])

    def _answer(self, prompt, how):
        text, length, finished = {
            RIGHT: (rf"\boxed{{{prompt.answer}}}", 4, "stop"),
            WRONG: (r"\boxed{-1}", 6, "stop"),
            CUT: (rf"it is \boxed{{{prompt.answer}", 10, "length"),
            EMPTY: (r"\boxed{}", 2, "stop"),
        }[how]
        return Rollout((7,) * length, (1,) * length, (-1.0,) * length, text, finished)


def test_right_truncated_and_unanswered_are_counted():
    result = evaluate(Scripted(), Verifier("binary"), PROMPTS, samples=2, sampling=Sampling(0.7, 0.9, 10))
    assert (result.problems, result.samples, result.temperature, result.top_p) == (3, 2, 0.7, 0.9)
    assert result.accuracy == average_at_k([1, 0, 2], 2)
    assert result.accuracy.value == 0.5
    assert result.pass_at_samples == pytest.approx(2 / 3)
    assert result.length_mean == pytest.approx((4 + 6 + 10 + 2 + 4 + 4) / 6)
    assert result.truncated == pytest.approx(1 / 6)
    assert result.no_answer == pytest.approx(2 / 6)  # an empty box is no answer either


def test_accuracy_is_the_truth_whatever_the_reward():
    results = [
        evaluate(Scripted(), Verifier(scheme), PROMPTS, samples=2, sampling=Sampling())
        for scheme in ("binary", "format", "sign")
    ]
    assert results[0] == results[1] == results[2]


def test_a_cut_off_right_answer_counts_as_the_verifier_says():
    class Cut(Scripted):
        def _answer(self, prompt, how):
            return Rollout((7,), (1,), (-1.0,), rf"\boxed{{{prompt.answer}}}", "length")

    options = {"samples": 2, "sampling": Sampling()}
    assert evaluate(Cut(), Verifier("binary"), PROMPTS, **options).accuracy.value == 1
    strict = evaluate(Cut(), Verifier("binary", truncated_is_wrong=True), PROMPTS, **options)
    assert (strict.accuracy.value, strict.truncated) == (0, 1)


def test_the_engine_is_asked_once_for_everything():
    engine = Scripted()
    evaluate(engine, Verifier(), PROMPTS, samples=2, sampling=Sampling(0.5, 1.0, 9), seed=11)
    assert engine.asked == [(["p0", "p1", "p2"], 2, 11, Sampling(0.5, 1.0, 9))]


def test_each_sees_every_group_as_it_finishes():
    seen = []
    evaluate(Scripted(), Verifier(), PROMPTS, samples=2, sampling=Sampling(), each=seen.append)
    assert [g.prompt.id for g in seen] == ["p2", "p1", "p0"]
    assert [[v.status for v in g.verdicts] for g in seen] == [
        ["correct", "correct"],
        ["no_answer", "no_answer"],
        ["correct", "wrong"],
    ]


def test_the_result_as_plain_values():
    result = evaluate(Scripted(), Verifier(), PROMPTS, samples=2, sampling=Sampling(1.0, 1.0, 9))
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain.keys() == {
        *("problems", "samples", "temperature", "top_p", "accuracy", "pass_at_samples"),
        *("length_mean", "truncated", "no_answer", "faults"),
    }
    assert plain["accuracy"] == {
        "value": 0.5,
        "low": pytest.approx(result.accuracy.low),
        "high": pytest.approx(result.accuracy.high),
    }


# --- with the model that ships ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of a small model only wait for each other where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(model="abacus", data="abacus", **changed):
    options = {
        "template": "plain",
        "keys": ("problem", "answer"),
        "samples": 2,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 64,
        **changed,
    }
    return evaluate_model(model, data, **options)


def test_an_evaluation_is_written_as_it_was_made(tmp_path):
    seen = []
    row = run(limit=20, out=tmp_path / "deep" / "eval", each=seen.append)
    assert seen == [20] * 20
    assert (row["model"], row["data"], row["template"], row["seed"]) == ("abacus", "abacus", "plain", 0)
    assert (row["problems"], row["samples"]) == (20, 2)
    assert json.loads((tmp_path / "deep" / "eval" / "eval.json").read_text()) == [row]
    lines = (tmp_path / "deep" / "eval" / "rollouts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({r["prompt"] for r in rows}) == len(rows) == 20
    assert {split_of(r["problem"]) for r in rows} == {"test"}
    assert sum(r["correct"] for r in rows) / 40 == row["accuracy"]["value"]
    samples = [s for r in rows for s in r["samples"]]
    assert len(samples) == 40
    assert sum(s["tokens"] for s in samples) / 40 == row["length_mean"]
    assert sum(s["finished"] == "length" for s in samples) / 40 == row["truncated"]
    assert sum(s["status"] == "no_answer" for s in samples) / 40 == row["no_answer"]
    for r in rows:
        assert sum(s["status"] == "correct" for s in r["samples"]) == r["correct"]
        assert all((s["boxed"] == r["answer"]) == (s["status"] == "correct") for s in r["samples"])


def test_an_evaluation_is_never_overwritten(tmp_path):
    (tmp_path / "eval.json").write_text("mine")
    with pytest.raises(ContraposeError, match="already holds an evaluation") as error:
        run(limit=2, out=tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "eval.json").read_text() == "mine"
    assert not (tmp_path / "rollouts.jsonl").exists()


def test_what_an_interrupted_evaluation_left_is_not_mixed_in(tmp_path):
    (tmp_path / "rollouts.jsonl").write_text('{"prompt": "of an evaluation that never ended"}\n')
    run(limit=3, out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert len(rows) == 3


def test_the_same_seed_gives_the_same_evaluation():
    first, second, other = run(limit=10), run(limit=10), run(limit=10, seed=1)
    assert first == second
    assert {**other, "seed": 0} != first


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(limit=2)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_stands_for_its_final_model(tmp_path):
    (tmp_path / "model").symlink_to(BASE_MODEL)
    assert run(str(tmp_path), limit=5) == {**run(limit=5), "model": str(tmp_path)}


def test_a_file_and_greedy_answers(tmp_path):
    rows = [{"q": "1+2=", "a": "3"}, {"q": "9-4=", "a": 5}]
    (tmp_path / "sums.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    row = run(data=str(tmp_path / "sums.jsonl"), keys=("q", "a"), temperature=0.0, samples=3)
    assert (row["problems"], row["samples"]) == (2, 3)
    assert row["accuracy"]["value"] * 2 in (0, 1, 2)  # greedy answers to one problem are all the same


def test_responses_are_limited_to_what_the_context_leaves():
    lines = []
    row = run(limit=3, max_tokens=4096, log=lines.append)
    assert row["problems"] == 3
    assert len(lines) == 1
    assert lines[0].startswith("responses are limited to 1")
    assert run(limit=3, max_tokens=5, log=lines.append)["length_mean"] <= 5
    assert len(lines) == 1


def test_a_prompt_beyond_the_context_is_refused(tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"problem": "1" + "+1" * 70 + "=", "answer": "71"}))
    with pytest.raises(ContraposeError, match=r"longest prompt of .*long\.jsonl does not fit"):
        run(data=str(tmp_path / "long.jsonl"))


def test_an_absent_model_is_one_line():
    with pytest.raises(ContraposeError, match=r"model\.path") as error:
        run("./no/such/folder", limit=2)
    assert "\n" not in str(error.value)
