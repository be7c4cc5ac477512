"""One mini-batch for verl's actor, the gradient it must have, and what a process of its own does with it."""

from dataclasses import dataclass, field
from typing import Any

import torch

from contrapose.objectives.credit import credit_of
from contrapose.objectives.zoo import objective
from contrapose.types import Batch
from models import tiny, tokenizer

Q, K, PROMPT, T = 4, 8, 6, 10
STEPS = 4
HYPERPARAMETERS = {"rence": {"kl_coef": 10.0}, "conspo": {"warmup": 0.9, "M": 0.5}, "grpo": {"reference_coef": 0.5}}


def save_model(folder):
    tiny("qwen3", initializer_range=0.15).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def batch():
    """Rows ``[Q * K]`` by group. The old policy is some way off."""
    g = torch.Generator().manual_seed(0)
    n = Q * K
    prompt, length = torch.randint(2, PROMPT + 1, (n, 1), generator=g), torch.randint(1, T + 1, (n, 1), generator=g)
    at = torch.arange(PROMPT + T)
    attention = ((at >= PROMPT - prompt) & (at < PROMPT + length)).long()
    ids = torch.randint(2, 64, (n, PROMPT + T), generator=g) * attention
    correct = torch.rand(n, generator=g) < 0.4
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
        "response_mask": attention[:, PROMPT:].clone(),
        "prompts": ids[:, :PROMPT],
        "responses": ids[:, PROMPT:],
        "noise": torch.randn(n, T, generator=g),
        "reward": torch.where(correct, 1.0, 0.1 * torch.randint(0, 2, (n,), generator=g)),
        "correct": correct,
        "group": torch.arange(Q).repeat_interleave(K),
    }


def logp_of(model, rows):
    out = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], position_ids=rows["position_ids"])
    logp = out.logits[:, PROMPT - 1 : -1].float().log_softmax(-1)
    return logp.gather(-1, rows["responses"].unsqueeze(-1)).squeeze(-1)


def with_old(folder, away=0.3):
    """The model, and the batch with ``old_log_probs``."""
    from transformers import AutoModelForCausalLM

    model, rows = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), batch()
    with torch.no_grad():
        rows["old_log_probs"] = logp_of(model, rows) + away * rows.pop("noise")
    return model, rows


def expected(folder, name, now, part=slice(None), weight=None, away=0.3, reference=None):
    """The gradient of -J of some rows by one backward pass through the library's own model, and J."""
    model, rows = with_old(folder, away)
    fold = {key: x[part].unflatten(0, (-1, K)) for key, x in rows.items()}
    built = objective(name, **HYPERPARAMETERS[name])
    plan = built.plan(
        Batch(
            old_logp_QKT=fold["old_log_probs"],
            mask_QKT=fold["response_mask"].float(),
            reward_QK=fold["reward"],
            correct_QK=fold["correct"],
            present_QK=torch.ones_like(fold["correct"]),
            reference_logp_QKT=None if reference is None else reference.unflatten(0, (-1, K)),
        )
    )
    logp_QKT = logp_of(model, rows)[part].unflatten(0, (-1, K))
    if weight is None:
        J = built(plan.masked(logp_QKT), plan, now)
        (-J).backward()
    else:
        credit_QKT, J = credit_of(built, logp_QKT.detach(), plan, now)
        (-(credit_QKT * weight.view_as(credit_QKT) * logp_QKT).sum()).backward()
    return {name: p.grad for name, p in model.named_parameters()}, float(J.detach())


@dataclass(frozen=True)
class Case:
    """How the rows reach the actor. ``order`` is by rank, rank after rank; ``size`` is that of a mini-batch, all ranks
    together; ``away`` how far the old policy is; ``at_old`` is said to the actor."""

    order: tuple[int, ...] = tuple(range(Q * K))
    size: int = 0
    micro: int = 4
    tokens: int = 0
    packed: bool = False
    jagged: bool = False
    away: float = 0.3
    at_old: bool = False
    more: dict[str, Any] = field(default_factory=dict)
