"""The objectives by name, each a composition under its equation. Every ablation of the papers is an argument.

Letters: ``m`` mask, ``L`` length, ``d = log pi_theta - log pi_old``, ``rho = e^d``, ``i`` a positive, ``j`` a negative.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from contrapose.objectives.aggregate import rollout_mean, token_sum
from contrapose.objectives.contrast import NCE, AllPairs, Contrast, Linear, Positives, RandomPair, Softmax
from contrapose.objectives.margin import Constant, Cosine, RewardGap
from contrapose.objectives.objective import Objective
from contrapose.objectives.score import ClippedRatio, LogProb, LogRatio, Score
from contrapose.objectives.trust import KLAggregate, KLOld, KLReference
from contrapose.types import nearest


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
    """ReNCE (arXiv 2601.22432, Eq. 1-2): positives are a group's best rollouts, each against all the rest.

    J = mean_i log[ e^{s_i} / (e^{s_i} + sum_j e^{s_j}) ] - lambda KL(pi_old || pi_theta)
    s = beta sum_t m d, and + alpha (r_max - r_j) on negatives
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

    J = mean_i tau log[ e^{(s_i - m_t)/tau} / (e^{(s_i - m_t)/tau} + sum_j e^{s_j/tau}) ]
    s = (1/L) sum_t m log pi_theta,  m_t = M/2 (1 - cos(pi min(progress / warmup, 1)))
    """
    scores: dict[str, Score] = {"log_prob": LogProb(), "clipped_ratio": ClippedRatio(epsilon, epsilon)}
    contrasts: dict[str, Contrast] = {"nce": NCE("correct", tau), "linear": Linear(0, 0.0, "correct")}
    margins = {"cosine": Cosine(M, warmup), "constant": Constant(M), None: None}
    return Objective(
        aggregate=rollout_mean,
        score=scores[score],
        margin=margins[margin],
        contrast=contrasts[contrast],
        trust=None,
    )


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
    """
    return Objective(
        aggregate=rollout_mean,
        score=ClippedRatio(clip_low, clip_high, dual_clip),
        margin=None,
        contrast=Linear(std_ddof, std_eps),
        trust=KLReference(reference_coef) if reference_coef else None,
    )


ZOO: Mapping[str, Callable[..., Objective]] = {f.__name__: f for f in (rence, conspo, grpo)}


@dataclass(frozen=True)
class ObjectiveInfo:
    """A catalogue entry: where an objective comes from, its equation, its factors at the defaults, and those."""

    name: str
    paper: str
    equation: str
    factors: Mapping[str, str]
    defaults: Mapping[str, Any]


def objective(name: str, **hyperparameters: Any) -> Objective:
    """The objective called ``name``. Raises ValueError or TypeError, naming the nearest valid name or argument."""
    valid = hyperparameters_of(name)
    for key in hyperparameters:
        if key not in valid:
            raise TypeError(f"objective.{key}: not a hyper-parameter of {name}{nearest(key, valid)}")
    hints = get_type_hints(ZOO[name])
    for key, value in hyperparameters.items():
        _check(key, value, hints[key])
    try:
        return ZOO[name](**hyperparameters)
    except ValueError as error:
        raise ValueError(f"objective {name}: {error}") from None


def hyperparameters_of(name: str) -> list[str]:
    """The names of an objective's hyper-parameters. Raises ValueError, naming the nearest objective."""
    if name not in ZOO:
        raise ValueError(f"objective: {name!r} is unknown{nearest(name, list(ZOO))}")
    return list(inspect.signature(ZOO[name]).parameters)


def catalogue() -> dict[str, ObjectiveInfo]:
    """Every objective by name, read off its signature and docstring."""
    return {name: _describe(name, make) for name, make in ZOO.items()}


def _describe(name: str, make: Callable[..., Objective]) -> ObjectiveInfo:
    paper, _, equation = (inspect.getdoc(make) or "").partition("\n\n")
    built = make()
    factors = {"aggregate": getattr(built.aggregate, "__name__", repr(built.aggregate))}
    factors |= {key: repr(getattr(built, key) or "-").strip("'") for key in ("score", "margin", "contrast", "trust")}
    defaults = {key: p.default for key, p in inspect.signature(make).parameters.items()}
    return ObjectiveInfo(name, paper, equation, factors, defaults)


def _check(key: str, value: Any, hint: Any) -> None:
    """Raise unless ``value`` may stand for a hyper-parameter of this annotation: a choice of names, or a number."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices: list[Any] = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    if NoneType in kinds:
        choices.append(None)
    number = (int, float) if float in kinds else int if int in kinds else ()
    if value in choices or (isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value)):
        return
    if number:
        raise TypeError(f"objective.{key}: expected a {'' if float in kinds else 'whole '}number, found {value!r}")
    names = ["none" if c is None else c for c in choices]
    raise ValueError(f"objective.{key}: {value!r} is not a choice{nearest(str(value), names)}")
