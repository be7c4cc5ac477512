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

from contrapose.rollout.sampler import seed_of
from contrapose.train.collate import collate, logp_of
from contrapose.train.collect import Collected, collect
from contrapose.train.measure import after_row, kl_seen, step_row, update_row, verifier_alarm
from contrapose.train.record import group_row, ledger_rows, trained_rows
from contrapose.train.run import Run
from contrapose.train.update import update
from contrapose.types import PoolExhausted, Stopped


def train(run: Run, on_step: Callable[[dict[str, Any]], None] = lambda row: None) -> bool:
    """Train until ``steps`` or until a stop is asked for. True when the run is finished, False when it was stopped.

    A step is all or nothing: stopped while sampling, the run goes back to the step's beginning; stopped during
    the updates, it finishes them first. Either way a checkpoint holds where it is.
    """
    steps = run.config.steps
    try:
        run.evaluate_if_due()
        for step in range(run.step, steps):  # 1
            on_step(one_step(run, step))
            run.step = step + 1
            run.now = replace(run.now, progress=run.step / steps)
            run.checkpoint_if_due()
            run.stop.check()
            run.evaluate_if_due()
    except Stopped:
        run.checkpoint()
        return False
    except PoolExhausted:  # the step that could not be filled never happened
        run.checkpoint()
        raise
    return True


def one_step(run: Run, step: int) -> dict[str, Any]:
    """One rollout batch and its updates; returns the step's metrics."""
    config, start = run.config, time.perf_counter()
    run.engine.sync(run.model)  # 2   pi_old <- pi_theta
    drawn = _collect(run, step)  # 3-16, 18
    sampled = time.perf_counter()
    updates: list[dict[str, Any]] = []
    entropy = None
    for group, fate, kept in drawn.judged:
        if not kept:
            run.rollouts.append(group_row(step + 1, group, fate))
    if drawn.accepted:
        batch, entropy = collate(  # 17
            drawn.accepted,
            run.logprobs,
            max_tokens=config.batch.max_tokens,
            reference=run.reference,
            mask_truncated=config.reward.truncated == "mask",
            is_cap=config.rollout.is_cap,
        )
        for number, minibatch in enumerate(batch.split(config.batch.updates)):  # 19
            run.warm_up()
            plan, pushed, norm = update(  # 20
                run.logprobs,
                run.optimizer,
                run.objective,
                minibatch,
                run.now,
                fresh=number == 0,
                max_tokens=config.batch.max_tokens,
                clip=config.optim.clip,
                generator=torch.Generator().manual_seed(seed_of(config.seed, "pairs", step, number)),
            )
            kl = kl_seen(pushed, plan)
            updates.append(update_row(run.objective, plan, pushed, run.now, kl, norm))
            if config.diagnose.every and (step + 1) % config.diagnose.every == 0:
                again_QKT = logp_of(minibatch, run.logprobs, config.batch.max_tokens)
                updates[-1] |= after_row(run.objective, plan, again_QKT)
            for row in trained_rows(step + 1, minibatch, run.objective, run.others, plan, pushed, run.now):
                run.rollouts.append(row)
                run.on_trained(row)
            if run.objective.trust and number > 0:  # at theta_old the KL is 0 by construction and says nothing
                run.now = run.objective.trust.adapt(run.now, kl, plan.totals.rollouts)
    for row in ledger_rows(step + 1, drawn, run.pool.thresholds):
        run.ledger.append(row)
    row = step_row(step + 1, drawn, run.pool.mastered, entropy, updates)
    end = time.perf_counter()
    alarm = verifier_alarm([group for group, _, _ in drawn.judged], config.verify.alarm)
    row |= {"kl_coef": run.now.kl_coef, "alarms": [alarm] if alarm else []}
    row |= {"seconds_rollout": sampled - start, "seconds_update": end - sampled, "seconds": end - start}
    run.metrics.append(row)
    return row


def _collect(run: Run, step: int) -> Collected:
    config = run.config
    return collect(
        run.pool,
        run.engine,
        run.verifier,
        wanted=config.batch.prompts,
        k=config.rollout.k,
        seed=seed_of(config.seed, "rollouts", step),
        sampling=run.sampling,
        refill=config.filter.refill,
        max_rounds=config.filter.max_rounds,
        early_stop=config.filter.early_stop,
        each=run.stop.check,
    )
