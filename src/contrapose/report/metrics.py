"""Every number of ``metrics.jsonl``, each name once, with its unit and meaning."""

from __future__ import annotations

STEP = {
    "step": "steps done, from 1",
    "reward_mean": "mean shaped reward of all rollouts drawn, before filtering",
    "accuracy": "share correct of all rollouts drawn, before filtering",
    "drawn_groups": "groups rolled out in this step",
    "accepted_groups": "groups trained on in this step",
    "rounds": "draws it took to fill the batch",
    "mastered_prompts": "prompts removed for good so far",
    "generated_tokens": "response tokens of all rollouts drawn",
    "kept_tokens": "response tokens of the groups trained on",
    "length_mean": "mean response length of all rollouts drawn, tokens",
    "truncated": "share of all rollouts drawn that reached the response limit",
    "no_answer": "share of all rollouts drawn without a boxed answer",
    "entropy": "mean entropy of pi_old on the response tokens trained on, nats",
    "kl": "KL(pi_old || pi_theta) seen by the last update, k3, mean over its tokens, nats",
    "kl_coef": "coefficient of the trust region after the step",
    "margin": "mean margin on negatives, score units, mean over updates",
    "score_gap": "mean score of positives minus that of negatives, mean over updates",
    "logp_positive": "mean log-prob a token of positives, nats, mean over updates",
    "logp_negative": "mean log-prob a token of negatives, nats, mean over updates",
    "grad_norm": "norm of the gradient before clipping, mean over updates",
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
    "margin": "mean margin on negatives, score units",
    "score_gap": "mean score of positives minus that of negatives, mean over groups that have both",
    "logp_positive": "mean log-prob a token of positives, nats",
    "logp_negative": "mean log-prob a token of negatives, nats",
    "log_ratio_positive": "mean log-ratio to pi_old of whole positives, nats (falling: likelihood displacement)",
    "log_ratio_negative": "the same of negatives, nats",
    "grad_norm": "norm of the gradient before clipping",
}
"""One entry an optimizer step, in the list ``updates`` of its row."""

TIME_FIELDS = ("seconds_rollout", "seconds_update", "seconds")
"""What may differ between two runs of the same seed."""
