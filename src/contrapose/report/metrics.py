"""Every number of ``metrics.jsonl``, each name once, with its unit and meaning."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """What a number is measured in (empty where it is no number), and what it is."""

    unit: str
    meaning: str


STEP = {
    "step": Metric("steps", "steps done, from 1"),
    "reward_mean": Metric(
        "reward", "mean shaped reward of all rollouts drawn, before filtering (cancelled ones: see accuracy)"
    ),
    "accuracy": Metric(
        "share",
        "share correct of all rollouts drawn, before filtering; a cancelled one counts as its group's rest, which is "
        "too high",
    ),
    "drawn_groups": Metric("groups", "groups rolled out in this step"),
    "accepted_groups": Metric("groups", "groups trained on in this step"),
    "mixed_groups": Metric("share", "share of the groups drawn in this step whose rewards differ"),
    "rounds": Metric("draws", "draws it took to fill the batch"),
    "mastered_prompts": Metric("prompts", "prompts removed for good so far"),
    "generated_tokens": Metric("tokens", "response tokens of all rollouts drawn: kept + surplus + filtered"),
    "kept_tokens": Metric("tokens", "response tokens of the groups trained on"),
    "surplus_tokens": Metric(
        "tokens",
        "response tokens of groups that passed after the batch was full: dropped, and with filter.cache their prompts "
        "are rolled out anew",
    ),
    "filtered_tokens": Metric("tokens", "response tokens of the groups that were not trained on, by fate"),
    "cancelled_rollouts": Metric("rollouts", "rollouts cut short because their group was decided (filter.early_stop)"),
    "cancelled_tokens": Metric(
        "tokens", "response tokens spent on rollouts that were cut short (filter.early_stop), a part of filtered_tokens"
    ),
    "saved_tokens": Metric(
        "tokens",
        "tokens that rollouts which were cut short would have cost more, an estimate: the mean rest of the step's "
        "finished rollouts that grew longer, which is rather too high",
    ),
    "length_mean": Metric("tokens", "mean response length of all rollouts that finished"),
    "truncated": Metric("share", "share of all finished rollouts that reached the response limit"),
    "no_answer": Metric("share", "share of all finished rollouts without a boxed answer"),
    "unparsed": Metric("share", "share of all finished rollouts whose answer could not be read as mathematics"),
    "verifier_faults": Metric(
        "share",
        "share of all finished rollouts that could not be graded within limits (too_long, timeout, memory, crashed): "
        "worth a wrong answer",
    ),
    "verdicts": Metric("rollouts", "how many finished rollouts had each verdict status"),
    "engine_drift": Metric(
        "nats",
        "mean gap between the engine's and the trainer's log-probs before the first update: over the tokens trained "
        "on, or where the engine's are the old ones (float32) those that the first update pushes, if any",
    ),
    "alarms": Metric("", "what a person should look at, a line each"),
    "entropy": Metric(
        "nats",
        "mean entropy of pi_old on the response tokens trained on; where the engine's log-probs are the old ones, as "
        "those tokens estimate it: the mean of -log pi_old",
    ),
    "kl": Metric("nats", "KL(pi_old || pi_theta) seen by the last update, k3, mean over its tokens"),
    "kl_coef": Metric("coefficient", "coefficient of the trust region after the step"),
    "margin": Metric("score units", "mean margin on negatives, mean over updates"),
    "margin_share": Metric(
        "share", "share of the contrast's credit that is there because of the margin, mean over updates"
    ),
    "effective_negatives": Metric(
        "rollouts",
        "negatives that share a group's push, as the exponential of its entropy, mean over updates",
    ),
    "score_gap": Metric(
        "score units", "mean score of right rollouts minus that of wrong ones, before each update, mean over updates"
    ),
    "score_gap_after": Metric(
        "score units",
        "score_gap of each update's rollouts, measured after it (at steps that diagnose.every names), mean over "
        "updates",
    ),
    "logp_positive": Metric("nats", "mean log-prob a token of right rollouts, mean over updates"),
    "logp_negative": Metric("nats", "mean log-prob a token of wrong rollouts, mean over updates"),
    "likelihood_auc": Metric(
        "probability",
        "P(mean log-prob of a right rollout > of a wrong one), before each update, mean over updates",
    ),
    "likelihood_auc_after": Metric(
        "probability",
        "likelihood_auc of each update's rollouts, measured after it (at steps that diagnose.every names), mean over "
        "updates",
    ),
    "pull": Metric("credit", "total credit above 0, mean over updates"),
    "push": Metric("credit", "total credit below 0, as a positive number, mean over updates"),
    "grad_norm": Metric("norm", "norm of the gradient before clipping, mean over updates"),
    "skipped_updates": Metric(
        "updates", "optimizer steps that were not taken, because something was not finite (see faults/)"
    ),
    "seconds_verify": Metric(
        "seconds", "time of grading, summed over all rollouts drawn, in processes beside the sampling"
    ),
    "seconds_rollout": Metric("seconds", "wall time spent sampling and verifying"),
    "seconds_update": Metric("seconds", "wall time spent on old log-probs and updates"),
    "seconds": Metric("seconds", "wall time of the step"),
    "updates": Metric("", "the step's optimizer steps, one entry each (see UPDATE)"),
}
"""One row a step."""

UPDATE = {
    "J": Metric(
        "objective",
        "value of the objective before the update (of CISPO-like objectives only the gradient has a meaning)",
    ),
    "kl": Metric("nats", "KL(pi_old || pi_theta) before the update, k3, mean over tokens"),
    "kl_sequence_sum": Metric(
        "nats", "KL(pi_old || pi_theta) before the update, k3, summed over each rollout, mean over rollouts"
    ),
    "kl_sequence": Metric("nats", "k3 of each whole rollout's log-ratio, mean over rollouts"),
    "kl_coef": Metric("coefficient", "coefficient of the trust region that this update used"),
    "score_gap": Metric(
        "score units",
        "mean score of right rollouts minus that of wrong ones, mean over groups that have both (0 for ratio scores at "
        "pi_old, but for length under token weights; SAPO's sides differ by 2/tau; CISPO's has no meaning)",
    ),
    "likelihood_auc": Metric(
        "probability", "P(mean log-prob of a right rollout > of a wrong one), mean over groups that have both"
    ),
    "logp_positive": Metric("nats", "mean log-prob a token of right rollouts in such groups"),
    "logp_negative": Metric("nats", "mean log-prob a token of wrong rollouts in such groups"),
    "score_gap_after": Metric(
        "score units",
        "score_gap of the update's rollouts, measured after it (at steps that diagnose.every names)",
    ),
    "likelihood_auc_after": Metric("probability", "likelihood_auc of the update's rollouts, measured after it"),
    "logp_positive_after": Metric("nats", "logp_positive after the update (falling: likelihood displacement)"),
    "logp_negative_after": Metric("nats", "logp_negative after the update"),
    "log_ratio_positive": Metric("nats", "mean log-ratio to pi_old of whole right rollouts before the update"),
    "log_ratio_negative": Metric("nats", "mean log-ratio to pi_old of whole wrong rollouts before the update"),
    "log_ratio_99": Metric("nats", "|log pi_theta - log pi_old| of a token before the update, 99 % quantile"),
    "log_ratio_max": Metric("nats", "|log pi_theta - log pi_old| of a token before the update, the largest"),
    "p_positive_10": Metric(
        "probability",
        "P_i+ (ConSPO Eq. 11) at the contrast's temperature, 10 % quantile; null if scores do not compete",
    ),
    "p_positive_50": Metric("probability", "P_i+ (ConSPO Eq. 11) at the contrast's temperature, median"),
    "p_positive_90": Metric("probability", "P_i+ (ConSPO Eq. 11) at the contrast's temperature, 90 % quantile"),
    "effective_negatives": Metric(
        "rollouts",
        "negatives that share a group's push, as the exponential of its entropy, mean over groups",
    ),
    "margin": Metric("score units", "mean margin on negatives"),
    "margin_share": Metric("share", "share of the contrast's credit that is there because of the margin"),
    "pull": Metric("credit", "total credit above 0"),
    "push": Metric("credit", "total credit below 0, as a positive number"),
    "grad_norm": Metric("norm", "norm of the gradient before clipping"),
    "skipped": Metric("", "why the update was not taken (all else is then null), or null"),
}
"""One entry an optimizer step, in the list ``updates`` of its row."""

GROUP = {
    "score": Metric("score units", "how much the policy likes a rollout, before the update and without the margin"),
    "p_positive": Metric(
        "probability",
        "P_i+ (ConSPO Eq. 11): a positive's share against all negatives of its group, margin included, before the "
        "update; null where scores do not compete",
    ),
    "credit": Metric(
        "credit", "dJ / d(log-prob), summed over the rollout's tokens: above 0 the update pulls it up, below 0 down"
    ),
}
"""What a row of ``rollouts.jsonl`` says of each rollout trained on, beside its text and verdict."""

TIME_FIELDS = ("seconds_verify", "seconds_rollout", "seconds_update", "seconds")
"""What may differ between two runs of the same seed."""
