"""Algorithm 1 of ReNCE, for every objective. The numbers at the right are the paper's lines.

This file only says what happens when; how is in the rooms it calls. What it does not do: multi-turn episodes,
sampling while updating (every token is trained on by the policy that follows the one that sampled it), learned
rewards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from contrapose.objectives.diagnose import scored
from contrapose.objectives.trust import kl_seen
from contrapose.rollout.sampler import seed_of
from contrapose.train.alarms import alarms
from contrapose.train.collate import Minibatch, collate, logp_of
from contrapose.train.collect import Collected, collect
from contrapose.train.guards import Fault, check_drift, check_skips, dump
from contrapose.train.measure import after_row, skipped_row, step_row, update_row, verifier_alarm
from contrapose.train.record import Detail, detailed, group_row, ledger_rows, trained_rows
from contrapose.train.run import Run
from contrapose.train.update import Pushed, update
from contrapose.train.work import Work
from contrapose.types import PoolExhausted, Stopped


def train(run: Run, on_step: Callable[[dict[str, Any]], None] = lambda row: None) -> bool:
    """Train until ``steps`` or until a stop is asked for. True when the run is finished, False when it was stopped.

    Stopped while sampling, the run goes back to the step's beginning; stopped during the updates, it finishes the
    present one, and the checkpoint holds the batch and which of its updates are done.
    """
    steps = run.config.steps
    try:
        if not run.work:  # in the middle of a step the policy is that of no step
            run.evaluate_if_due()
        for step in range(run.step, steps):  # 1
            on_step(one_step(run, step))
            run.step = step + 1
            run.now = replace(run.now, progress=run.step / steps)
            run.checkpoint_if_due()
            run.stop.check()
            run.evaluate_if_due()
    except Stopped:
        run.checkpoint_if_new()
        return False
    except PoolExhausted:  # the step that could not be filled never happened
        run.checkpoint()
        raise
    return True


def one_step(run: Run, step: int) -> dict[str, Any]:
    """One rollout batch and its updates; returns the step's metrics."""
    work = run.work = run.work or _begin(run, step)
    if work.batch:
        detail = Detail(detailed(step + 1, work.drawn.accepted), run.others, run.spell)
        for number, minibatch in enumerate(work.batch.split(work.parts)):  # 19
            if number == len(work.updates):  # those before were done before the run was stopped
                run.stop.check()
                _one_update(run, step, work, minibatch, number, detail)
    for ledger_row in ledger_rows(step + 1, work.drawn, run.pool.thresholds):
        run.write("ledger", ledger_row)
    row = step_row(step + 1, work.drawn, run.pool.mastered, work.facts.get("entropy"), work.updates)
    alarm = verifier_alarm([group for group, _, _ in work.drawn.judged], run.config.verify.alarm)
    row |= {"engine_drift": work.facts.get("engine_drift"), "kl_coef": run.now.kl_coef}
    drift = alarms(run.history, row, run.objective.trust, run.objective.compares)
    row["alarms"] = [*([alarm] if alarm else []), *drift]
    row |= {"seconds_rollout": work.seconds_rollout, "seconds_update": work.seconds_update}
    row["seconds"] = work.seconds_rollout + work.seconds_update
    run.write_metrics(row)
    run.work = None
    return row


def _begin(run: Run, step: int) -> Work:
    """Draw the step's groups, and take their log-probs under the policy that sampled them.

    Where the engine computes as the trainer does these are the engine's; the first update shows whether it did.
    """
    config, start = run.config, time.perf_counter()
    run.sync(run.updates)  # 2   pi_old <- pi_theta
    drawn = _collect(run, step)  # 3-16, 18
    sampled = time.perf_counter()
    for group, fate, kept in drawn.judged:
        if not kept:
            run.write("rollouts", group_row(step + 1, group, fate))
    work = Work(drawn, None, config.batch.updates, seconds_rollout=sampled - start)
    if drawn.accepted:
        work.batch, work.facts["entropy"] = collate(  # 17
            drawn.accepted,
            run.policy.passes,
            stated=_stated(run),
            reference=run.policy.reference,
            mask_truncated=config.reward.truncated == "mask",
            is_cap=config.rollout.is_cap,
        )
        if not _stated(run):
            _look(run, step, work, work.batch, work.batch.batch.old_logp_QKT)
    work.seconds_update = time.perf_counter() - sampled
    return work


def _stated(run: Run) -> bool:
    """Whether the old log-probs are the engine's. ``is_cap`` compares the two."""
    return run.engine.trainer_numerics and not run.config.rollout.is_cap


def _look(run: Run, step: int, work: Work, minibatch: Minibatch, own_QKT: Tensor) -> None:
    drift = check_drift(minibatch, own_QKT, run.policy.computes, step + 1, run.config.rollout.max_drift)
    work.facts["engine_drift"] = drift


def _one_update(run: Run, step: int, work: Work, minibatch: Minibatch, number: int, detail: Detail) -> None:
    config, start = run.config, time.perf_counter()
    run.set_rate()
    fresh = all(row["skipped"] for row in work.updates)  # theta is still theta_old

    def look(pushed: Pushed) -> None:
        if fresh and _stated(run):
            _look(run, step, work, minibatch, pushed.own_QKT)

    plan, pushed, norm, fault = update(  # 20
        run.policy.passes,
        run.policy.optimizer,
        run.objective,
        minibatch,
        run.now,
        fresh=fresh,
        clip=config.optim.clip,
        generator=torch.Generator().manual_seed(seed_of(config.seed, "pairs", step, number)),
        look=look,
    )
    if fault:
        work.seconds_update += time.perf_counter() - start
        _skip(run, step, work, minibatch, number, pushed, fault)
        return
    run.updates += 1
    kl = kl_seen(pushed.logp_QKT, plan)
    found = scored(run.objective, pushed.logp_QKT, plan, run.now)
    row = update_row(run.objective, plan, pushed, found, run.now, kl, norm)
    if config.diagnose.every and (step + 1) % config.diagnose.every == 0:
        row |= after_row(run.objective, plan, logp_of(minibatch, run.policy.passes))
    for group in trained_rows(step + 1, minibatch, plan, pushed, found, run.now, detail):
        run.write("rollouts", group)
        run.on_trained(group)
    if run.objective.trust and not fresh:  # at theta_old the KL is 0 by construction and says nothing
        run.now = run.objective.trust.adapt(run.now, kl, plan.totals.rollouts)
    work.updates.append(row)
    work.seconds_update += time.perf_counter() - start


def _skip(run: Run, step: int, work: Work, minibatch: Minibatch, number: int, pushed: Pushed, fault: Fault) -> None:
    """Go on without an update that cannot be taken, unless there were too many."""
    work.updates.append(skipped_row(fault))
    for group in minibatch.groups:
        run.write("rollouts", group_row(step + 1, group, "train"))
    settings = run.config.model_dump(mode="json")
    told = step + 1, number + 1, fault, minibatch, pushed, run.now, settings
    dumped = run.ranks.first(lambda: dump(run.folder, *told))
    check_skips([*(u for row in run.history for u in row["updates"]), *work.updates], dumped)


def _collect(run: Run, step: int) -> Collected:
    config = run.config
    return collect(
        run.pool,
        run.engine,
        run.verifier,
        wanted=config.batch.prompts,
        k=config.rollout.k,
        seed=seed_of(config.seed, "rollouts", step),
        version=run.updates,
        sampling=run.sampling,
        refill=config.filter.refill,
        max_rounds=config.filter.max_rounds,
        early_stop=config.filter.early_stop,
        each=run.stop.check,
        ranks=run.ranks,
    )
