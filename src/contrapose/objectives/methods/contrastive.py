"""Right against wrong: ReNCE, ConSPO, DisCO, and the pairs of DPO."""

from __future__ import annotations

from typing import Literal

from contrapose.objectives.advantage import ZScore
from contrapose.objectives.aggregate import rollout_mean, token_sum
from contrapose.objectives.contrast import (
    DRO,
    NCE,
    AllPairs,
    Contrast,
    Linear,
    MeanDifference,
    Positives,
    RandomPair,
    Softmax,
)
from contrapose.objectives.margin import Constant, Cosine, RewardGap
from contrapose.objectives.objective import Objective
from contrapose.objectives.score import ClippedRatio, LogProb, LogRatio, Ratio, Score
from contrapose.objectives.trust import KLAggregate, KLHinge, KLOld


def rence(
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
    positives: Positives = "best",
    margin: Literal["reward_gap", "constant"] | None = "reward_gap",
    contrast: Literal["nce", "softmax", "random_pair", "all_pairs"] = "nce",
    trust: Literal["kl"] | None = "kl",
    kl_coef: float = 0.001,
    kl_target: float = 0.01,
    kl_horizon: float = 25600.0,
    kl_aggregate: KLAggregate = "token_mean",
) -> Objective:
    """ReNCE (arXiv 2601.22432, Eq. 1-2): a group's best rollouts, each against all the rest, near the old policy.

    J = mean_i log[ e^{s_i} / (e^{s_i} + sum_j e^{s_j}) ] - lambda KL(pi_old || pi_theta)
    s = beta sum_t m d, and + alpha (r_max - r_j) on negatives

    Credit: beta m (1 - P_i) / N+ on positives, -beta m q_j mean_i(1 - P_i) on negatives, q = softmax of their s;
    and -lambda m (rho - 1) / (all tokens).

    Disagreement: no code is released. The paper names neither the KL's estimator nor its mean (here k3 over tokens,
    the weakest reading; `sequence` is the only one that bites at lambda 0.001), and says "minimizing" of this J.
    """
    contrasts = {"nce": NCE, "softmax": Softmax, "random_pair": RandomPair, "all_pairs": AllPairs}
    regions = {"kl": KLOld(kl_coef, kl_target, kl_horizon, kl_aggregate), None: None}
    margins = {"reward_gap": RewardGap(alpha), "constant": Constant(alpha), None: None}
    return Objective(
        aggregate=token_sum,
        score=LogRatio(beta),
        margin=margins[margin],
        contrast=contrasts[contrast](positives=positives),
        trust=regions[trust],
    )


def conspo(
    *,
    tau: float = 10.0,
    M: float = 0.01,
    warmup: float = 0.3,
    margin: Literal["cosine", "constant"] | None = "cosine",
    contrast: Literal["nce", "linear"] = "nce",
    score: Literal["log_prob", "clipped_ratio"] = "log_prob",
    epsilon: float = 0.2,
) -> Objective:
    """ConSPO (arXiv 2605.12969, Eq. 15-16): InfoNCE on length-normalised log-likelihoods, correct against wrong.

    J = mean_i tau log[ e^{(s_i - M')/tau} / (e^{(s_i - M')/tau} + sum_j e^{s_j/tau}) ]
    s = (1/L) sum_t m log pi_theta,  margin M' = M/2 (1 - cos(pi min(progress / warmup, 1)))

    Credit: m (1 - P_i) / (L N+) on positives, -m q_j mean_i(1 - P_i) / L on negatives, q = softmax of their s/tau.

    Disagreement: no code is released, and no number of updates a batch is stated. The clip range of "w/o
    log-likelihood scores" is not stated (here 0.2), and "w/o contrastive objective" (`linear`) also changes a
    group's weight to sqrt(p (1-p)), so that row shows two changes.
    """
    scores: dict[str, Score] = {"log_prob": LogProb(), "clipped_ratio": ClippedRatio(epsilon, epsilon)}
    contrasts: dict[str, Contrast] = {"nce": NCE("correct", tau), "linear": Linear(ZScore(0, 0.0), "correct")}
    margins = {"cosine": Cosine(M, warmup), "constant": Constant(M), None: None}
    return Objective(
        aggregate=rollout_mean,
        score=scores[score],
        margin=margins[margin],
        contrast=contrasts[contrast],
        trust=None,
    )


def disco(
    *,
    score: Literal["log_prob", "ratio"] = "log_prob",
    tau: float | None = None,
    delta: float = 1e-4,
    hinge: float = 1e3,
) -> Objective:
    """DisCO (arXiv 2505.12366): the likelier a negative, the harder its push; a hinge holds the step's KL.

    J = mean_i s_i - tau log( mean_j e^{s_j/tau} ) - hinge/2 [KL(pi_old || pi_theta) - delta]_+^2
    s = (1/L) sum_t m log pi_theta (tau = 10) or (1/L) sum_t m rho (tau = 1);  KL = mean over all tokens of -d

    Credit: c m / L (times rho for `ratio`), c = 1/N+ on positives, -softmax of s/tau on negatives;
    and hinge [KL - delta]_+ m / (all tokens) on every token.

    Disagreement: `hinge` is the released code's constant, whose gradient is half that of hinge [x]_+^2. That code
    takes the KL per micro-batch of 4 groups, not per step, and its L-ratio path cannot be reached.
    """
    scores: dict[str, Score] = {"log_prob": LogProb(), "ratio": Ratio()}
    published = {"log_prob": 10.0, "ratio": 1.0}
    return Objective(
        aggregate=rollout_mean,
        score=scores[score],
        margin=None,
        contrast=DRO("correct", published[score] if tau is None else tau),
        trust=KLHinge(delta, hinge),
    )


def disco_b(*, score: Literal["log_prob", "ratio"] = "log_prob", delta: float = 1e-4, hinge: float = 1e3) -> Objective:
    """DisCO-b (arXiv 2505.12366): DisCO's basic variant, all negatives pushed alike.

    J = mean_i s_i - mean_j s_j - hinge/2 [KL(pi_old || pi_theta) - delta]_+^2
    s = (1/L) sum_t m log pi_theta or (1/L) sum_t m rho;  KL = mean over all tokens of -d

    Credit: c m / L (times rho for `ratio`), c = 1/N+ on positives, -1/N- on negatives;
    and hinge [KL - delta]_+ m / (all tokens) on every token.

    Disagreement: as DisCO's.
    """
    scores: dict[str, Score] = {"log_prob": LogProb(), "ratio": Ratio()}
    return Objective(
        aggregate=rollout_mean,
        score=scores[score],
        margin=None,
        contrast=MeanDifference("correct"),
        trust=KLHinge(delta, hinge),
    )


def dpo(
    *,
    beta: float = 0.1,
    contrast: Literal["all_pairs", "random_pair"] = "all_pairs",
    reference: Literal["old", "initial"] = "old",
) -> Objective:
    """Semi-online DPO and Group-DPO (arXiv 2506.21495, Eq. 4): every correct rollout against every wrong one, in pairs.

    J = mean over pairs (i, j) of log sigmoid(s_i - s_j);  `random_pair`: of one pair a group, drawn at each visit
    s = beta sum_t m (log pi_theta - log pi_ref),  pi_ref = pi_old or the initial policy

    Credit: beta m sum_j sigmoid(s_j - s_i) / (N+ N-) on positives, -beta m sum_i sigmoid(s_j - s_i) / (N+ N-) on
    negatives.

    Disagreement: the paper keeps pi_ref fixed or syncs it with the sampler; ReNCE's baseline syncs (`old`). The
    released code pairs the first right with the first wrong rollout and sums over pairs and prompts.
    """
    contrasts: dict[str, Contrast] = {"all_pairs": AllPairs("correct"), "random_pair": RandomPair("correct")}
    return Objective(
        aggregate=token_sum,
        score=LogRatio(beta, reference),
        margin=None,
        contrast=contrasts[contrast],
        trust=None,
    )
