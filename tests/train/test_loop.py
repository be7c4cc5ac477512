"""Algorithm 1 end to end on abacus, a few small steps: the same seed gives the same bits, also across a stop."""

import json
import math
import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from contrapose.cli.screen import Screen
from contrapose.config import resolve
from contrapose.objectives.credit import credit_of
from contrapose.objectives.zoo import ZOO
from contrapose.report.metrics import STEP, TIME_FIELDS, UPDATE
from contrapose.rollout.engine import StaleEngine
from contrapose.train.collate import logp_of
from contrapose.train.guards import engine_logp
from contrapose.train.loop import _begin, one_step, train
from contrapose.train.run import Run
from contrapose.types import ContraposeError, PoolExhausted
from contrapose.verify.workers import KILLINGS
from user import few_sums

SMALL = (
    *("steps=4", "batch.prompts=4", "batch.updates=2", "rollout.k=4", "checkpoint.every=2", "eval.data=''"),
    "diagnose.every=1",
)


def started(folder: Path, *settings: str, resume: bool = False) -> Run:
    return Run(resolve(None, [*SMALL, *settings])[0], folder, resume=resume)


def trained(folder: Path, *settings: str) -> Path:
    with started(folder, *settings) as run:
        assert train(run)
        run.finish()
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIME_FIELDS} for row in rows(folder / "metrics.jsonl")]


def assert_same_run(a: Path, b: Path) -> None:
    assert timeless(a) == timeless(b)
    for name in ("rollouts.jsonl", "ledger.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (a, b)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture(scope="module", autouse=True)
def short_abacus():
    with few_sums():
        yield


@pytest.fixture(scope="module", params=["rence", "conspo", "grpo"])
def whole(request, tmp_path_factory):
    """A run that was never stopped, and its objective."""
    return trained(tmp_path_factory.mktemp("whole") / request.param, f"objective.name={request.param}"), request.param


of_rence = pytest.mark.parametrize("whole", ["rence"], indirect=True)
"""For what no objective has a part in. ReNCE's run has the most to carry on: a KL coefficient that moves."""


def test_two_runs_of_a_seed_are_the_same_bytes(whole, tmp_path):
    folder, name = whole
    assert_same_run(folder, trained(tmp_path / "again", f"objective.name={name}"))


@pytest.mark.parametrize(
    ("setting", "stated"), [("steps=4", True), ("rollout.is_cap=2", False), ("model.dtype=bfloat16", False)]
)
def test_whose_log_probs_are_the_old_ones(setting, stated, tmp_path):
    """The engine's in float32; elsewhere, or where the two are compared, those of a pass of the trainer's."""
    with started(tmp_path / "run", setting) as run:
        work = run.work = _begin(run, 0)
        old_QKT, told_QKT = work.batch.batch.old_logp_QKT, engine_logp(work.batch)
        own_QKT = logp_of(work.batch, run.policy.passes)
        drift = one_step(run, 0)["engine_drift"]
    assert torch.equal(old_QKT, told_QKT) is stated
    assert torch.equal(old_QKT, own_QKT) is not stated
    assert work.facts["entropy"] > 0
    assert 0 < drift < (0.1 if "bfloat16" in setting else 1e-5)
    if stated:
        torch.testing.assert_close(old_QKT, own_QKT, rtol=0, atol=1e-4)
        assert work.facts["entropy"] == pytest.approx(-float(old_QKT.sum() / work.batch.batch.mask_QKT.sum()))


def test_every_place_in_a_group_is_looked_at_before_anything_is_learned(tmp_path):
    """An engine that clones a prompt's past wrongly to the last of its rows."""
    with started(tmp_path / "run", "filter.mode=none") as run:
        honest, before = run.engine.generate, [p.clone() for p in run.policy.model.parameters()]

        def lies(*asked):
            for step in honest(*asked):
                yield [one if one.index < 3 else replace(one, rollout=lowered(one.rollout)) for one in step]

        run.engine.generate = lies
        with pytest.raises(StaleEngine, match=r"step 1: .* rollout 3 of 'abacus"):
            one_step(run, 0)
        assert all(map(torch.equal, before, run.policy.model.parameters()))


def test_where_the_first_update_pushes_nobody_there_is_no_drift(tmp_path):
    with started(tmp_path / "run", "filter.mode=none", "objective.name=gspo") as run:
        work = run.work = _begin(run, 0)
        batch = work.batch.batch
        work.batch = replace(work.batch, batch=replace(batch, reward_QK=torch.zeros_like(batch.reward_QK)))
        assert one_step(run, 0)["engine_drift"] is None


def lowered(rollout):
    return replace(rollout, logp=tuple(x - 9 for x in rollout.logp))


@pytest.mark.parametrize("name", ZOO)
def test_no_credit_depends_on_whose_they_are(name, tmp_path):
    with started(tmp_path / "run", f"objective.name={name}", "filter.mode=none") as run:
        batch = _begin(run, 0).batch
        own_QKT = logp_of(batch, run.policy.passes)
    batches = batch.batch, replace(batch.batch, old_logp_QKT=own_QKT)
    told, own = (
        credit_of(run.objective, own_QKT, run.objective.plan(b, generator=torch.Generator().manual_seed(0)), run.now)[0]
        for b in batches
    )
    assert own.any()
    torch.testing.assert_close(told, own, rtol=1e-4, atol=1e-4 * float(own.abs().max()))


@of_rence
def test_another_seed_is_another_run(whole, tmp_path):
    folder, _ = whole
    assert timeless(folder) != timeless(trained(tmp_path / "other", "seed=1"))


@pytest.mark.parametrize("groups", [0, 3])
def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path, groups):
    """Stopped after a step, or after ``groups`` groups of the third one (which then never happened)."""
    folder, name = whole
    run = started(tmp_path / "cut", f"objective.name={name}")
    finished: list[int] = []

    def on_step(row):
        finished.append(row["step"])
        if row["step"] == 2:
            if groups == 0:
                run.stop.requested = True
            else:
                stop_after(run, groups)

    with run:
        assert not train(run, on_step)
    assert finished == [1, 2]
    assert [p.name for p in sorted((tmp_path / "cut" / "checkpoints").iterdir())] == ["step-000002"]
    with started(tmp_path / "cut", f"objective.name={name}", resume=True) as again:
        assert again.step == 2
        assert train(again)
        again.finish()
    assert_same_run(folder, tmp_path / "cut")


@of_rence
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_killing_workers_changes_no_verdict_and_no_result(whole, tmp_path):
    """Somebody kills one grader after the other: the run ends with the bits of one that was left in peace."""
    folder, name = whole
    over, killed = threading.Event(), set()

    def kill(nursery: Path):
        for _ in range(KILLINGS - 1):  # as many as no answer dies of, however busy the machine is
            if over.wait(0.03):
                return
            for pid in list(set(nursery.read_text().split()) - killed)[:1]:
                killed.add(pid)
                with suppress(ProcessLookupError):  # somebody else was faster
                    os.kill(int(pid), signal.SIGKILL)

    with started(tmp_path / "killed", f"objective.name={name}") as run:
        pid = run.verifier.workers.nursery.pid
        killer = threading.Thread(target=kill, args=(Path(f"/proc/{pid}/task/{pid}/children"),))
        killer.start()
        try:
            assert train(run)
        finally:
            over.set()
            killer.join()
        run.finish()
    assert len(killed) >= 4
    assert_same_run(folder, tmp_path / "killed")


def test_an_answer_that_cannot_be_graded_raises_an_alarm(tmp_path, capsys):
    """The metrics say so, the screen says so, and the answers are worth wrong ones."""
    settings = ("steps=1", "verify.domain='grader_functions:act'", "verify.answer='text'", "filter.mode=none")
    with started(tmp_path / "run", *settings) as run:
        assert train(run, Screen(Console(), 1).on_step)
    [row] = rows(tmp_path / "run" / "metrics.jsonl")
    assert row["verdicts"] == {"crashed": 16}  # abacus's answers are none of the words that this grader knows
    assert (row["verifier_faults"], row["accuracy"], row["reward_mean"]) == (1.0, 0.0, pytest.approx(0.1))
    [alarm] = row["alarms"]
    assert alarm.startswith("100.0% of the answers could not be graded within limits (verify.alarm 1.0%): crashed for ")
    assert "alarm      step 1: 100.0%" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("grader", "cause"), [("die", "the grader cannot grade"), ("killed", "its workers are killed from outside")]
)
def test_a_grader_that_cannot_grade_stops_the_run_before_anything_is_learned(tmp_path, grader, cause):
    with pytest.raises(ContraposeError, match=cause) as error:
        started(tmp_path / "run", f"verify.domain='grader_functions:{grader}'")
    assert error.value.exit_code == 4
    assert not (tmp_path / "run").exists()


def test_an_unknown_domain_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(ContraposeError, match=r"verify\.domain: 'maths' is unknown \(did you mean 'math'\?\)"):
        started(tmp_path / "run", "verify.domain=maths", "model.path=nowhere")


def stop_after(run: Run, groups: int) -> None:
    """Ask for a stop while the ``groups``-th group from now is being looked at."""

    class Watched:
        def groups(self, sampled, k, watch=None, judge=run.verifier):
            for seen, group in enumerate(judge.groups(sampled, k, watch), 1):
                run.stop.requested = seen >= groups
                yield group

    run.verifier = Watched()


def test_an_exhausted_pool_keeps_what_was_learned(tmp_path):
    """Nobody passes an empty band: exit 3, and a checkpoint of the steps before (here none)."""
    with (
        started(tmp_path / "hard", "filter.t_hard=0.4", "filter.t_easy=0.45", "filter.max_rounds=2") as run,
        pytest.raises(PoolExhausted, match=r"filter\.max_rounds") as stop,
    ):
        train(run)
    assert stop.value.exit_code == 3
    assert [p.name for p in (tmp_path / "hard" / "checkpoints").iterdir()] == ["step-000000"]


@of_rence
def test_rows_written_after_the_checkpoint_are_cut_on_resume(whole, tmp_path):
    """As after a kill: rows of a step whose checkpoint was never written must not stand twice."""
    folder, name = whole
    run = started(tmp_path / "killed", f"objective.name={name}", "checkpoint.every=2")

    class Kill(Exception):
        pass

    def on_step(row):
        if row["step"] == 3:
            raise Kill

    with run, pytest.raises(Kill):
        train(run, on_step)
    assert len(rows(tmp_path / "killed" / "metrics.jsonl")) == 3
    with started(tmp_path / "killed", f"objective.name={name}", resume=True) as again:
        assert train(again)
        again.finish()
    assert_same_run(folder, tmp_path / "killed")


def test_every_metric_is_documented_and_every_documented_one_is_there(whole):
    folder, _ = whole
    for row in rows(folder / "metrics.jsonl"):
        assert set(row) == set(STEP)
        assert all(set(update) == set(UPDATE) for update in row["updates"])


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"rence", "conspo", "grpo"}))
def test_every_objective_trains_under_its_own_recipe(name, tmp_path):
    """Two steps, all metrics finite where they are defined, the weights moved."""
    with started(tmp_path / name, f"objective.name={name}", "steps=2", "checkpoint.every=0") as run:
        before = {key: x.clone() for key, x in run.policy.model.state_dict().items()}
        assert train(run)
        assert any(not torch.equal(x, before[key]) for key, x in run.policy.model.state_dict().items())
    for row in rows(tmp_path / name / "metrics.jsonl"):
        assert set(row) == set(STEP) and row["accepted_groups"] == 4
        for update in row["updates"]:
            assert set(update) == set(UPDATE)
            assert all(value is None or math.isfinite(value) for value in update.values())


@pytest.mark.parametrize("settings", [["objective.name=dpo", "objective.reference=initial"], ["objective.name=grpo"]])
def test_a_frozen_reference_is_the_model_as_it_was(settings, tmp_path):
    """Semi-online DPO against the initial policy, GRPO with its published KL: credit depends on how far it has gone."""
    with started(tmp_path / "run", *settings, "steps=2", "checkpoint.every=0") as run:
        start = {key: x.clone() for key, x in run.policy.model.state_dict().items()}
        assert run.policy.reference is not None and train(run)
        assert all(torch.equal(x, start[key]) for key, x in run.policy.reference.logprobs.model.state_dict().items())
        assert any(not torch.equal(x, start[key]) for key, x in run.policy.model.state_dict().items())


@of_rence
def test_how_often_updates_are_measured_again(whole, tmp_path):
    """Only at every so-manieth step, and without any effect on the training."""
    folder, name = whole
    thinned = trained(tmp_path / "thinned", f"objective.name={name}", "diagnose.every=3")
    never = trained(tmp_path / "never", f"objective.name={name}", "diagnose.every=0")
    after = {key for key in UPDATE if key.endswith("_after")}
    assert len(after) == 4
    for run, measured in ((folder, {1, 2, 3, 4}), (thinned, {3}), (never, set())):
        for row in rows(run / "metrics.jsonl"):
            assert all(set(UPDATE) - set(u) == (set() if row["step"] in measured else after) for u in row["updates"])
    for run in (thinned, never):
        for file in ("rollouts.jsonl", "ledger.jsonl", "model/model.safetensors"):
            assert (run / file).read_bytes() == (folder / file).read_bytes()


def test_an_update_moves_likelihoods_apart(whole):
    """What is measured after an update is the new policy, on the rollouts it was trained on."""
    updates = [u for m in rows(whole[0] / "metrics.jsonl") for u in m["updates"] if u["score_gap"] is not None]
    apart = [
        (u["logp_positive"] - u["logp_negative"], u["logp_positive_after"] - u["logp_negative_after"]) for u in updates
    ]
    assert sum(after > before for before, after in apart) > 0.8 * len(apart) > 0
    assert all(0 <= u[key] <= 1 for u in updates for key in ("likelihood_auc", "likelihood_auc_after"))


def test_overlong_answers_cost_reward_and_stay_correct(tmp_path):
    """DAPO's punishment over the whole response limit: every token costs 1/64."""
    folder = trained(tmp_path / "long", "objective.name=dapo", "steps=1", "reward.overlong=1.0")
    found = [r for g in rows(folder / "rollouts.jsonl") for r in g["rollouts"]]
    assert any(r["correct"] for r in found) and not all(r["correct"] for r in found)
    assert all(r["reward"] == pytest.approx((1 if r["correct"] else -1) - r["tokens"] / 64) for r in found)


def test_the_run_folder_holds_what_is_promised(whole):
    folder, name = whole
    groups = rows(folder / "rollouts.jsonl")
    ledger = rows(folder / "ledger.jsonl")
    metrics = rows(folder / "metrics.jsonl")
    assert len(groups) == len(ledger) == sum(m["drawn_groups"] for m in metrics)
    kept = [g for g in groups if "score" in g["rollouts"][0]]
    assert len(kept) == sum(m["accepted_groups"] for m in metrics) == 16
    assert all(g["fate"] == "train" for g in kept)
    detailed = [g for g in groups if "token_credit" in g]
    assert [g["step"] for g in detailed] == [m["step"] for m in metrics if m["accepted_groups"]]
    for group in detailed:
        for r, ids, logp, credit, pieces in zip(
            *(group[key] for key in ("rollouts", "token_ids", "logp", "token_credit", "pieces")), strict=True
        ):
            assert len(ids) == len(logp) == len(credit) == len(pieces)
            assert "".join(pieces).removesuffix("<eos>") == r["text"]
            assert sum(credit) == pytest.approx(r["credit"], rel=1e-4, abs=1e-8)
        assert set(group["others"]) == set(ZOO) - {name}
    assert (folder / "config.toml").read_text().count("[run]") == 1


@of_rence
def test_the_final_model_loads_in_transformers_and_generates(whole):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole[0] / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole[0] / "model")
    ids = tokenizer("3+4=", return_tensors="pt")["input_ids"]
    text = tokenizer.decode(model.generate(ids, max_new_tokens=20, do_sample=False)[0])
    assert text.startswith("3+4=")
    assert len(text) > 4


@of_rence
def test_lambda_rests_at_theta_old_and_the_margin_follows_progress(whole, tmp_path):
    """With one update a step KL is 0 by construction, so lambda never moves; ConSPO's margin rises with the steps."""
    one = trained(tmp_path / "one", "batch.updates=1")
    assert {m["kl_coef"] for m in rows(one / "metrics.jsonl")} == {0.001}
    two = [m["kl_coef"] for m in rows(whole[0] / "metrics.jsonl")]
    assert two == sorted(two, reverse=True)
    assert two[-1] < 0.001  # far below its target, the KL lets lambda fall
    rising = trained(tmp_path / "rising", "objective.name=conspo", "objective.M=0.5", "objective.warmup=1.0")
    found = [m["margin"] for m in rows(rising / "metrics.jsonl")]
    expected = [0.0, 0.0732233, 0.25, 0.4267767]
    pairs = [(f, e) for f, e in zip(found, expected, strict=True) if f is not None]  # None: no negatives that step
    assert len(pairs) >= 3
    assert all(f == pytest.approx(e, abs=1e-6) for f, e in pairs)


def test_the_learning_rate_warms_up(tmp_path):
    seen = []
    with started(tmp_path / "warm", "optim.warmup=4", "optim.lr=8e-4") as run:
        for run.updates in range(6):
            run.set_rate()
            seen.append(run.policy.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 8e-4, 8e-4])


def test_evaluation_comes_before_every_so_often_and_after(tmp_path):
    settings = ["eval.data=abacus:validation", "eval.samples=1", "eval.every=2", "steps=3"]
    folder = trained(tmp_path / "evaluated", *settings)
    found = json.loads((folder / "eval.json").read_text())
    assert [e["step"] for e in found] == [0, 2, 3]
    for row in found:
        assert row["problems"] == 40
        assert row["accuracy"]["low"] < row["accuracy"]["value"] < row["accuracy"]["high"]


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    folder = trained(tmp_path / "many", "checkpoint.every=1")
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-000003", "step-000004"]


def test_prompts_too_long_for_the_context_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ContraposeError, match=r"rollout\.max_tokens: 500"):
        started(tmp_path / "none", "rollout.max_tokens=500")
    assert not (tmp_path / "none").exists()


def test_fewer_prompts_than_a_batch_are_refused(tmp_path):
    file = tmp_path / "few.jsonl"
    file.write_text('{"problem": "1+1=", "answer": "2"}\n' * 3 + '{"problem": "1+2=", "answer": "3"}\n')
    with pytest.raises(ContraposeError, match=r"batch\.prompts: 4.*only 2 prompts"):
        started(
            tmp_path / "none", "model.path=abacus", f"data.path={file}", "data.template=plain", "rollout.max_tokens=9"
        )


def test_a_run_that_goes_on_with_other_data_says_so(tmp_path):
    """An edited answer keeps its id; a new problem is one more. Neither passes without a word."""
    file = tmp_path / "sums.jsonl"
    sums = [{"problem": f"{i}+{i}=", "answer": str(2 * i)} for i in range(1, 9)]

    def opened(rows: list[dict], resume: bool) -> list[str]:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = [f"data.path={file}", "model.path=abacus", "data.template=plain", "rollout.max_tokens=16"]
        with started(tmp_path / "run", *settings, resume=resume) as run:
            if not resume:
                run.checkpoint()
            return run.describe()

    for resume in (False, True):
        assert not any("not those of the checkpoint" in line for line in opened(sums, resume))
    for changed in ([*sums, {"problem": "1-1=", "answer": "0"}], [{**sums[0], "answer": "3"}, *sums[1:]]):
        assert any("not those of the checkpoint" in line for line in opened(changed, resume=True))
        assert json.loads((tmp_path / "run" / "data.json").read_text())["sources"][str(file)]["kept"] == len(changed)
