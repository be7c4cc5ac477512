"""Which objectives, at which settings, go through which tests; and how a step is handed to contrapose."""

import torch
from textbook.step import D, groups, moves, prompts, rollouts

import contrapose

EVERY_KIND = {
    "rence": ("rence", {"beta": 1.0, "kl_coef": 0.5}),
    "rence softmax": ("rence", {"contrast": "softmax", "kl_coef": 0.5, "kl_aggregate": "sequence_sum"}),
    "rence all pairs": ("rence", {"contrast": "all_pairs", "kl_coef": 0.5, "kl_aggregate": "sequence"}),
    "conspo": ("conspo", {"tau": 0.5, "M": 0.2, "progress": 0.2}),
    "conspo linear": ("conspo", {"contrast": "linear"}),
    "conspo linear clipped_ratio": ("conspo", {"contrast": "linear", "score": "clipped_ratio"}),
    "conspo clipped_ratio": ("conspo", {"tau": 0.5, "score": "clipped_ratio"}),
    "disco": ("disco", {"tau": 0.5, "delta": 0.01, "hinge": 5.0}),
    "disco ratio": ("disco", {"score": "ratio", "tau": 0.5, "delta": 0.0, "hinge": 3.0}),
    "disco_b": ("disco_b", {"delta": 0.01, "hinge": 5.0}),
    "disco_b ratio": ("disco_b", {"score": "ratio", "delta": 0.0, "hinge": 3.0}),
    "dpo": ("dpo", {"beta": 1.0}),
    "dpo initial": ("dpo", {"beta": 1.0, "reference": "initial"}),
    "grpo": ("grpo", {"dual_clip": 1.5}),
    "grpo reference": ("grpo", {"reference_coef": 0.5}),
    "dapo": ("dapo", {"dual_clip": 1.5}),
    "dapo token_mean_group": ("dapo", {"aggregate": "token_mean_group"}),
    "dr_grpo": ("dr_grpo", {"length": 3.0, "dual_clip": 1.5}),
    "gspo": ("gspo", {"clip_low": 0.2, "clip_high": 0.1}),
    "gmpo": ("gmpo", {"clip_low": 0.3, "clip_high": 0.2}),
    "cispo": ("cispo", {"cap": 1.2}),
    "sapo": ("sapo", {"tau_positive": 2.0, "tau_negative": 3.0}),
    "rloo": ("rloo", {}),
    "reinforce": ("reinforce", {}),
}
"""``(name, hyper-parameters and state)``: one of each kind, with every factor strong enough to show."""

PER_ROLLOUT = [
    "conspo linear",
    "conspo linear clipped_ratio",
    "grpo",
    "grpo reference",
    "dapo",
    "dapo token_mean_group",
    "dr_grpo",
    "gspo",
    "gmpo",
    "cispo",
    "sapo",
    "rloo",
    "reinforce",
]
"""The kinds whose credit asks no other rollout for its log-probs."""

WITH_HINGE = ["disco", "disco ratio", "disco_b", "disco_b ratio"]

CONTRASTS = {
    "rence": ("rence", {"trust": None}),
    "rence softmax": ("rence", {"trust": None, "contrast": "softmax"}),
    "rence all pairs": ("rence", {"trust": None, "contrast": "all_pairs"}),
    "rence random pair": ("rence", {"trust": None, "contrast": "random_pair"}),
    "conspo": ("conspo", {}),
    "conspo linear": ("conspo", {"contrast": "linear", "margin": None}),
    "conspo linear clipped_ratio": ("conspo", {"contrast": "linear", "score": "clipped_ratio"}),
    "conspo clipped_ratio": ("conspo", {"score": "clipped_ratio"}),
    "disco": ("disco", {"hinge": 0.0}),
    "disco ratio": ("disco", {"hinge": 0.0, "score": "ratio"}),
    "disco_b": ("disco_b", {"hinge": 0.0}),
    "disco_b ratio": ("disco_b", {"hinge": 0.0, "score": "ratio"}),
    "dpo": ("dpo", {}),
    "dpo initial": ("dpo", {"reference": "initial"}),
    "dpo random pair": ("dpo", {"contrast": "random_pair"}),
    "grpo": ("grpo", {}),
    "dapo": ("dapo", {}),
    "dapo token_mean_group": ("dapo", {"aggregate": "token_mean_group"}),
    "dr_grpo": ("dr_grpo", {"length": 3.0}),
    "gspo": ("gspo", {"clip_low": 1.0, "clip_high": 9.0}),
    "gmpo": ("gmpo", {}),
    "cispo": ("cispo", {}),
    "sapo": ("sapo", {}),
    "rloo": ("rloo", {}),
}
"""Without trust regions: every objective that pushes rollouts of one group against each other (REINFORCE does not)."""

RANDOM = ["rence random pair", "dpo random pair"]
LINEAR = [case for case in CONTRASTS if case in PER_ROLLOUT]
SIDED = [case for case in CONTRASTS if case not in PER_ROLLOUT]
"""Contrasts of two sides: a rollout without a score is on neither. Linear ones weigh every rollout by its advantage."""

OVER_ALL_TOKENS = ["dapo", "cispo"]
"""The contrasts whose denominator is the tokens of the step, not its groups or rollouts."""

AT_DEFAULTS = {name: {"length": 3.0} if name == "dr_grpo" else {} for name in contrapose.objectives()}

POSITIVES_FIRST = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=D)
SCORES = torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=D)


def reads_reference(arguments):
    return "reference_coef" in arguments or arguments.get("reference") == "initial"


def seeded(case, seed=0):
    """The generator of a case that draws, fresh at each call."""
    return {"generator": torch.Generator().manual_seed(seed)} if case in RANDOM else {}


def batch_of(step):
    return contrapose.Batch(
        old_logp_QKT=step["old_logp"],
        mask_QKT=step["mask"],
        reward_QK=step["reward"],
        correct_QK=step["correct"],
        present_QK=step["present"],
        reference_logp_QKT=step["reference_logp"],
    )


def totals_of(step):
    """The counts and the sum of log-ratios of the whole step, for a call that holds only a part of it."""
    d = [d for q, here in groups(step) for k in here for _, d in moves(step, q, k)]
    return contrapose.Totals(prompts=prompts(step), rollouts=rollouts(step), tokens=len(d), log_ratio=sum(d))


def plan_of(objective, step, **kw):
    return objective.plan(batch_of(step), **kw)


def one_token(scores, **kw):
    """Credits of rollouts of one token whose log-ratio or log-likelihood is the score itself."""
    name = kw.pop("name", "rence")
    if name == "rence":
        kw = {"beta": 1.0, "trust": None, "old_logp": torch.zeros_like(scores).unsqueeze(-1), **kw}
    kw.setdefault("reward", POSITIVES_FIRST)
    arguments = (name, scores.unsqueeze(-1))
    return contrapose.value(*arguments, **kw).item(), contrapose.credit(*arguments, **kw).squeeze(-1)[0]


def both(name, logp, step, arguments):
    """``(J, credit)``"""
    credit = contrapose.credit(name, logp, **step, **arguments)
    return contrapose.value(name, logp, **step, **arguments).item(), credit
