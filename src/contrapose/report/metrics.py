"""Every number of ``metrics.jsonl``, each name once, with its unit and meaning."""

from __future__ import annotations

STEP = {
    "step": "steps done, from 1",
    "reward_mean": "mean shaped reward of all rollouts drawn, before filtering (cancelled ones: see accuracy)",
    "accuracy": "share correct of all rollouts drawn, before filtering; a cancelled one counts as its group's "
    "rest, which is too high",
    "drawn_groups": "groups rolled out in this step",
    "accepted_groups": "groups trained on in this step",
    "mixed_groups": "share of the groups drawn in this step whose rewards differ",
    "rounds": "draws it took to fill the batch",
    "mastered_prompts": "prompts removed for good so far",
    "generated_tokens": "response tokens of all rollouts drawn: kept + surplus + filtered",
    "kept_tokens": "response tokens of the groups trained on",
    "surplus_tokens": "response tokens of groups that passed after the batch was full: dropped, and with filter.cache "
    "their prompts are rolled out anew",
    "filtered_tokens": "response tokens of the groups that were not trained on, by fate",
    "cancelled_rollouts": "rollouts cut short because their group was decided (filter.early_stop)",
    "cancelled_tokens": "response tokens spent on them, a part of filtered_tokens",
    "saved_tokens": "tokens they would have cost more, an estimate: the mean rest of the step's finished rollouts that "
    "grew longer than them, which is rather too high",
    "length_mean": "mean response length of all rollouts that finished, tokens",
    "truncated": "share of all finished rollouts that reached the response limit",
    "no_answer": "share of all finished rollouts without a boxed answer",
    "unparsed": "share of all finished rollouts whose answer could not be read as mathematics",
    "verifier_faults": "share of all finished rollouts that could not be graded within limits (too_long, timeout, "
    "memory, crashed): worth a wrong answer",
    "verdicts": "how many finished rollouts had each verdict status",
    "engine_drift": "mean gap between the engine's and the trainer's log-probs before the first update, nats: over the "
    "tokens trained on, or where the engine's are the old ones (float32) those that the first update pushes, if any",
    "alarms": "what a person should look at, a line each",
    "entropy": "mean entropy of pi_old on the response tokens trained on, nats; where the engine's log-probs are the "
    "old ones, as those tokens estimate it: the mean of -log pi_old",
    "kl": "KL(pi_old || pi_theta) seen by the last update, k3, mean over its tokens, nats",
    "kl_coef": "coefficient of the trust region after the step",
    "margin": "mean margin on negatives, score units, mean over updates",
    "margin_share": "share of the contrast's credit that is there because of the margin, mean over updates",
    "effective_negatives": "negatives that share a group's push, as the exponential of its entropy, mean over updates",
    "score_gap": "mean score of right rollouts minus that of wrong ones, before each update, mean over updates",
    "score_gap_after": "mean score of the same right rollouts minus that of wrong ones after each update",
    "logp_positive": "mean log-prob a token of right rollouts, nats, mean over updates",
    "logp_negative": "mean log-prob a token of wrong rollouts, nats, mean over updates",
    "likelihood_auc": "P(mean log-prob of a right rollout > of a wrong one), before each update, mean over updates",
    "likelihood_auc_after": "P(the same) of the same rollouts after each update (at steps that diagnose.every names)",
    "pull": "total credit above 0, mean over updates",
    "push": "total credit below 0, as a positive number, mean over updates",
    "grad_norm": "norm of the gradient before clipping, mean over updates",
    "skipped_updates": "optimizer steps that were not taken, because something was not finite (see faults/)",
    "seconds_verify": "seconds of grading, summed over all rollouts drawn, in processes beside the sampling",
    "seconds_rollout": "wall seconds spent sampling and verifying",
    "seconds_update": "wall seconds spent on old log-probs and updates",
    "seconds": "wall seconds of the step",
    "updates": "the step's optimizer steps, one entry each (see UPDATE)",
}
"""One row a step."""

UPDATE = {
    "J": "value of the objective before the update (of CISPO-like objectives only the gradient has a meaning)",
    "kl": "KL(pi_old || pi_theta) before the update, k3, mean over tokens, nats",
    "kl_sequence_sum": "the same summed over each rollout, mean over rollouts, nats",
    "kl_sequence": "k3 of each whole rollout's log-ratio, mean over rollouts, nats",
    "kl_coef": "coefficient of the trust region that this update used",
    "score_gap": "mean score of right rollouts minus that of wrong ones, mean over groups that have both (0 for ratio "
    "scores at pi_old, but for length under token weights; SAPO's sides differ by 2/tau; CISPO's has no meaning)",
    "likelihood_auc": "P(mean log-prob of a right rollout > of a wrong one), mean over groups that have both",
    "logp_positive": "mean log-prob a token of right rollouts in such groups, nats",
    "logp_negative": "mean log-prob a token of wrong rollouts in such groups, nats",
    "score_gap_after": "mean score of the same right rollouts minus that of wrong ones after the update "
    "(diagnose.every)",
    "likelihood_auc_after": "P(the same) of the same rollouts after the update",
    "logp_positive_after": "logp_positive after the update, nats (falling: likelihood displacement)",
    "logp_negative_after": "logp_negative after the update, nats",
    "log_ratio_positive": "mean log-ratio to pi_old of whole right rollouts before the update, nats",
    "log_ratio_negative": "the same of wrong ones, nats",
    "log_ratio_99": "|log pi_theta - log pi_old| of a token before the update, 99 % quantile, nats",
    "log_ratio_max": "the largest of them, nats",
    "p_positive_10": "P_i+ (ConSPO Eq. 11) at the contrast's temperature, 10 % quantile; null if scores do not compete",
    "p_positive_50": "its median",
    "p_positive_90": "its 90 % quantile",
    "effective_negatives": "negatives that share a group's push, as the exponential of its entropy, mean over groups",
    "margin": "mean margin on negatives, score units",
    "margin_share": "share of the contrast's credit that is there because of the margin",
    "pull": "total credit above 0",
    "push": "total credit below 0, as a positive number",
    "grad_norm": "norm of the gradient before clipping",
    "skipped": "why the update was not taken (all else is then null), or null",
}
"""One entry an optimizer step, in the list ``updates`` of its row."""

TIME_FIELDS = ("seconds_verify", "seconds_rollout", "seconds_update", "seconds")
"""What may differ between two runs of the same seed."""
