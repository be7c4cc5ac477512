"""Which numbers are drawn together: the same charts on the page and in the figures."""

from __future__ import annotations

from dataclasses import dataclass

from contrapose.report.metrics import STEP, UPDATE

AXES = {"step": "steps", "rollouts": "rollouts", "tokens": "tokens generated", "seconds": "seconds"}
"""What a run can be drawn against, and in words."""


@dataclass(frozen=True)
class Chart:
    """``series`` are drawn in one frame, so they share a unit: names of ``STEP``, with a dot a part of what it holds
    (``verdicts.wrong``), or ``updates.`` and a name of ``UPDATE``: the mean over the updates of a step. ``stacked``
    where they are parts of a whole."""

    title: str
    series: tuple[str, ...]
    stacked: bool = False

    @property
    def unit(self) -> str:
        """What the vertical axis measures."""
        return unit_of(self.series[0])


def unit_of(series: str) -> str:
    """The unit of a series."""
    name, _, part = series.partition(".")
    return UPDATE[part].unit if name == "updates" else STEP[name].unit


def meaning_of(series: str) -> str:
    """What a series is, in one line."""
    name, _, part = series.partition(".")
    if name == "updates":
        return f"{UPDATE[part].meaning}; mean over the step's updates"
    return STEP[name].meaning + (f": {part.replace('_', ' ')}" if part else "")


SECTIONS = {
    "Is it learning?": (
        Chart("Accuracy in training", ("accuracy",)),
        Chart("Reward", ("reward_mean",)),
        Chart("Entropy", ("entropy",)),
        Chart("Length", ("length_mean",)),
        Chart("Answers that are none", ("truncated", "no_answer", "unparsed", "verifier_faults")),
    ),
    "What is drawn and what is kept": (
        Chart("Groups", ("drawn_groups", "accepted_groups")),
        Chart("Groups that can teach", ("mixed_groups",)),
        Chart(
            "Where the tokens went",
            (
                *("kept_tokens", "surplus_tokens"),
                *("filtered_tokens.too_hard", "filtered_tokens.too_easy", "filtered_tokens.mastered"),
            ),
            stacked=True,
        ),
        Chart("Mastered prompts", ("mastered_prompts",)),
    ),
    "What the contrast does": (
        Chart("Objective", ("updates.J",)),
        Chart("Score gap", ("score_gap", "score_gap_after")),
        Chart("Log-prob a token", ("logp_positive", "logp_negative")),
        Chart("Right likelier than wrong", ("likelihood_auc", "likelihood_auc_after")),
        Chart("P_i+ of positives", ("updates.p_positive_10", "updates.p_positive_50", "updates.p_positive_90")),
        Chart("Pull and push", ("pull", "push")),
        Chart("Effective negatives", ("effective_negatives",)),
        Chart("Margin", ("margin",)),
        Chart("Share of the margin", ("margin_share",)),
    ),
    "How far it moves": (
        Chart("KL to the old policy", ("kl",)),
        Chart("Coefficient of the trust region", ("kl_coef",)),
        Chart("Gradient norm", ("grad_norm",)),
        Chart("Log-ratio of a token", ("updates.log_ratio_99", "updates.log_ratio_max")),
        Chart("Engine against trainer", ("engine_drift",)),
        Chart("Skipped updates", ("skipped_updates",)),
    ),
    "What it costs": (
        Chart("Tokens", ("generated_tokens", "kept_tokens")),
        Chart("Seconds by phase", ("seconds_rollout", "seconds_update"), stacked=True),
        Chart("Seconds of grading", ("seconds_verify",)),
    ),
}
"""The charts of a run, by the question they answer."""


def drawn() -> list[str]:
    """Every series that some chart draws."""
    return list(dict.fromkeys(name for charts in SECTIONS.values() for chart in charts for name in chart.series))
