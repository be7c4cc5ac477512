"""What a run writes of its groups: a row each in ``rollouts.jsonl``, a row a prompt and step in ``ledger.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from contrapose.objectives.credit import credit_of, log_ratio_sum
from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.prompts.pool import Thresholds
from contrapose.rollout.sampler import seed_of
from contrapose.train.collate import Minibatch
from contrapose.train.collect import Collected
from contrapose.train.update import Pushed
from contrapose.types import Fate, Group, Now

DETAILED = 128
"""One group in so many is written token by token, with the credits that other objectives would give it."""


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
    step: int,
    minibatch: Minibatch,
    objective: Objective,
    others: Mapping[str, Objective],
    plan: Plan,
    pushed: Pushed,
    now: Now,
) -> Iterator[dict[str, Any]]:
    """The rows of the groups of one update: scores, summed credits, and for one in ``DETAILED`` every token."""
    scores = objective.scores(pushed.logp_QKT, plan).tolist()
    credits = pushed.credit_QKT.sum(-1).tolist()
    for q, group in enumerate(minibatch.groups):
        row = group_row(step, group, "train")
        for k, rollout in enumerate(row["rollouts"]):
            rollout |= {"score": scores[q][k], "credit": credits[q][k]}
        if seed_of("detail", step, group.prompt.id) % DETAILED == 0:
            one = minibatch.groups_from(q, q + 1).batch
            totals = replace(plan.totals, log_ratio=log_ratio_sum(pushed.logp_QKT, plan))
            row["others"] = {}
            for name, other in others.items():
                other_plan = other.plan(one, totals)
                credit, _ = credit_of(
                    other, pushed.logp_QKT[q : q + 1], other_plan, replace(other.start(), progress=now.progress)
                )
                row["others"][name] = _tokens(credit[0], group)
            row["token_ids"] = [list(r.tokens) for r in group.rollouts]
            row["logp"] = _tokens(pushed.logp_QKT[q], group)
            row["old_logp"] = _tokens(minibatch.batch.old_logp_QKT[q], group)
            row["token_credit"] = _tokens(pushed.credit_QKT[q], group)
        yield row


def _tokens(x_KT: torch.Tensor, group: Group) -> Sequence[Sequence[float]]:
    return [x_KT[k, : len(r.tokens)].tolist() for k, r in enumerate(group.rollouts)]
