"""Evaluation: what is counted with a scripted engine, and what is written with the model that ships."""

import json
import math
from dataclasses import fields
from statistics import fmean

import pytest
import torch

from contrapose.evaluate.command import evaluate_model
from contrapose.evaluate.evaluate import Evaluation, answers, summary
from contrapose.evaluate.exam import Exam, Request
from contrapose.evaluate.statistics import Estimate, estimate
from contrapose.prompts.abacus import BASE_MODEL, split_of
from contrapose.rollout.sampler import Sampling
from contrapose.types import ContraposeError, Prompt, Rollout
from contrapose.verify.verifier import Verifier
from train_scripted import at_once
from user import load_prompts

PROMPTS = [Prompt(f"p{i}", f"{i}+0=", str(i)) for i in range(3)]
RIGHT, WRONG, CUT, EMPTY, UNREADABLE, ENDLESS = "right", "wrong", "cut", "empty", "unreadable", "endless"
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
            UNREADABLE: (r"\boxed{\frac{1}}", 3, "stop"),
            ENDLESS: (rf"\boxed{{{'9+' * 2000}}}", 8, "stop"),
        }[how]
        return Rollout((7,) * length, (1,) * length, (-1.0,) * length, text, finished)


def evaluate(engine, verifier, prompts, *, samples, sampling, seed=0, each=lambda group: None):
    found = answers(engine, verifier, prompts, samples, sampling, seed, each)
    return summary([answered for _, answered in found], sampling)


def test_right_truncated_and_unanswered_are_counted():
    result = evaluate(Scripted(), Verifier("binary"), PROMPTS, samples=2, sampling=Sampling(0.7, 0.9, 10))
    assert (result.problems, result.samples, result.temperature, result.top_p, result.max_tokens) == (
        3,
        2,
        0.7,
        0.9,
        10,
    )
    assert result.accuracy == estimate([0.5, 0, 1], math.sqrt(0.25) / 3)
    assert result.pass_at == {"1": result.accuracy, "2": estimate([1, 0, 1])}
    assert result.pass_at["2"].value == pytest.approx(2 / 3)
    assert result.majority == estimate([0.5, 0, 1])  # one against one is a tie
    assert result.length_mean == pytest.approx((4 + 6 + 10 + 2 + 4 + 4) / 6)
    assert (result.length_correct, result.length_wrong) == (4, 6)
    assert result.truncated == pytest.approx(1 / 6)
    assert result.no_answer == pytest.approx(2 / 6)  # an empty box is no answer either
    assert (result.unparsed, result.faults) == (0, 0)
    assert result.statuses == {"correct": 3, "no_answer": 2, "wrong": 1}


def test_what_cannot_be_read_or_graded_is_counted():
    script = {"p0": [UNREADABLE, ENDLESS, RIGHT, WRONG]}
    result = evaluate(Scripted(script), Verifier("binary"), PROMPTS[:1], samples=4, sampling=Sampling())
    assert (result.unparsed, result.faults) == (0.25, 0.25)
    assert result.statuses == {"correct": 1, "too_long": 1, "unparsed": 1, "wrong": 1}


@pytest.mark.parametrize(("samples", "ks"), [(1, ["1"]), (2, ["1", "2"]), (6, ["1", "2", "4", "6"])])
def test_pass_at_k_doubles_up_to_the_number_of_samples(samples, ks):
    script = {p.id: [RIGHT] * samples for p in PROMPTS}
    result = evaluate(Scripted(script), Verifier(), PROMPTS, samples=samples, sampling=Sampling())
    assert list(result.pass_at) == ks
    assert (result.accuracy.se is None) == (samples == 1)
    assert result.length_wrong is None


def test_the_result_does_not_depend_on_who_finishes_first():
    class Other(Scripted):
        def generate(self, prompts, *rest):
            return super().generate(prompts[::-1], *rest)

    options = {"samples": 2, "sampling": Sampling()}
    assert evaluate(Other(), Verifier(), PROMPTS, **options) == evaluate(Scripted(), Verifier(), PROMPTS, **options)


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
    assert plain.keys() == {field.name for field in fields(Evaluation)}
    assert Estimate(**plain["accuracy"]) == result.accuracy
    assert Estimate(**plain["majority"]) == result.majority
    assert {k: Estimate(**e) for k, e in plain["pass_at"].items()} == result.pass_at


# --- with the model that ships ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of a small model only wait for each other where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def exam(data="abacus", samples=2, **rest):
    return Exam(data, samples, "plain", **rest)


def run(*exams, model="abacus", out=None, resume=False, log=lambda line: None, each=lambda n: None, **changed):
    request = Request(model, exams or (exam(),), **{"temperature": 1.0, "max_tokens": 64, "limit": 10, **changed})
    return evaluate_model(request, out=out, resume=resume, log=log, each=each)


def test_an_evaluation_is_written_as_it_was_made(tmp_path):
    seen = []
    out = tmp_path / "deep" / "eval"
    [row] = run(limit=20, out=out, each=seen.append)
    assert seen == [20] * 20
    assert (row["model"], row["data"], row["template"], row["seed"]) == ("abacus", "abacus", "plain", 0)
    assert (row["problems"], row["samples"], row["left_out"]) == (20, 2, 0)
    assert json.loads((out / "eval.json").read_text()) == [row]
    rows = [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]
    assert [r["prompt"] for r in rows] == [p.id for p in load_prompts("abacus:test", limit=20)]
    assert {split_of(r["problem"]) for r in rows} == {"test"}
    assert {r["data"] for r in rows} == {"abacus"}
    assert sum(r["correct"] for r in rows) / 40 == row["accuracy"]["value"]
    assert fmean(r["majority"] for r in rows) == row["majority"]["value"]
    samples = [s for r in rows for s in r["samples"]]
    assert len(samples) == 40
    assert sum(s["tokens"] for s in samples) / 40 == row["length_mean"]
    assert sum(s["finished"] == "length" for s in samples) / 40 == row["truncated"]
    assert sum(s["status"] == "no_answer" for s in samples) / 40 == row["no_answer"]
    for r in rows:
        assert sum(s["status"] == "correct" for s in r["samples"]) == r["correct"]
        assert all((s["boxed"] == r["answer"]) == (s["status"] == "correct") for s in r["samples"])


def test_several_data_sets_have_a_row_each_and_a_mean(tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"q": "1+2=", "a": "3"}\n{"q": "9-4=", "a": 5}')
    told = []
    sums = exam(str(tmp_path / "sums.jsonl"), 3, keys=("q", "a"))
    request = Request("abacus", (exam(), sums), temperature=1.0, max_tokens=64, limit=10)
    one, other, mean = evaluate_model(request, out=tmp_path / "out", finished=told.append)
    assert told == [one, other]
    assert [one["problems"], other["problems"], mean["problems"]] == [10, 2, 12]
    assert (mean["data"], mean["of"]) == ("mean", [one["data"], other["data"]])
    assert mean["accuracy"]["value"] == pytest.approx((one["accuracy"]["value"] + other["accuracy"]["value"]) / 2)
    assert mean["accuracy"]["se"] == pytest.approx(math.hypot(one["accuracy"]["se"], other["accuracy"]["se"]) / 2)
    assert json.loads((tmp_path / "out" / "eval.json").read_text()) == [one, other, mean]
    assert len((tmp_path / "out" / "rollouts.jsonl").read_text().splitlines()) == 12


def test_the_same_seed_gives_the_same_evaluation():
    first, second, other = run(), run(), run(seed=1)
    assert first == second
    assert {**other[0], "seed": 0} != first[0]


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(limit=2)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_stands_for_its_final_model(tmp_path):
    (tmp_path / "model").symlink_to(BASE_MODEL)
    assert run(model=str(tmp_path), limit=5) == [{**run(limit=5)[0], "model": str(tmp_path)}]


def test_greedy_answers_to_a_problem_are_all_the_same(tmp_path):
    [row] = run(exam(samples=3), temperature=0.0, limit=4)
    assert row["accuracy"]["value"] * 4 == pytest.approx(round(row["accuracy"]["value"] * 4))
    assert row["accuracy"]["se"] == 0


def test_responses_are_limited_to_what_the_context_leaves():
    lines = []
    [row] = run(limit=3, max_tokens=4096, log=lines.append)
    assert row["problems"] == 3
    assert len(lines) == 1
    assert lines[0].startswith(f"abacus: responses are limited to {row['max_tokens']} tokens")
    [row] = run(limit=3, max_tokens=5, log=lines.append)
    assert row["length_mean"] <= row["max_tokens"] == 5
    assert len(lines) == 1


def test_a_prompt_beyond_the_context_is_refused(tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"problem": "1" + "+1" * 70 + "=", "answer": "71"}))
    with pytest.raises(ContraposeError, match=r"longest prompt of .*long\.jsonl does not fit"):
        run(exam(str(tmp_path / "long.jsonl")))


def test_a_data_set_named_twice_is_refused():
    with pytest.raises(ContraposeError, match="--data: abacus is named twice"):
        run(exam(), exam())


def test_problems_that_two_data_sets_share_are_told():
    lines = []
    run(exam(), exam("abacus:test"), exam("abacus:validation"), limit=4, log=lines.append)
    assert [line for line in lines if "in common" in line] == [
        "abacus and abacus:test have 4 problems in common, which count twice in the mean"
    ]


def test_an_absent_model_is_one_line():
    with pytest.raises(ContraposeError, match=r"model\.path") as error:
        run(model="./no/such/folder", limit=2)
    assert "\n" not in str(error.value)
