"""Right against wrong: ReNCE, ConSPO, DisCO, DPO."""

import math
from itertools import product
from statistics import fmean

from textbook.step import LIMIT, exp_of, groups, k3_of, logps, moves, prompts, reward, rollouts, sides, tokens, zeros


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
    def gap(q, here, j):
        r_max = max(reward(step, q, k) for k in here)
        return {"reward_gap": alpha * (r_max - reward(step, q, j)), "constant": alpha, None: 0.0}[margin]

    against = {"nce": info_nce, "softmax": softmax, "all_pairs": all_pairs}[contrast]
    J, w = contrasted(step, positives, log_ratios(beta), against, on_negatives=gap)
    if kl_coef:
        J -= kl_coef * subtract_kl_to_old(step, w, kl_coef, kl_aggregate)
    return J, w


def conspo(
    step, *, tau=10.0, M=0.01, warmup=0.3, margin="cosine", contrast="nce", score="log_prob", epsilon=0.2, progress=0.0
):
    likes = {"log_prob": mean_log_prob, "clipped_ratio": mean_clipped_ratio(epsilon)}[score]
    if contrast == "linear":
        return conspo_linear(step, likes)
    m = {"cosine": M / 2 * (1 - math.cos(math.pi * min(progress / warmup, 1.0))), "constant": M, None: 0.0}[margin]
    return contrasted(step, "correct", likes, at_temperature(info_nce, tau), on_positives=-m)


def conspo_linear(step, likes):
    """sqrt(p (1 - p)) (mean of s+ - mean of s-), rollouts weighing alike over the whole step."""
    J, w = 0.0, zeros(step)
    for q, here in groups(step):
        pos = [k for k in here if step["correct"][q, k]]
        neg = [k for k in here if not step["correct"][q, k]]
        p = len(pos) / len(here)
        for side, among in ((+1, pos), (-1, neg)):
            for k in among:
                c = side * math.sqrt(p * (1 - p)) / len(among) * len(here) / rollouts(step)
                for t, value, slope in likes(step, q, k, side):
                    J += c * value
                    w[q][k][t] += c * slope
    return J, w


def disco(step, *, score="log_prob", tau=None, delta=1e-4, hinge=1e3):
    likes = {"log_prob": mean_log_prob, "ratio": mean_ratio}[score]
    tau = {"log_prob": 10.0, "ratio": 1.0}[score] if tau is None else tau
    J, w = contrasted(step, "correct", likes, at_temperature(hardest_negatives, tau))
    return J - subtract_hinge(step, w, delta, hinge), w


def disco_b(step, *, score="log_prob", delta=1e-4, hinge=1e3):
    likes = {"log_prob": mean_log_prob, "ratio": mean_ratio}[score]
    J, w = contrasted(step, "correct", likes, mean_difference)
    return J - subtract_hinge(step, w, delta, hinge), w


def dpo(step, *, beta=0.1, reference="old"):
    since = {"old": "old_logp", "initial": "reference_logp"}[reference]
    return contrasted(step, "correct", log_ratios(beta, since), all_pairs)


def contrasted(step, positives, likes, against, on_positives=0.0, on_negatives=lambda q, here, j: 0.0):
    """The mean over groups of a contrast of scores, and its derivative in each token by the chain rule."""
    J, w = 0.0, zeros(step)
    for q, here in groups(step):
        pos, neg = sides(step, q, here, positives)
        if not pos or not neg:
            continue
        terms = {k: likes(step, q, k, +1 if k in pos else -1) for k in pos + neg}
        s = {k: sum(value for _, value, _ in terms[k]) for k in pos + neg}
        s |= {i: s[i] + on_positives for i in pos}
        s |= {j: s[j] + on_negatives(q, here, j) for j in neg}
        J_q, c = against(s, pos, neg)
        J += J_q / prompts(step)
        for k in pos + neg:
            for t, _, slope in terms[k]:
                w[q][k][t] += c[k] * slope / prompts(step)
    return J, w


# A score: (t, what the token adds, its derivative in l) for each response token.


def log_ratios(beta, since="old_logp"):
    return lambda step, q, k, side: [(t, beta * d, beta) for t, d in moves(step, q, k, since)]


def mean_log_prob(step, q, k, side):
    here = moves(step, q, k)
    return [(t, logp / len(here), 1 / len(here)) for (t, _), logp in zip(here, logps(step, q, k), strict=True)]


def mean_ratio(step, q, k, side):
    here = moves(step, q, k)
    return [(t, exp_of(d)[0] / len(here), exp_of(d)[1] / len(here)) for t, d in here]


def mean_clipped_ratio(epsilon):
    def likes(step, q, k, side):
        terms = []
        for t, value, slope in mean_ratio(step, q, k, side):
            edge = (1 + side * epsilon) / len(moves(step, q, k))
            terms.append((t, edge, 0.0) if (value - edge) * side > 0 else (t, value, slope))
        return terms

    return likes


# A contrast: scores by rollout, positives, negatives -> (J, c).


def at_temperature(against, T):
    return lambda s, pos, neg: against(s, pos, neg, T)


def info_nce(s, pos, neg, T=1.0):
    """Mean over positives of T log P_i, each positive against all negatives, pair by pair."""
    J, c = 0.0, dict.fromkeys(s, 0.0)
    for i in pos:
        total = log_sum(s[k] / T for k in [i, *neg])
        J += T * (s[i] / T - total) / len(pos)
        for j in neg:
            share = math.exp(s[j] / T - total)
            c[i] += share / len(pos)
            c[j] -= share / len(pos)
    return J, c


def gate_and_distribution(a, pos, neg, T=1.0):
    """The same credit in O(K): a gate on each positive, one distribution over negatives. ``a`` are logits."""
    Z = log_sum(a[j] for j in neg)
    gate = {i: sigmoid(Z - a[i]) for i in pos}
    J = -T * fmean(softplus(Z - a[i]) for i in pos)
    c = {i: gate[i] / len(pos) for i in pos}
    c |= {j: -math.exp(a[j] - Z) * fmean(gate.values()) for j in neg}
    return J, c


def hardest_negatives(s, pos, neg, T=1.0):
    """Mean of the positives against T times the log of the mean of e^(s/T) over the negatives."""
    Z = log_sum(s[j] / T for j in neg)
    J = fmean(s[i] for i in pos) - T * (Z - math.log(len(neg)))
    return J, {k: 1 / len(pos) if k in pos else -math.exp(s[k] / T - Z) for k in pos + neg}


def mean_difference(s, pos, neg):
    J = fmean(s[i] for i in pos) - fmean(s[j] for j in neg)
    return J, {k: 1 / len(pos) if k in pos else -1 / len(neg) for k in pos + neg}


def softmax(s, pos, neg):
    total = log_sum(s[k] for k in pos + neg)
    J = fmean(s[i] for i in pos) - total
    return J, {k: (1 / len(pos) if k in pos else 0.0) - math.exp(s[k] - total) for k in pos + neg}


def all_pairs(s, pos, neg):
    J, c = 0.0, dict.fromkeys(s, 0.0)
    share = 1 / (len(pos) * len(neg))
    for i, j in product(pos, neg):
        J -= share * softplus(s[j] - s[i])
        c[i] += share * sigmoid(s[j] - s[i])
        c[j] -= share * sigmoid(s[j] - s[i])
    return J, c


# A trust region: its credit is subtracted from w, its value returned.


def subtract_kl_to_old(step, w, coef, aggregate):
    """Subtract the credit of ``coef`` KL(old || new) from ``w`` and return the KL."""
    kl, n = 0.0, tokens(step) if aggregate == "token_mean" else rollouts(step)
    for q, here in groups(step):
        for k in here:
            D = sum(d for _, d in moves(step, q, k))
            held = min(max(D, -LIMIT), 10.0)
            sequence, slope = k3_of(held)[0], k3_of(held)[1] if held == D else 0.0
            if aggregate == "sequence":
                kl += sequence / rollouts(step)
            for t, d in moves(step, q, k):
                if aggregate == "sequence":
                    w[q][k][t] -= coef * slope / rollouts(step)
                else:
                    kl += k3_of(d)[0] / n
                    w[q][k][t] -= coef * k3_of(d)[1] / n
    return kl


def subtract_hinge(step, w, delta, hinge):
    """(hinge/2) [KL - delta]_+^2, KL the mean of -d over every token of the step."""
    everyone = [(q, k, t, d) for q, here in groups(step) for k in here for t, d in moves(step, q, k)]
    kl = fmean(-d for *_, d in everyone) if everyone else 0.0
    excess = max(kl - delta, 0.0)
    for q, k, t, _ in everyone:
        w[q][k][t] -= hinge * excess * -1 / len(everyone)
    return hinge / 2 * excess**2


def log_sum(logits):
    """The log of the sum of exponentials."""
    logits = list(logits)
    return max(logits) + math.log(sum(math.exp(a - max(logits)) for a in logits))


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
