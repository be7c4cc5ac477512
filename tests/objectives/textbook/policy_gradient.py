"""Advantage times score: REINFORCE, RLOO, GRPO and its kin.

J is a sum over rollouts of share times A times score. ``share`` holds every denominator; a score takes ``(l, d)`` of a
rollout's tokens and its advantage, and gives ``(its value, its derivative in each l)``.
"""

import math
from statistics import fmean, pstdev, stdev

from textbook.step import LIMIT, SAME, exp_of, groups, k3_of, logps, moves, prompts, reward, rollouts, tokens, zeros


def reinforce(step):
    return advantage_times_score(step, list, log_probs, of_rollouts)


def rloo(step):
    return advantage_times_score(step, above_the_others, log_probs, of_rollouts)


def grpo(step, *, clip_low=0.2, clip_high=0.2, reference_coef=0.0, std_ddof=1, std_eps=1e-6, dual_clip=None):
    clip = clipped(clip_low, clip_high, dual_clip)
    J, w = advantage_times_score(step, zscore(std_ddof, std_eps), clip, of_a_rollouts_tokens)
    if reference_coef:
        for q, here in groups(step):
            for k in here:
                for t, up in moves(step, q, k, since="reference_logp"):
                    kl, slope = k3_of(-up)
                    part = reference_coef * of_a_rollouts_tokens(step, q, k)
                    J -= part * kl
                    w[q][k][t] -= part * -slope
    return J, w


def dapo(step, *, clip_low=0.2, clip_high=0.28, aggregate="token_mean", std_ddof=1, std_eps=1e-6, dual_clip=None):
    share = {"token_mean": of_all_tokens, "token_mean_group": of_a_groups_tokens}[aggregate]
    return advantage_times_score(step, zscore(std_ddof, std_eps), clipped(clip_low, clip_high, dual_clip), share)


def dr_grpo(step, *, length, clip_low=0.2, clip_high=0.2, dual_clip=None):
    def share(step, q, k):
        return 1 / (rollouts(step) * length)

    return advantage_times_score(step, above_the_mean, clipped(clip_low, clip_high, dual_clip), share)


def gspo(step, *, clip_low=3e-4, clip_high=4e-4, std_ddof=1, std_eps=1e-6):
    def geometric_mean(rows, A):
        g, slope = exp_of(fmean(d for _, d in rows))
        edge = 1 + clip_high if A > 0 else 1 - clip_low
        if (g > edge) == (A > 0):
            g, slope = edge, 0.0
        return g, [slope / len(rows)] * len(rows)

    return advantage_times_score(step, zscore(std_ddof, std_eps), geometric_mean, of_rollouts)


def gmpo(step, *, clip_low=0.4, clip_high=0.4, std_ddof=1, std_eps=1e-6):
    def geometric_mean(rows, A):
        lowest, highest = (-LIMIT, clip_high) if A > 0 else (-clip_low, LIMIT)
        held = [min(max(d, lowest), highest) for _, d in rows]
        g = math.exp(fmean(held))
        return g, [g / len(rows) if d == h else 0.0 for (_, d), h in zip(rows, held, strict=True)]

    return advantage_times_score(step, zscore(std_ddof, std_eps), geometric_mean, of_rollouts)


def cispo(step, *, cap=5.0, std_ddof=1, std_eps=1e-6):
    def weighted_log_probs(rows, A):
        weights = [min(exp_of(d)[0], cap) for _, d in rows]
        return sum(x * logp for x, (logp, _) in zip(weights, rows, strict=True)), weights

    return advantage_times_score(step, zscore(std_ddof, std_eps), weighted_log_probs, of_all_tokens)


def sapo(step, *, tau_positive=1.0, tau_negative=1.05, std_ddof=1, std_eps=1e-6):
    def soft_gates(rows, A):
        tau = tau_positive if A > 0 else tau_negative
        value, slopes = 0.0, []
        for _, d in rows:
            rho, slope = exp_of(d)
            value += 4 / tau / (1 + math.exp(-tau * (rho - 1)))
            slopes.append(slope / math.cosh(min(tau * (rho - 1) / 2, 300.0)) ** 2)  # 4 h (1 - h)
        return value, slopes

    return advantage_times_score(step, zscore(std_ddof, std_eps), soft_gates, of_a_rollouts_tokens)


def advantage_times_score(step, advantages, score, share):
    J, w = 0.0, zeros(step)
    for q, here in groups(step):
        A_of = dict(zip(here, advantages([reward(step, q, k) for k in here]), strict=True))
        for k in here:
            at = [t for t, _ in moves(step, q, k)]
            rows = list(zip(logps(step, q, k), [d for _, d in moves(step, q, k)], strict=True))
            if not rows:
                continue
            value, slopes = score(rows, A_of[k])
            part = share(step, q, k) * A_of[k]
            J += part * value
            for t, slope in zip(at, slopes, strict=True):
                w[q][k][t] += part * slope
    return J, w


# Advantages of a group's rewards.


def zscore(ddof, eps):
    def advantages(r):
        if max(r) - min(r) <= SAME:
            return [0.0] * len(r)
        return [(x - fmean(r)) / ((stdev(r) if ddof else pstdev(r)) + eps) for x in r]

    return advantages


def above_the_mean(r):
    return [x - fmean(r) for x in r] if max(r) - min(r) > SAME else [0.0] * len(r)


def above_the_others(r):
    if max(r) - min(r) <= SAME:
        return [0.0] * len(r)
    return [x - fmean(r[:k] + r[k + 1 :]) for k, x in enumerate(r)]


# Shares: what a rollout's score is divided by.


def of_rollouts(step, q, k):
    return 1 / rollouts(step)


def of_a_rollouts_tokens(step, q, k):
    return 1 / (rollouts(step) * len(moves(step, q, k)))


def of_all_tokens(step, q, k):
    return 1 / tokens(step)


def of_a_groups_tokens(step, q, k):
    here = dict(groups(step))[q]
    return 1 / (prompts(step) * sum(len(moves(step, q, i)) for i in here))


# Scores.


def log_probs(rows, A):
    return sum(logp for logp, _ in rows), [1.0] * len(rows)


def clipped(low, high, dual):
    """min(rho A, clip(rho, 1 - low, 1 + high) A) / A; and below 0 max(that, dual A) / A."""

    def score(rows, A):
        value, slopes = 0.0, []
        for _, d in rows:
            rho, slope = exp_of(d)
            held = min(max(rho, 1 - low), 1 + high)
            if held * A < rho * A:
                rho, slope = held, 0.0
            if A < 0 and dual is not None and rho * A < dual * A:
                rho, slope = dual, 0.0
            value += rho
            slopes.append(slope)
        return value, slopes

    return score
