"""A run that meets faults: what it skips, what it writes, and where it stops."""

import copy
import json
from pathlib import Path

import pytest
import torch

import contrapose.train.update as updating
from contrapose.config import resolve
from contrapose.report.metrics import UPDATE
from contrapose.rollout.engine import StaleEngine
from contrapose.train.guards import NumericalStop
from contrapose.train.loop import train
from contrapose.train.run import Run
from user import few_sums

SMALL = ["steps=3", "batch.prompts=4", "batch.updates=2", "rollout.k=4", "checkpoint.every=1", "eval.data=''"]


def started(folder: Path, resume: bool = False) -> Run:
    with few_sums():
        return Run(resolve(None, SMALL)[0], folder, resume=resume)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def spoil(monkeypatch, *calls):
    """The credit of these updates (from 0) holds a nan; returns the optimizer steps that were wanted."""
    original, seen = updating.accumulate, []

    def accumulate(*args, fresh):
        pushed = original(*args, fresh=fresh)
        if len(seen) in calls:
            pushed.credit_QKT[1, 2, 0] = float("nan")
        seen.append(fresh)
        return pushed

    monkeypatch.setattr(updating, "accumulate", accumulate)
    return seen


def test_a_skipped_update_is_counted_named_and_dumped_and_the_run_goes_on(tmp_path, monkeypatch):
    """The first update of step 2: the next one finds the policy that sampled, and says nothing to the trust region."""
    seen = spoil(monkeypatch, 2)
    with started(tmp_path / "run") as run:
        assert train(run)
        assert run.updates == 5
        assert all(p.isfinite().all() for p in run.policy.model.parameters())
    found = rows(tmp_path / "run" / "metrics.jsonl")
    assert seen == [True, False, True, True, True, False]
    assert [row["skipped_updates"] for row in found] == [0, 1, 0]
    skipped, taken = found[1]["updates"]
    prompt = rows(tmp_path / "run" / "rollouts.jsonl")
    told = json.loads((tmp_path / "run" / "faults" / "step-000002-update-01" / "fault.json").read_text())
    assert skipped == dict.fromkeys(UPDATE) | {"skipped": told["line"]}
    assert told["line"] == f"the credit of token 0 of rollout 2 of {told['groups'][1]['prompt']!r} is nan"
    assert told["settings"]["objective"]["name"] == "rence"
    assert found[1]["kl"] == taken["kl"] == 0.0
    assert found[0]["kl_coef"] == found[1]["kl_coef"] != found[2]["kl_coef"]
    assert found[1]["alarms"] == [f"update 1 was skipped: {told['line']}; what it was made of is in faults/"]
    assert {g["prompt"] for g in told["groups"]} <= {row["prompt"] for row in prompt if row["step"] == 2}
    assert all(row["engine_drift"] < 1e-5 for row in found)


def test_a_third_skip_stops_the_run_and_its_last_checkpoint_is_good(tmp_path, monkeypatch):
    spoil(monkeypatch, 1, 3, 4)
    with (
        started(tmp_path / "run") as run,
        pytest.raises(NumericalStop, match=r"3 of the last 5 updates.*step-000003-update-01"),
    ):
        train(run)
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
    monkeypatch.undo()
    spoil(monkeypatch, 0)  # the third of twenty also after a resume: what counts is read back from the rows
    with started(tmp_path / "run", resume=True) as run, pytest.raises(NumericalStop):
        train(run)
    monkeypatch.undo()
    with started(tmp_path / "run", resume=True) as run:
        assert train(run)
        assert all(p.isfinite().all() for p in run.policy.model.parameters())


@pytest.mark.parametrize("stamps", [True, False])
def test_an_engine_that_keeps_old_weights_is_caught_before_the_next_update(tmp_path, stamps):
    """Whether or not it says which weights it has."""
    with started(tmp_path / "run") as run:
        engine, weights = run.engine, []
        first = copy.deepcopy(run.policy.model)

        def sync(model, version=0):
            engine.model, engine.version = first, version if stamps else 0

        engine.sync = sync
        with pytest.raises(StaleEngine, match="step 2: " if stamps else "version 0, the policy is at version 2"):
            train(run, lambda row: weights.extend(p.clone() for p in run.policy.model.parameters()))
        assert all(torch.equal(*pair) for pair in zip(weights, run.policy.model.parameters(), strict=True))
    assert len(rows(tmp_path / "run" / "metrics.jsonl")) == 1
