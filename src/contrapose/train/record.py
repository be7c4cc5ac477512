"""What a run writes of its groups: a row each in ``rollouts.jsonl``, a row a prompt and step in ``ledger.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from contrapose.objectives.credit import credit_of, log_ratio_sum
from contrapose.objectives.diagnose import Scored
from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.prompts.pool import Thresholds
from contrapose.rollout.sampler import seed_of
from contrapose.train.collate import Minibatch
from contrapose.train.collect import Collected
from contrapose.train.update import Pushed
from contrapose.types import Fate, Group, Now

DETAILED = 128
"""Of every so many groups of a step one is written token by token."""


@dataclass(frozen=True)
class Detail:
    """What is written token by token: the groups of these ``prompts``, with the credits that ``others`` would give
    them. ``spell`` gives the text of each of some tokens."""

    prompts: frozenset[str]
    others: Mapping[str, Objective]
    spell: Callable[[Sequence[int]], list[str]]


def detailed(step: int, groups: Sequence[Group]) -> frozenset[str]:
    """The prompts of a step that are written token by token: one in ``DETAILED`` and at least one, by lot, of those
    whose rewards differ first."""
    by_lot = sorted(groups, key=lambda g: (not g.mixed, seed_of("detail", step, g.prompt.id)))
    return frozenset(g.prompt.id for g in by_lot[: math.ceil(len(groups) / DETAILED)])


def ledger_rows(step: int, drawn: Collected, thresholds: Thresholds) -> Iterator[dict[str, Any]]:
    """The fate of every prompt drawn in a step, and what finding it out cost.

    A surplus group passed after the batch was full. Of one that was decided early, ``rho`` is that of what finished.
    """
    for group, fate, kept in drawn.judged:
        row = {
            "step": step,
            "prompt": group.prompt.id,
            "fate": fate,
            "rho": thresholds.rho_of(group),
            "tokens": group.tokens,
        }
        notes = {"surplus": fate == "train" and not kept, "decided_early": bool(group.cancelled)}
        yield row | {key: True for key, holds in notes.items() if holds}


def group_row(step: int, group: Group, fate: Fate) -> dict[str, Any]:
    """A group as drawn and judged. Of what was cancelled only the lengths are kept."""
    row = {
        "step": step,
        "prompt": group.prompt.id,
        "problem": group.prompt.problem,
        "answer": group.prompt.answer,
        "fate": fate,
        "rollouts": [
            {
                "text": r.text,
                "tokens": len(r.tokens),
                "finished": r.finished,
                "status": v.status,
                "reward": v.reward,
                "correct": v.correct,
                "boxed": v.boxed,
            }
            for r, v in zip(group.rollouts, group.verdicts, strict=True)
        ],
    }
    return row | {"cancelled": [len(r.tokens) for r in group.cancelled]} if group.cancelled else row


@torch.no_grad()
def trained_rows(
    step: int, minibatch: Minibatch, plan: Plan, pushed: Pushed, found: Scored, now: Now, detail: Detail
) -> Iterator[dict[str, Any]]:
    """The rows of the groups of one update: scores, P_i+ (margin included) and summed credits, and every token where
    ``detail`` says so."""
    told = {"score": found.score_QK, "p_positive": found.p_QK, "credit": pushed.credit_QKT.sum(-1)}
    lists = {name: x_QK.tolist() for name, x_QK in told.items()}
    for q, group in enumerate(minibatch.groups):
        row = group_row(step, group, "train")
        for k, rollout in enumerate(row["rollouts"]):
            values = {name: x_QK[q][k] for name, x_QK in lists.items()}
            rollout |= {name: None if math.isnan(x) else x for name, x in values.items()}
        yield row | (_every_token(q, minibatch, plan, pushed, now, detail) if group.prompt.id in detail.prompts else {})


def _every_token(q: int, minibatch: Minibatch, plan: Plan, pushed: Pushed, now: Now, detail: Detail) -> dict[str, Any]:
    group, one = minibatch.groups[q], minibatch.groups_from(q, q + 1).batch
    totals = replace(plan.totals, log_ratio=log_ratio_sum(pushed.logp_QKT, plan))
    others = {}
    for name, other in detail.others.items():
        start = replace(other.start(), progress=now.progress)
        credit_QKT, _ = credit_of(other, pushed.logp_QKT[q : q + 1], other.plan(one, totals), start)
        others[name] = _tokens(credit_QKT[0], group)
    return {
        "others": others,
        "token_ids": [list(r.tokens) for r in group.rollouts],
        "pieces": [detail.spell(r.tokens) for r in group.rollouts],
        "logp": _tokens(pushed.logp_QKT[q], group),
        "old_logp": _tokens(minibatch.batch.old_logp_QKT[q], group),
        "token_credit": _tokens(pushed.credit_QKT[q], group),
    }


def _tokens(x_KT: torch.Tensor, group: Group) -> list[list[float]]:
    return [x_KT[k, : len(r.tokens)].tolist() for k, r in enumerate(group.rollouts)]
