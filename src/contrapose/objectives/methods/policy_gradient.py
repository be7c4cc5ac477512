"""Advantage times score: REINFORCE, RLOO, GRPO and its kin. They differ in the leash and in what a token weighs."""

from __future__ import annotations

from typing import Literal

from contrapose.objectives.advantage import ZScore, centre, leave_one_out, raw
from contrapose.objectives.aggregate import ConstantLength, rollout_mean, token_mean, token_mean_group, token_sum
from contrapose.objectives.contrast import Linear
from contrapose.objectives.objective import Objective
from contrapose.objectives.score import (
    CappedLogProb,
    ClippedRatio,
    GeometricRatio,
    LogProb,
    SequenceRatio,
    SoftGate,
)
from contrapose.objectives.trust import KLReference


def reinforce() -> Objective:
    """REINFORCE (Williams 1992): the reward times the log-likelihood, no baseline, no leash.

    J = (1/K) sum_k r_k sum_t m l

    Credit: r m.

    Disagreement: none. A group of equal rewards is pulled or pushed as a whole, as the equation says.
    """
    return Objective(aggregate=token_sum, score=LogProb(), margin=None, contrast=Linear(raw), trust=None)


def rloo() -> Objective:
    """RLOO (arXiv 2402.14740): REINFORCE with the mean reward of the others as baseline.

    J = (1/K) sum_k A_k sum_t m l
    A_k = r_k - mean of the others' r = K/(K-1) (r_k - mean r)

    Credit: A m.

    Disagreement: the paper subtracts a KL from the reward, and TRL's RLOO as well (0.05); here there is none. TRL also
    clips a sequence ratio at 0.2.
    """
    return Objective(aggregate=token_sum, score=LogProb(), margin=None, contrast=Linear(leave_one_out), trust=None)


def grpo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    reference_coef: float = 0.0,
    std_ddof: int = 1,
    std_eps: float = 1e-6,
    dual_clip: float | None = None,
) -> Objective:
    """GRPO (arXiv 2402.03300, Eq. 3): the group-normalised advantage times a clipped token ratio, mean per rollout.

    J = (1/K) sum_k (1/L_k) sum_t m [ min(rho A_k, clip(rho, 1 - low, 1 + high) A_k) - beta k3(pi_theta || pi_ref) ]
    A = (r - mean r) / (std r + eps)

    Credit: m [ A rho u - beta (1 - e^{l_ref - l}) ] / L, u = 0 where the clip bites, else 1.

    Disagreement: the paper states no clip, ddof or eps; its beta is 0.04 (`reference_coef`; 0 here, as in most codes
    today). By default, verl averages over all tokens and has dual_clip = 3; TRL's loss is DAPO's, and its KL times rho.
    """
    return Objective(
        aggregate=rollout_mean,
        score=ClippedRatio(clip_low, clip_high, dual_clip),
        margin=None,
        contrast=Linear(ZScore(std_ddof, std_eps)),
        trust=KLReference(reference_coef) if reference_coef else None,
    )


def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    aggregate: Literal["token_mean", "token_mean_group"] = "token_mean",
    std_ddof: int = 1,
    std_eps: float = 1e-6,
    dual_clip: float | None = None,
) -> Objective:
    """DAPO (arXiv 2503.14476): GRPO with a wider clip above, every token weighing alike, and no KL.

    J = (1 / all tokens) sum_k sum_t m min(rho A_k, clip(rho, 1 - low, 1 + high) A_k)
    A = (r - mean r) / (std r + eps);  filter and overlong punishment: its recipe

    Credit: m A rho u / (all tokens), u = 0 where the clip bites, else 1.

    Disagreement: the paper divides by each group's tokens (`token_mean_group`), its code by those of the step;
    the code's recipe also has dual_clip = 10, and punishes an overlong answer without the paper's floor of -1.
    """
    weights = {"token_mean": token_mean, "token_mean_group": token_mean_group}
    return Objective(
        aggregate=weights[aggregate],
        score=ClippedRatio(clip_low, clip_high, dual_clip),
        margin=None,
        contrast=Linear(ZScore(std_ddof, std_eps)),
        trust=None,
    )


def dr_grpo(
    *, length: float, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = None
) -> Objective:
    """Dr. GRPO (arXiv 2503.20783): GRPO without its two divisions, by the rollout's length and by the deviation.

    J = (1/K) sum_k (1/length) sum_t m min(rho A_k, clip(rho, 1 - low, 1 + high) A_k)
    A = r - mean r;  length is one constant; in a run it defaults to rollout.max_tokens

    Credit: m A rho u / length, u = 0 where the clip bites, else 1.

    Disagreement: the paper writes the plain token sum, its code divides by the response limit (3000); verl divides
    by the padded width of each batch unless told otherwise, which is no constant.
    """
    return Objective(
        aggregate=ConstantLength(length),
        score=ClippedRatio(clip_low, clip_high, dual_clip),
        margin=None,
        contrast=Linear(centre),
        trust=None,
    )


def gspo(*, clip_low: float = 3e-4, clip_high: float = 4e-4, std_ddof: int = 1, std_eps: float = 1e-6) -> Objective:
    """GSPO (arXiv 2507.18071): one ratio a rollout, the geometric mean of its tokens', clipped as a whole.

    J = (1/K) sum_k min(g_k A_k, clip(g_k, 1 - low, 1 + high) A_k),  g = exp( (1/L) sum_t m d )
    A = (r - mean r) / (std r + eps)

    Credit: m A g u / L, u = 0 for a rollout whose clip bites, else 1.

    Disagreement: GSPO-token has the same gradient. Under their default aggregation by tokens, TRL's and verl's GSPO
    weighs a rollout by its length; verl clamps log g at 10.
    """
    return Objective(
        aggregate=rollout_mean,
        score=SequenceRatio(clip_low, clip_high),
        margin=None,
        contrast=Linear(ZScore(std_ddof, std_eps)),
        trust=None,
    )


def gmpo(*, clip_low: float = 0.4, clip_high: float = 0.4, std_ddof: int = 1, std_eps: float = 1e-6) -> Objective:
    """GMPO (arXiv 2507.20673): the geometric mean of token ratios that are clipped one by one, in log space.

    J = (1/K) sum_k A_k exp( (1/L) sum_t m d' ),  d' = min(d, high) where A > 0, max(d, -low) where A < 0
    A = (r - mean r) / (std r + eps)

    Credit: m A g' u / L, g' the clipped mean and u = 0 for a token whose clip bites, else 1.

    Disagreement: its code is the same equation in another form, and right only at one rollout a device; verl's
    geo_mean averages over the micro-batch at hand.
    """
    return Objective(
        aggregate=rollout_mean,
        score=GeometricRatio(clip_low, clip_high),
        margin=None,
        contrast=Linear(ZScore(std_ddof, std_eps)),
        trust=None,
    )


def cispo(*, cap: float = 5.0, std_ddof: int = 1, std_eps: float = 1e-6) -> Objective:
    """CISPO (arXiv 2506.13585): REINFORCE with a capped, detached importance weight: no token loses its gradient.

    J = (1 / all tokens) sum_k sum_t m sg(min(rho, cap)) A_k l
    A = (r - mean r) / (std r + eps)

    Credit: m A min(rho, cap) / (all tokens). The value of J means nothing.

    Disagreement: the paper divides by each group's tokens, codes by the step's, as here. It never states its cap; 5.0
    is ScaleRL's, verl's example has 1.2 (its defaults also a floor of 0.8), and TRL's is 0.2 if left unset.
    """
    return Objective(
        aggregate=token_mean,
        score=CappedLogProb(cap),
        margin=None,
        contrast=Linear(ZScore(std_ddof, std_eps)),
        trust=None,
    )


def sapo(
    *, tau_positive: float = 1.0, tau_negative: float = 1.05, std_ddof: int = 1, std_eps: float = 1e-6
) -> Objective:
    """SAPO (arXiv 2511.20347): a soft gate in place of the clip, a little tighter where the advantage is negative.

    J = (1/K) sum_k (1/L) sum_t m A_k (4/tau) sigmoid(tau (rho - 1)),  tau by the sign of A
    A = (r - mean r) / (std r + eps)

    Credit: m A rho 4 h (1 - h) / L, h = sigmoid(tau (rho - 1)).

    Disagreement: none known.
    """
    return Objective(
        aggregate=rollout_mean,
        score=SoftGate(tau_positive, tau_negative),
        margin=None,
        contrast=Linear(ZScore(std_ddof, std_eps)),
        trust=None,
    )
