"""However a policy's weights lie, a run learns, is saved whole, and goes on bit for bit."""

import errno
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from contrapose.config import resolve
from contrapose.policy.sharding import whole, whole_weights
from contrapose.report.log import WriteFailed
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.train.shards import moments_of
from contrapose.types import ContraposeError

COMMON = ["steps=3", "batch.prompts=8", "eval.data=", "diagnose.every=0", "checkpoint.every=1"]
SLOW = pytest.mark.slow
HELD = {
    "an adapter": ["lora.rank=4", "optim.lr=1e-3"],
    "computing in bfloat16": ["model.compute=bfloat16"],
    "offloaded": ["parallel.offload=true"],
    "an adapter on bfloat16": ["lora.rank=4", "optim.lr=1e-3", "model.dtype=bfloat16"],
    "an adapter, computing in bfloat16": ["lora.rank=4", "optim.lr=1e-3", "model.compute=bfloat16"],
}


@pytest.fixture(autouse=True, scope="module")
def _apart():
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run_until(folder: Path, settings, step=None):
    config, _ = resolve(None, [*COMMON, *settings])
    with Run(config, folder, resume=folder.exists()) as run:

        def stop(row):
            run.stop.requested = run.step + 1 == step

        finished = train(run, stop)
        state = {name: x.clone() for name, x in whole_weights(run.policy.model)}
        moments = {name: whole(x).clone() for name, x in moments_of(run.policy.model, run.policy.optimizer).items()}
        if finished:
            run.finish()
        return run, state, moments


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "an adapter" else SLOW) for name in HELD])
def test_stopped_and_taken_up_it_ends_the_same(tmp_path, name):
    run, state, moments = run_until(tmp_path / "steady", HELD[name])
    run_until(tmp_path / "stopped", HELD[name], 2)
    _, again, more = run_until(tmp_path / "stopped", HELD[name])
    assert all(torch.equal(x, again[key]) for key, x in state.items())
    assert moments.keys() == more.keys() and all(torch.equal(x, more[key]) for key, x in moments.items())
    start = AutoModelForCausalLM.from_pretrained(Path(run.policy.whole().config._name_or_path)).state_dict()
    assert any(not torch.equal(x, start[key]) for key, x in state.items())
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "steady" / "model").state_dict()
    assert all(torch.equal(x, exported[key]) for key, x in state.items())
    assert (tmp_path / "steady" / "adapter" / "adapter_config.json").exists() == ("lora.rank=4" in HELD[name])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torchao's, of what its libraries will no longer have
def test_moments_of_8_bits_go_on_as_they_were(tmp_path):
    pytest.importorskip("torchao")
    eight = ["optim.moments=8bit"]
    run, state, moments = run_until(tmp_path / "steady", eight)
    run_until(tmp_path / "stopped", eight, 2)
    _, again, more = run_until(tmp_path / "stopped", eight)
    assert all(torch.equal(x, again[key]) for key, x in state.items())
    assert all(torch.equal(x, more[key]) for key, x in moments.items())
    kept = sum(x.codes.nbytes for of in run.policy.optimizer.state.values() for x in of.values() if hasattr(x, "codes"))
    assert kept > 1.9 * sum(p.numel() for p in run.policy.model.parameters())


def test_without_torchao_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ContraposeError, match=r"pip install 'contrapose\[lowbit\]'"):
        run_until(tmp_path / "run", ["optim.moments=8bit"])


def test_offloaded_weights_learn_what_others_do(tmp_path):
    _, plain, _ = run_until(tmp_path / "plain", [])
    _, offloaded, _ = run_until(tmp_path / "offloaded", HELD["offloaded"])
    for key, x in plain.items():
        torch.testing.assert_close(offloaded[key], x, rtol=0, atol=1e-6)


def test_what_computes_in_bfloat16_learns_in_float32(tmp_path):
    """Steps too small for bfloat16 are kept, and the engine samples in bfloat16 from what they come to."""
    run, state, moments = run_until(tmp_path / "run", [*HELD["computing in bfloat16"], "optim.lr=1e-7"])
    assert {x.dtype for x in [*state.values(), *moments.values()]} == {torch.float32}
    assert run.policy.whole().dtype == torch.bfloat16
    start = AutoModelForCausalLM.from_pretrained(Path(run.policy.whole().config._name_or_path)).state_dict()
    moved = torch.cat([(x - start[key]).abs().flatten() for key, x in state.items()])
    assert 0 < moved.max() < 2e-5
    assert 0.0 <= run.history[-1]["engine_drift"] < 0.1


def test_an_adapter_learns_in_float32_beside_bfloat16(tmp_path):
    run, _, moments = run_until(tmp_path / "run", HELD["an adapter on bfloat16"], 1)
    assert {x.dtype for x in moments.values()} == {torch.float32}
    assert {p.dtype for p in run.policy.model.parameters()} == {torch.float32, torch.bfloat16}


def test_what_cannot_be_split_together_is_refused(tmp_path):
    with pytest.raises(ContraposeError, match=r"^lora.rank: .*model.compute"):
        run_until(tmp_path / "run", [*HELD["an adapter on bfloat16"], "parallel.offload=true"])


def test_a_disk_that_is_full_is_one_line_also_where_parts_are_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.HuggingFaceStorageWriter.write_data", full)
    with pytest.raises(WriteFailed, match=r"model: cannot be written: .*No space left on device.* bytes are free"):
        run_until(tmp_path / "run", HELD["an adapter"], 1)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(("before", "now"), [("4", "8"), ("4", "0"), ("0", "4")])
def test_another_adapter_is_refused_before_anything_is_lost(tmp_path, before, now):
    run_until(tmp_path / "run", [f"lora.rank={before}"], 1)
    with pytest.raises(ContraposeError, match=rf"^lora.rank: {before} at the checkpoint, {now} now"):
        run_until(tmp_path / "run", [f"lora.rank={now}"])
