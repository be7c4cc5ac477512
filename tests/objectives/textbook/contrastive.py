"""The papers' closed-form credits, written out with loops over plain floats.

A *step* is a dict of the arguments of ``contrapose.credit``: ``logp``, ``old_logp``, ``reference_logp`` and
``mask`` are ``[Q, K, T]``, ``reward``, ``correct`` and ``present`` are ``[Q, K]``. Every function returns
``(J, credit)``, the credit as a nested list. Nothing of contrapose is imported here.

Letters: ``l`` a log-prob, ``d = l - l_old``, ``rho = e^d``, ``i`` a positive, ``j`` a negative, ``c`` a rollout's
credit dJ/ds, ``w`` a token's.
"""

import math
from itertools import product
from statistics import fmean, pstdev, stdev

import torch

SAME = 1e-6

EVERY_KIND = {
    "rence": ("rence", {"beta": 1.0, "kl_coef": 0.5}),
    "rence softmax": ("rence", {"contrast": "softmax", "kl_coef": 0.5, "kl_aggregate": "sequence_sum"}),
    "rence all pairs": ("rence", {"contrast": "all_pairs", "kl_coef": 0.5, "kl_aggregate": "sequence"}),
    "conspo": ("conspo", {"tau": 0.5, "M": 0.2, "progress": 0.2}),
    "conspo linear": ("conspo", {"contrast": "linear"}),
    "conspo clipped_ratio": ("conspo", {"tau": 0.5, "score": "clipped_ratio"}),
    "grpo": ("grpo", {"dual_clip": 1.5}),
    "grpo reference": ("grpo", {"reference_coef": 0.5}),
}
"""``(name, hyper-parameters and state)``: one of each kind, with every factor strong enough to show."""


def ragged(seed, Q=3, K=4, T=5, std=0.35, absent=0.15, empty=0.1):
    """A random step: ragged lengths, some of them 0, holes in the mask, tied rewards, dead and absent rows."""
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(1, T + 1, (Q, K), generator=g)
    length[torch.rand(Q, K, generator=g) < empty] = 0
    reward = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)[torch.randint(3, (Q, K), generator=g)]
    return step_of(length, reward, torch.rand(Q, K, generator=g) >= absent, seed, T, std)


def step_of(length, reward, present, seed, T, std=0.35):
    """A step with random log-probs; masked positions hold NaN, absent rollouts an absurd reward."""
    g = torch.Generator().manual_seed(seed + 1)
    shape = (*length.shape, T)
    inside = torch.arange(T) < length.unsqueeze(-1)
    first = torch.arange(T) == 0
    mask = inside & (first | (torch.rand(shape, generator=g) < 0.85)) & present.unsqueeze(-1)
    old = -2 * torch.rand(shape, generator=g, dtype=torch.float64)
    moved, apart = std * torch.randn(2, *shape, generator=g, dtype=torch.float64)
    new = old + torch.where(moved.abs() < 0.02, 0.0, moved)  # some tokens did not move at all
    return {
        "logp": new.masked_fill(~mask, math.nan),
        "old_logp": old.masked_fill(~mask, math.nan),
        "reference_logp": (new + torch.where(apart.abs() < 0.02, 0.0, apart)).masked_fill(~mask, math.nan),
        "mask": mask.double(),
        "reward": torch.where(present, reward, 7.0),
        "correct": torch.where(present, reward == 1.0, True),
        "present": present,
    }


def rence(
    step,
    *,
    beta=0.1,
    alpha=0.5,
    positives="best",
    margin="reward_gap",
    contrast="nce",
    kl_coef=0.0,
    kl_aggregate="token_mean",
):
    J, w = 0.0, zeros(step)
    for q, here in groups(step):
        pos, neg = sides(step, q, here, positives)
        if not pos or not neg:
            continue
        r_max = max(reward(step, q, k) for k in here)
        s = {k: beta * sum(d for _, d in moves(step, q, k)) for k in pos + neg}
        for j in neg:
            s[j] += {"reward_gap": alpha * (r_max - reward(step, q, j)), "constant": alpha, None: 0.0}[margin]
        J_q, c = {"nce": info_nce, "softmax": softmax, "all_pairs": all_pairs}[contrast](s, pos, neg)
        J += J_q / prompts(step)
        for k in pos + neg:
            for t, _ in moves(step, q, k):
                w[q][k][t] += beta * c[k] / prompts(step)
    if kl_coef:
        J -= kl_coef * subtract_kl_to_old(step, w, kl_coef, kl_aggregate)
    return J, w


def conspo(
    step, *, tau=10.0, M=0.01, warmup=0.3, margin="cosine", contrast="nce", score="log_prob", epsilon=0.2, progress=0.0
):
    if contrast == "linear":
        return conspo_linear(step, score, epsilon)
    m = {"cosine": M / 2 * (1 - math.cos(math.pi * min(progress / warmup, 1.0))), "constant": M, None: 0.0}[margin]
    J, w = 0.0, zeros(step)
    for q, here in groups(step):
        pos, neg = sides(step, q, here, "correct")
        if not pos or not neg:
            continue
        terms = {k: score_terms(step, q, k, score, epsilon, +1 if k in pos else -1) for k in pos + neg}
        s = {k: sum(value for _, value, _ in terms[k]) - (m if k in pos else 0.0) for k in pos + neg}
        J_q, c = info_nce(s, pos, neg, tau)
        J += J_q / prompts(step)
        for k in pos + neg:
            for t, _, slope in terms[k]:
                w[q][k][t] += c[k] * slope / prompts(step)
    return J, w


def conspo_linear(step, score, epsilon):
    """sqrt(p (1 - p)) (mean of s+ - mean of s-), rollouts weighing alike over the whole step."""
    J, w = 0.0, zeros(step)
    for q, here in groups(step):
        pos = [k for k in here if step["correct"][q, k]]
        neg = [k for k in here if not step["correct"][q, k]]
        p = len(pos) / len(here)
        for side, among in ((+1, pos), (-1, neg)):
            for k in among:
                c = side * math.sqrt(p * (1 - p)) / len(among) * len(here) / rollouts(step)
                for t, value, slope in score_terms(step, q, k, score, epsilon, side):
                    J += c * value
                    w[q][k][t] += c * slope
    return J, w


def grpo(step, *, clip_low=0.2, clip_high=0.2, reference_coef=0.0, std_ddof=1, std_eps=1e-6, dual_clip=None):
    J, w = 0.0, zeros(step)
    for q, here in groups(step):
        r = [reward(step, q, k) for k in here]
        for k in here:
            A = 0.0
            if max(r) - min(r) > SAME:
                A = (reward(step, q, k) - fmean(r)) / ((stdev(r) if std_ddof else pstdev(r)) + std_eps)
            tokens = moves(step, q, k)
            for t, d in tokens:
                rho = math.exp(d)
                share = 1 / (rollouts(step) * len(tokens))
                clipped = min(max(rho, 1 - clip_low), 1 + clip_high)
                term, slope = (rho * A, rho * A) if rho * A <= clipped * A else (clipped * A, 0.0)
                if A < 0 and dual_clip is not None and term < dual_clip * A:
                    term, slope = dual_clip * A, 0.0
                J += share * term
                w[q][k][t] += share * slope
                if reference_coef:
                    up = float(step["reference_logp"][q, k, t] - step["logp"][q, k, t])
                    J -= share * reference_coef * (math.exp(up) - 1 - up)
                    w[q][k][t] -= share * reference_coef * (1 - math.exp(up))
    return J, w


def info_nce(s, pos, neg, T=1.0):
    """Mean over positives of T log P_i, each positive against all negatives, pair by pair."""
    J, c = 0.0, dict.fromkeys(s, 0.0)
    for i in pos:
        total = math.exp(s[i] / T) + sum(math.exp(s[j] / T) for j in neg)
        J += T * math.log(math.exp(s[i] / T) / total) / len(pos)
        for j in neg:
            share = math.exp(s[j] / T) / total
            c[i] += share / len(pos)
            c[j] -= share / len(pos)
    return J, c


def gate_and_distribution(a, pos, neg, T=1.0):
    """The same credit in O(K): a gate on each positive, one distribution over negatives. ``a`` are logits."""
    Z = math.log(sum(math.exp(a[j]) for j in neg))
    gate = {i: 1 / (1 + math.exp(a[i] - Z)) for i in pos}
    J = -T * fmean(math.log1p(math.exp(Z - a[i])) for i in pos)
    c = {i: gate[i] / len(pos) for i in pos}
    c |= {j: -math.exp(a[j] - Z) * fmean(gate.values()) for j in neg}
    return J, c


def softmax(s, pos, neg):
    total = sum(math.exp(s[k]) for k in pos + neg)
    J = fmean(s[i] for i in pos) - math.log(total)
    return J, {k: (1 / len(pos) if k in pos else 0.0) - math.exp(s[k]) / total for k in pos + neg}


def all_pairs(s, pos, neg):
    J, c = 0.0, dict.fromkeys(s, 0.0)
    share = 1 / (len(pos) * len(neg))
    for i, j in product(pos, neg):
        J -= share * math.log1p(math.exp(s[j] - s[i]))
        surprise = 1 / (1 + math.exp(s[i] - s[j]))
        c[i] += share * surprise
        c[j] -= share * surprise
    return J, c


def subtract_kl_to_old(step, w, coef, aggregate):
    """Subtract the credit of ``coef`` KL(old || new) from ``w`` and return the KL."""
    tokens = int(step["mask"].sum())
    kl = 0.0
    for q, here in groups(step):
        for k in here:
            D = sum(d for _, d in moves(step, q, k))
            if aggregate == "sequence":
                kl += (math.exp(D) - 1 - D) / rollouts(step)
            for t, d in moves(step, q, k):
                if aggregate == "sequence":
                    w[q][k][t] -= coef * (math.exp(D) - 1) / rollouts(step)
                else:
                    n = tokens if aggregate == "token_mean" else rollouts(step)
                    kl += (math.exp(d) - 1 - d) / n
                    w[q][k][t] -= coef * (math.exp(d) - 1) / n
    return kl


def score_terms(step, q, k, score, epsilon, side):
    """``(t, what the token adds to the score, its derivative in l)`` for each response token."""
    tokens = moves(step, q, k)
    terms = []
    for t, d in tokens:
        if score == "log_prob":
            value, slope = float(step["logp"][q, k, t]), 1.0
        elif side > 0:
            value, slope = (math.exp(d), math.exp(d)) if math.exp(d) < 1 + epsilon else (1 + epsilon, 0.0)
        else:
            value, slope = (math.exp(d), math.exp(d)) if math.exp(d) > 1 - epsilon else (1 - epsilon, 0.0)
        terms.append((t, value / len(tokens), slope / len(tokens)))
    return terms


def sides(step, q, here, positives):
    """Positives and negatives of group ``q``; empty completions are neither."""
    r_max = max(reward(step, q, k) for k in here)
    scored = [k for k in here if moves(step, q, k)]
    if positives == "best":
        pos = [k for k in scored if reward(step, q, k) >= r_max - SAME]
    else:
        pos = [k for k in scored if step["correct"][q, k]]
    return pos, [k for k in scored if k not in pos]


def groups(step):
    """``(q, its present rollouts)`` for each group that has any."""
    for q in range(len(step["reward"])):
        here = [k for k in range(step["reward"].shape[1]) if step["present"][q, k]]
        if here:
            yield q, here


def moves(step, q, k):
    """``(t, d)`` of each response token."""
    T = step["mask"].shape[2]
    return [(t, float(step["logp"][q, k, t] - step["old_logp"][q, k, t])) for t in range(T) if step["mask"][q, k, t]]


def reward(step, q, k):
    return float(step["reward"][q, k])


def prompts(step):
    return sum(1 for _ in groups(step))


def rollouts(step):
    return sum(len(here) for _, here in groups(step))


def zeros(step):
    Q, K, T = step["mask"].shape
    return [[[0.0] * T for _ in range(K)] for _ in range(Q)]
