"""The gradient of a mini-batch does not know how it was cut."""

import random
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from contrapose.objectives.objective import Objective
from contrapose.objectives.plan import Plan
from contrapose.objectives.zoo import ZOO, objective
from contrapose.policy.logprobs import LogProbs, Row
from contrapose.train.collate import Minibatch, collate
from contrapose.train.passes import Passes
from contrapose.train.update import accumulate
from contrapose.types import Group, Rollout
from models import exact, tiny
from train_scripted import ragged

OBJECTIVES = {
    "rence": {},
    "rence, strong KL": {"kl_coef": 1.0},
    "rence, sequence KL": {"kl_coef": 1.0, "kl_aggregate": "sequence"},
    "rence, summed KL": {"kl_coef": 1.0, "kl_aggregate": "sequence_sum"},
    "rence, no KL, constant margin, correct": {"trust": None, "margin": "constant", "positives": "correct"},
    "rence, softmax": {"contrast": "softmax", "margin": None},
    "rence, all pairs": {"contrast": "all_pairs"},
    "rence, random pair": {"contrast": "random_pair"},
    "conspo": {"tau": 0.5},
    "conspo, fixed margin": {"tau": 0.5, "margin": "constant", "M": 0.5},
    "conspo, linear": {"contrast": "linear"},
    "conspo, clipped ratio": {"score": "clipped_ratio", "tau": 0.5},
    "conspo, linear, clipped ratio": {"contrast": "linear", "score": "clipped_ratio"},
    "disco": {"tau": 0.5, "delta": 0.0, "hinge": 2.0},
    "disco, ratio": {"score": "ratio", "delta": 0.0, "hinge": 90.0},
    "disco, hinge asleep": {"delta": 99.0},
    "disco_b": {"delta": 0.0, "hinge": 2.0},
    "disco_b, ratio": {"score": "ratio", "delta": 0.0, "hinge": 90.0},
    "dpo": {"beta": 1.0},
    "dpo, random pair": {"beta": 1.0, "contrast": "random_pair"},
    "dpo, initial": {"beta": 1.0, "reference": "initial"},
    "grpo": {},
    "grpo with a reference": {"reference_coef": 0.5},
    "grpo, dual clip": {"dual_clip": 1.5, "clip_low": 0.9, "clip_high": 9.0},
    "dapo": {},
    "dapo, mean of groups": {"aggregate": "token_mean_group"},
    "dr_grpo": {"length": 9.0},
    "gspo": {"clip_low": 0.9, "clip_high": 9.0},
    "gspo, biting": {"clip_low": 0.1, "clip_high": 0.1},
    "gmpo": {"clip_low": 9.0, "clip_high": 9.0},
    "gmpo, biting": {},
    "cispo": {},
    "cispo, capped": {"cap": 0.5},
    "sapo": {},
    "rloo": {},
    "reinforce": {},
}


@dataclass(frozen=True)
class Cut(Passes):
    """Passes in given micro-batches."""

    max_tokens: int = 64
    split: tuple[tuple[int, ...], ...] = (tuple(range(32)),)

    def deal(self, rows, chosen=None):
        kept = [[i for i in part if chosen is None or i in chosen] for part in self.split]
        return [part for part in kept if part]


NO_FIRST_PASS = [
    name for name in OBJECTIVES if "linear" in name or not name.startswith(("rence", "conspo", "disco", "dpo"))
]
"""Those whose credit asks no other rollout for its log-probs: advantages are known beforehand."""
HINGED = [name for name in OBJECTIVES if name.startswith("disco") and "asleep" not in name]


def built_as(name: str) -> Objective:
    return objective(name.split(",", maxsplit=1)[0].split(" ", maxsplit=1)[0], **OBJECTIVES[name])


def drawn(built: Objective, batch: Minibatch) -> Plan:
    """The plan, with the same pairs at each call where pairs are drawn."""
    return built.plan(batch.batch, generator=torch.Generator().manual_seed(3))


def tiny_model(seed: int = 0) -> torch.nn.Module:
    return exact(tiny("qwen3", vocab=20, seed=seed))


@cache
def minibatch() -> Minibatch:
    """A mini-batch whose old and reference policies are other models."""
    batch, _ = collate(ragged(), Passes(LogProbs(tiny_model(1)), 64), reference=Passes(LogProbs(tiny_model(2)), 64))
    return batch


def gradient_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def whole(model: torch.nn.Module, built: Objective, batch: Minibatch) -> tuple[torch.Tensor, float]:
    """The gradient of one backward of -J through the plain model, all rows at once; and J."""
    model.zero_grad()
    plan = drawn(built, batch)
    rows, (Q, K, T) = batch.rows, plan.weight_QKT.shape
    width = max(r.length for r in rows)
    ids = torch.tensor([[*r.prompt, *r.response, *[0] * (width - r.length)] for r in rows])
    logp = model(input_ids=ids).logits.log_softmax(-1)
    dense = torch.zeros(Q * K, T, dtype=torch.float64)
    for n, row in enumerate(rows):
        for t, token in enumerate(row.response):
            dense = dense.index_put((torch.tensor(n), torch.tensor(t)), logp[n, len(row.prompt) + t - 1, token])
    J = built(dense.view(Q, K, T), plan, built.start())
    (-J).backward()
    return gradient_of(model), float(J.detach())


@cache
def whole_of(name: str) -> tuple[torch.Tensor, float]:
    return whole(tiny_model(), built_as(name), minibatch())


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("micro", [1, 5, 32])
def test_any_micro_batch_split_gives_the_same_gradient(name, micro):
    """Micro-batches of 1 rollout, of 5 and 2 left over, of all; shuffled across groups, theta away from theta_old."""
    built = built_as(name)
    model, batch = tiny_model(), minibatch()
    expected, J = whole_of(name)
    order = random.Random(7).sample(range(len(batch.rows)), len(batch.rows))
    split = tuple(tuple(order[i : i + micro]) for i in range(0, len(order), micro))
    pushed = accumulate(
        Cut(LogProbs(model), split=split), built, batch, drawn(built, batch), built.start(), fresh=False
    )
    found = gradient_of(model)
    assert expected.norm() > 1e-4
    assert (found - expected).norm() / expected.norm() < 1e-10
    assert pytest.approx(J, rel=1e-10) == pushed.J


def test_every_objective_is_here():
    assert {built.split(",")[0].split(" ")[0] for built in OBJECTIVES} == set(ZOO)


@pytest.mark.parametrize("name", HINGED)
def test_the_hinge_bites_in_these_steps(name):
    """The step's KL is above delta: without the hinge the gradient would be another."""
    (held, _), (bare, _) = whole_of(name), whole(tiny_model(), replace(built_as(name), trust=None), minibatch())
    assert (held - bare).norm() > 0.1 * held.norm()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_fresh_update_needs_no_first_pass(name, monkeypatch):
    """At theta = theta_old the old log-probs are the scores: same gradient, and no forward without grad."""
    built, model = built_as(name), tiny_model()
    logprobs = LogProbs(model)
    batch, _ = collate(ragged(), Passes(logprobs, 64), reference=Passes(LogProbs(tiny_model(2)), 64))
    results = []
    for fresh in (False, True):
        model.zero_grad()
        if fresh:
            monkeypatch.setattr(LogProbs, "without_grad", None)
        pushed = accumulate(Passes(logprobs, 64), built, batch, drawn(built, batch), built.start(), fresh=fresh)
        results.append((gradient_of(model), pushed.credit_QKT, torch.tensor(pushed.J, dtype=torch.float64)))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-12)
    assert results[0][0].norm() > 1e-4


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_objectives_that_couple_rollouts_pay_for_a_first_pass(name, monkeypatch):
    """The others see every rollout once: with a gradient, or without where it can have no credit."""
    passes = []
    original = LogProbs.without_grad
    logprobs, built = LogProbs(tiny_model()), built_as(name)
    batch = minibatch()
    monkeypatch.setattr(
        LogProbs, "without_grad", lambda self, rows, **kw: passes.append(len(rows)) or original(self, rows, **kw)
    )
    plan = drawn(built, batch)
    accumulate(Cut(logprobs), built, batch, plan, built.start(), fresh=False)
    without_side = 0 if built.trust else int((plan.side_QK == 0).sum())
    assert sum(passes) == (without_side if name in NO_FIRST_PASS else 32)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "conspo", "rence, no KL, constant margin, correct"])
def test_rollouts_without_credit_are_spared_the_gradient_pass(name, monkeypatch):
    """Their log-probs are known all the same, and the gradient is that of all rollouts."""
    built, model = built_as(name), tiny_model()
    logprobs, batch = LogProbs(model), minibatch()
    dead = replace(batch, batch=replace(batch.batch, reward_QK=batch.batch.reward_QK.clone()))
    dead.batch.reward_QK[0] = 1.0
    dead = replace(dead, batch=replace(dead.batch, correct_QK=dead.batch.reward_QK >= 1))
    plan, seen = drawn(built, dead), []
    original = LogProbs.states
    monkeypatch.setattr(
        LogProbs, "states", lambda self, rows: seen.append((len(rows), torch.is_grad_enabled())) or original(self, rows)
    )
    pushed = accumulate(Cut(logprobs), built, dead, plan, built.start(), fresh=False)
    without = (plan.side_QK == 0) if name in NO_FIRST_PASS else (pushed.credit_QKT == 0).all(-1)
    spared = int(without.sum())
    assert (pushed.credit_QKT[without] == 0).all()
    assert spared >= 8
    assert sum(rows for rows, grad in seen if grad) == 32 - spared
    torch.testing.assert_close(
        pushed.logp_QKT.flatten(0, 1),
        original(logprobs, dead.rows).dense(original(logprobs, dead.rows).logp()[0]),
        rtol=1e-6,
        atol=1e-6,
    )


def test_an_update_without_any_credit_is_an_update():
    """The optimizer's moments go on as they do after any gradient of zero."""
    built, model = objective("grpo"), tiny_model()
    batch = minibatch()
    batch = replace(batch, batch=replace(batch.batch, reward_QK=torch.ones_like(batch.batch.reward_QK)))
    accumulate(Cut(LogProbs(model)), built, batch, drawn(built, batch), built.start(), fresh=False)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_token_weight_scales_the_credit():
    """Truncated importance sampling: min(pi_old under the trainer / under the engine, cap)."""
    logprobs, built = LogProbs(tiny_model()), objective("grpo")
    plain, _ = collate(ragged(), Passes(logprobs, 64))
    weighed, _ = collate(ragged(), Passes(logprobs, 64), is_cap=0.5)
    assert weighed.token_weight_QKT is not None
    expected = plain.batch.old_logp_QKT.exp().clamp(max=0.5)  # the scripted engine's log-probs are 0
    torch.testing.assert_close(weighed.token_weight_QKT, expected)
    pushed = [
        accumulate(Cut(logprobs), built, b, built.plan(b.batch), built.start(), fresh=fresh).credit_QKT
        for b, fresh in ((plain, True), (weighed, True), (weighed, False))
    ]
    torch.testing.assert_close(pushed[1], pushed[0] * expected)
    torch.testing.assert_close(pushed[2], pushed[0] * expected)


def test_masked_truncated_rollouts_get_no_credit():
    cut = ragged()
    cut = [Group(g.prompt, tuple(Rollout(r.tokens, r.mask, r.logp, "", "length") for r in g.rollouts[:1])
                 + g.rollouts[1:], g.verdicts) for g in cut]  # fmt: skip
    logprobs, built = LogProbs(tiny_model()), objective("conspo")
    batch, _ = collate(cut, Passes(logprobs, 64), mask_truncated=True)
    assert batch.batch.mask_QKT[:, 0].sum() == 0
    assert batch.batch.mask_QKT[:, 1:].sum() > 0
    plan = built.plan(batch.batch)
    pushed = accumulate(Cut(logprobs), built, batch, plan, built.start(), fresh=True)
    assert pushed.credit_QKT[:, 0].abs().max() == 0


def test_micro_batches_hold_every_row_once_within_the_budget():
    rng = random.Random(0)
    rows = [Row((1,) * rng.randint(1, 9), (2,) * rng.randint(0, 30)) for _ in range(100)]
    batches = Passes(LogProbs(tiny_model()), 64).deal(rows)
    assert sorted(i for b in batches for i in b) == list(range(100))
    assert all(len(b) == 1 or len(b) * max(rows[i].length for i in b) <= 64 for b in batches)


def test_minibatches_are_whole_groups_in_order():
    batch, _ = collate(ragged(5), Passes(LogProbs(tiny_model()), 64))
    parts = batch.split(2)
    assert [g.prompt.id for p in parts for g in p.groups] == [f"p{q}" for q in range(5)]
    assert [len(p.rows) for p in parts] == [8 * len(p.groups) for p in parts]
    torch.testing.assert_close(torch.cat([p.batch.old_logp_QKT for p in parts]), batch.batch.old_logp_QKT)
    assert len(batch.split(9)) == 5
