"""Several processes do what one does: the same gradients, updates, runs and checkpoints. One that fails ends all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

WORKER = Path(__file__).parents[1] / "ranks_worker.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def launched(processes, *arguments, fails=False):
    """What ``arguments`` say, run by so many processes; what they printed."""
    told = [str(word) for word in arguments]
    command = [sys.executable, *told] if processes == 1 else [*TORCHRUN, str(processes), *told]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def made(folder, processes, what, *arguments):
    """The tensors that the worker wrote."""
    out = folder / f"{what}-{'-'.join([str(processes), *(str(a) for a in arguments if '/' not in str(a))])}.safetensors"
    launched(processes, WORKER, what, out, *arguments)
    return load_file(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder):
    return part(made(folder, 1, "gradients", "whole"), "whole")


def part(tensors, when):
    return {key.partition("/")[2]: x for key, x in tensors.items() if key.startswith(f"{when}/")}


def apart(found, expected, keys):
    """How far ``found`` is from ``expected``, all of ``keys`` together, relative to those."""
    keys = list(keys)
    assert keys
    one, other = (torch.cat([x[key].flatten().double() for key in keys]) for x in (found, expected))
    assert other.norm() > 0
    return float((one - other).norm() / other.norm())


OBJECTIVES = ["rence", "conspo", "dapo", "disco", "grpo", "gspo"]


@pytest.fixture(scope="module")
def both(folder):
    return made(folder, 2, "gradients", "whole", "split")


WAYS = pytest.mark.parametrize("how", ["whole", "split"])


@WAYS
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_take_the_gradient_of_one(alone, both, how, name):
    """Groups lie across ranks, which have unlike numbers of tokens. A gradient scaled by the number of ranks would show
    here; Adam and clipping hide it from the weights."""
    found = part(both, how)
    keys = [key for key in alone if key.startswith(f"float64/{name}/0/gradient/")]
    assert apart(found, alone, keys) < 1e-10
    for step in range(5):
        for what in ("credit", "J"):
            assert apart(found, alone, [f"float64/{name}/{step}/{what}"]) < 1e-8


@WAYS
@pytest.mark.parametrize("name", OBJECTIVES)
def test_five_updates_of_two_processes_are_those_of_one(alone, both, how, name):
    found = part(both, how)
    for step in range(5):
        assert apart(found, alone, [f"float32/{name}/{step}/norm"]) < 1e-5
    assert apart(found, alone, [key for key in alone if key.startswith(f"float32/{name}/moved/")]) < 1e-4


@WAYS
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_rank_knows_what_the_gradient_pass_met(alone, both, how, name):
    """The canary looks at all rows; where nobody went there is no number."""
    found, expected = (x[f"float64/{name}/0/own"] for x in (part(both, how), alone))
    assert torch.equal(found.isnan(), expected.isnan())
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_four_processes_take_the_gradient_of_one(alone, folder):
    """Hybrid: two copies of the weights, each split over two ranks. Some ranks are without any row."""
    four = made(folder, 4, "gradients", "whole", "split", "recomputed", "hybrid")
    for how in ("whole", "split", "recomputed", "hybrid"):
        for name in OBJECTIVES:
            found = part(four, how)
            keys = [key for key in alone if key.startswith(f"float64/{name}/0/gradient/")]
            assert apart(found, alone, keys) < 1e-10
            assert apart(found, alone, [key for key in alone if key.startswith(f"float32/{name}/moved/")]) < 1e-4


def rows(run, name="metrics"):
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def changing(folder):
    """How a run stood after two steps of two processes, one of one, and one of two again; and where it is."""
    run = folder / "changing"
    return run, [made(folder, processes, "steps", run, until) for processes, until in ((2, 2), (1, 3), (2, 4))]


def test_a_checkpoint_goes_on_with_any_number_of_processes(changing):
    """2 -> 1 -> 2: what was split comes back to the bit."""
    run, (begun, alone, again) = changing
    for before, after in ((begun, alone), (alone, again)):
        last, first = part(before, "last"), part(after, "first")
        assert last.keys() == first.keys()
        assert all(torch.equal(last[key], first[key]) for key in last)
    assert not torch.equal(part(again, "last")["model.norm.weight"], part(begun, "last")["model.norm.weight"])
    exported = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step-000003" / "model").state_dict()
    assert torch.equal(exported["model.norm.weight"], part(alone, "last")["model.norm.weight"])


@pytest.mark.slow
def test_its_later_steps_are_those_of_a_run_that_always_had_two(changing, folder):
    run, (_, _, again) = changing
    whole = folder / "steady"
    steady = part(made(folder, 2, "steps", whole, 4), "last")
    for key, x in part(again, "last").items():
        torch.testing.assert_close(x, steady[key], rtol=0, atol=1e-6)
    assert [row["accuracy"] for row in rows(run)] == [row["accuracy"] for row in rows(whole)]
    drawn = [[(row["prompt"], row["fate"]) for row in rows(at, "ledger")] for at in (run, whole)]
    assert drawn[0] == drawn[1]


SETTINGS = ["steps=2", "batch.prompts=8", "eval.samples=1", "eval.data=abacus", "diagnose.every=1"]
TRAIN = ["-m", "contrapose", "train", *[word for setting in SETTINGS for word in ("--set", setting)]]


def test_the_command_line_trains_in_two_processes(folder):
    """Rank 0 alone speaks and writes; what it writes is a run like any other."""
    out = folder / "cli"
    said = launched(2, *TRAIN, "--out", out)
    assert said.count("a step     8 groups") == 1
    assert "split over 2 of 2 processes" in said
    assert {"metrics.jsonl", "model", "eval.json", "report.html", "checkpoints"} <= {p.name for p in out.iterdir()}
    assert [row["step"] for row in rows(out)] == [1, 2]
    assert [row["step"] for row in json.loads((out / "eval.json").read_text())] == [0, 2]


@pytest.mark.slow
def test_its_run_is_that_of_one_process(folder):
    for processes in (2, 1):
        launched(processes, *TRAIN, "--out", folder / f"cli-{processes}")
    one, two = folder / "cli-1", folder / "cli-2"
    for key in ("accuracy", "kept_tokens", "accepted_groups"):
        assert [row[key] for row in rows(two)] == [row[key] for row in rows(one)]
    both = [json.loads((at / "eval.json").read_text()) for at in (two, one)]
    assert [row["accuracy"] for row in both[0]] == [row["accuracy"] for row in both[1]]
    weights = [AutoModelForCausalLM.from_pretrained(at / "model").state_dict() for at in (two, one)]
    for key, x in weights[0].items():
        torch.testing.assert_close(x, weights[1][key], rtol=0, atol=1e-5)


def test_a_mistake_is_told_once(folder):
    said = launched(2, "-m", "contrapose", "train", "--set", "optim.lrr=1", fails=True)
    assert said.count("error: optim.lrr: no such key") == 1
    assert "/contrapose/" not in said  # of no file of ours is there a traceback; torchrun shows one of its own


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("killed", "another rank ended without a word"),
        pytest.param("told", "rank 1 of 2: the key is wrong", marks=pytest.mark.slow),
        pytest.param("unforeseen", "ValueError: nobody foresaw this", marks=pytest.mark.slow),
    ],
)
def test_one_that_fails_ends_all_and_says_why(folder, how, expected):
    said = launched(2, WORKER, "fails", folder / "nothing", how, fails=True)
    assert said.count(expected) == 1
