"""Objectives by name: their hyper-parameters, the catalogue, and what is said of a mistake."""

import re

import pytest
import torch
from textbook.step import apart, group, ragged

import contrapose
from contrapose.objectives.advantage import ZScore
from contrapose.objectives.contrast import DRO, NCE, AllPairs, Linear
from contrapose.objectives.margin import Cosine, RewardGap
from contrapose.objectives.score import CappedLogProb, ClippedRatio, GeometricRatio, LogRatio, SequenceRatio, SoftGate
from contrapose.objectives.trust import KLHinge, KLOld, KLReference
from contrapose.objectives.zoo import ZOO


@pytest.mark.parametrize(
    ("name", "arguments", "error", "text"),
    [
        ("renc", {}, ValueError, "objective: 'renc' is unknown (did you mean 'rence'?)"),
        ("rence", {"btea": 0.1}, TypeError, "objective.btea: not a hyper-parameter of rence (did you mean 'beta'?)"),
        ("conspo", {"warm_up": 0.1}, TypeError, "did you mean 'warmup'?"),
        ("grpo", {"tau": 1.0}, TypeError, "objective.tau: not a hyper-parameter of grpo"),
        ("rence", {"contrast": "softmx"}, ValueError, "objective.contrast: 'softmx' is not a choice"),
        ("rence", {"contrast": "softmx"}, ValueError, "did you mean 'softmax'?"),
        ("rence", {"contrast": None}, ValueError, "objective.contrast: None is not a choice"),
        ("rence", {"margin": "reward_gaps"}, ValueError, "did you mean 'reward_gap'?"),
        ("rence", {"positives": "corect"}, ValueError, "did you mean 'correct'?"),
        ("rence", {"trust": "k1"}, ValueError, "did you mean 'kl'?"),
        ("rence", {"kl_aggregate": "token_men"}, ValueError, "did you mean 'token_mean'?"),
        ("conspo", {"margin": "cosin"}, ValueError, "did you mean 'cosine'?"),
        ("conspo", {"score": "logprob"}, ValueError, "did you mean 'log_prob'?"),
        ("conspo", {"contrast": "liner"}, ValueError, "did you mean 'linear'?"),
        ("dapo", {"aggregate": "token_mean_groups"}, ValueError, "did you mean 'token_mean_group'?"),
        ("dapo", {"clip_hi": 0.3}, TypeError, "objective.clip_hi: not a hyper-parameter of dapo"),
        ("dr_grpo", {"lenght": 9}, TypeError, "did you mean 'length'?"),
        ("drgrpo", {}, ValueError, "did you mean 'dr_grpo'?"),
        ("gsop", {}, ValueError, "did you mean 'gspo'?"),
        ("disco", {"score": "ratios"}, ValueError, "did you mean 'ratio'?"),
        ("disco_b", {"tau": 1.0}, TypeError, "objective.tau: not a hyper-parameter of disco_b"),
        ("disco_c", {}, ValueError, "did you mean 'disco"),
        ("dpo", {"reference": "initiall"}, ValueError, "did you mean 'initial'?"),
        ("dpo", {"contrast": "all_pair"}, ValueError, "did you mean 'all_pairs'?"),
        ("dpo", {"contrast": "nce"}, ValueError, "objective.contrast: 'nce' is not a choice"),
        ("rloo", {"beta": 0.1}, TypeError, "objective.beta: not a hyper-parameter of rloo"),
    ],
)
def test_bad_names_are_answered_with_the_nearest(name, arguments, error, text):
    with pytest.raises(error) as caught:
        contrapose.objective(name, **arguments)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    logp, step = group([1.0, 0.0])
    with pytest.raises(error):
        contrapose.credit(name, logp, **step, **arguments)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(ValueError, match=r"one of: .*rence.*conspo.*grpo"):
        contrapose.objective("zzzz")


def test_hyper_parameters_go_with_a_name():
    logp, step = group([1.0, 0.0])
    built = contrapose.objective("rence", beta=0.3)
    assert torch.equal(contrapose.credit(built, logp, **step), contrapose.credit("rence", logp, **step, beta=0.3))
    with pytest.raises(TypeError, match="beta"):
        contrapose.credit(built, logp, **step, beta=0.3)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "culprit"),
    [
        ("rence", {"beta": "fast"}, "beta"),
        ("rence", {"beta": True}, "beta"),
        ("rence", {"beta": 0.0}, "beta"),
        ("rence", {"kl_target": 0}, "target"),
        ("rence", {"kl_horizon": -1.0}, "horizon"),
        ("rence", {"kl_coef": float("nan")}, "kl_coef"),
        ("rence", {"kl_coef": -0.1}, "coef"),
        ("rence", {"margin": 3}, "margin"),
        ("conspo", {"tau": 0.0}, "tau"),
        ("conspo", {"tau": -1.0}, "tau"),
        ("conspo", {"epsilon": 2.0, "score": "clipped_ratio"}, "clip"),
        ("grpo", {"std_ddof": 0.5}, "std_ddof"),
        ("grpo", {"clip_low": None}, "clip_low"),
        ("grpo", {"dual_clip": 0.9}, "dual_clip"),
        ("grpo", {"reference_coef": -0.1}, "coef"),
        *[(name, {"std_ddof": 2}, "ddof") for name in ("grpo", "dapo", "gspo", "gmpo", "cispo", "sapo")],
        *[(name, {"std_eps": -1e-6}, "eps") for name in ("grpo", "dapo", "gspo", "gmpo", "cispo", "sapo")],
        *[(name, {"clip_low": 1.01}, "clip") for name in ("grpo", "dapo", "gspo")],
        *[(name, {"clip_low": -0.1}, "clip") for name in ("grpo", "dapo", "gspo", "gmpo")],
        *[(name, {"clip_high": -0.1}, "clip") for name in ("grpo", "dapo", "gspo", "gmpo")],
        ("dapo", {"aggregate": None}, "aggregate"),
        ("dapo", {"dual_clip": 0.5}, "dual_clip"),
        ("dr_grpo", {}, "length"),
        ("dr_grpo", {"length": 0}, "length"),
        ("dr_grpo", {"length": -3.0}, "length"),
        ("dr_grpo", {"length": float("inf")}, "length"),
        ("dr_grpo", {"length": None}, "length"),
        ("dr_grpo", {"length": 3, "clip_low": 2.0}, "clip"),
        ("cispo", {"cap": 0.0}, "cap"),
        ("cispo", {"cap": -1.0}, "cap"),
        ("sapo", {"tau_positive": 0.0}, "tau_positive"),
        ("sapo", {"tau_negative": -1.0}, "tau_negative"),
        ("disco", {"tau": 0.0}, "tau"),
        ("disco", {"tau": -1.0, "score": "ratio"}, "tau"),
        ("disco", {"tau": "cold"}, "tau"),
        ("disco", {"delta": -1e-4}, "delta"),
        ("disco", {"hinge": -1.0}, "hinge"),
        ("disco_b", {"delta": -1e-4}, "delta"),
        ("disco_b", {"hinge": -1.0}, "hinge"),
        ("disco_b", {"hinge": None}, "hinge"),
        ("dpo", {"beta": 0.0}, "beta"),
        ("dpo", {"reference": None}, "reference"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused_by_name(name, hyperparameters, culprit):
    with pytest.raises((TypeError, ValueError)) as refused:
        contrapose.objective(name, **hyperparameters)
    text = str(refused.value)
    assert "objective" in text and culprit in text and "\n" not in text


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("grpo", {"clip_low": 1.0, "clip_high": 0.0, "dual_clip": 1.0, "std_eps": 0.0, "reference_coef": 0.0}),
        ("gmpo", {"clip_low": 3.0, "clip_high": 0.0}),
        ("gspo", {"clip_low": 0.0, "clip_high": 7.0}),
        ("dr_grpo", {"length": 0.5}),
        ("cispo", {"cap": 0.5}),
        ("disco", {"delta": 0, "hinge": 0, "tau": None}),
        ("rence", {"kl_coef": 0.0, "alpha": 0.0}),
    ],
)
def test_hyperparameters_at_the_edge_of_sense_are_taken(name, hyperparameters):
    logp, step = apart(ragged(62))
    assert contrapose.credit(name, logp, **step, **hyperparameters).isfinite().all()


def test_the_catalogue():
    catalogue = contrapose.objectives()
    assert " ".join(catalogue) == (
        "rence conspo grpo dapo dr_grpo gspo gmpo cispo sapo disco disco_b dpo rloo reinforce"
    )
    for name, info in catalogue.items():
        assert info.name == name
        assert "\n" not in info.paper + info.credit + info.disagreement
        assert re.search(r"\((arXiv \d{4}\.\d{5}|Williams 1992)", info.paper)
        assert "J = " in info.equation and info.credit and info.disagreement
        assert set(info.factors) == set(info.kinds) == {"aggregate", "score", "margin", "contrast", "trust"}
        assert all(isinstance(x, str) and x for x in info.factors.values())
        assert all("0x" not in x and "nan" not in x for x in info.factors.values())
        needed = dict.fromkeys(info.required, 10)
        assert contrapose.objective(name, **needed, **info.defaults) == contrapose.objective(name, **needed)
    assert catalogue["rence"].defaults["beta"] == 0.1
    assert catalogue["conspo"].factors["aggregate"] == "rollout_mean"
    assert catalogue["grpo"].factors["margin"] == catalogue["conspo"].factors["trust"] == "-"
    assert catalogue["grpo"].factors["contrast"] == "Linear(ZScore(ddof=1, eps=1e-06), of='reward')"
    assert catalogue["rloo"].kinds["contrast"] == "Linear(leave_one_out)"
    assert (catalogue["dr_grpo"].required, catalogue["dr_grpo"].factors["aggregate"]) == (
        ("length",),
        "ConstantLength(length)",
    )


def test_a_factor_composed_by_hand_has_the_published_settings():
    """A factor without arguments is the one of the objective it comes from."""
    built = {name: contrapose.objective(name, **({"length": 9.0} if name == "dr_grpo" else {})) for name in ZOO}
    assert built["rence"].score == LogRatio() == built["dpo"].score == LogRatio(0.1, "old")
    assert built["rence"].contrast == NCE() == NCE("best", 1.0)
    assert built["rence"].margin == RewardGap() == RewardGap(0.5)
    assert built["rence"].trust == KLOld() == KLOld(0.001, 0.01, 25600.0, "token_mean")
    assert built["conspo"].margin == Cosine() == Cosine(0.01, 0.3)
    assert built["disco"].contrast == DRO("correct") == DRO("correct", 10.0)
    assert built["disco"].trust == KLHinge() == built["disco_b"].trust == KLHinge(1e-4, 1e3)
    assert built["dpo"].contrast == AllPairs("correct") != AllPairs()
    assert built["grpo"].score == ClippedRatio() == built["dr_grpo"].score == ClippedRatio(0.2, 0.2, None)
    assert built["dapo"].score == ClippedRatio(0.2, 0.28)
    assert built["gspo"].score == SequenceRatio() == SequenceRatio(3e-4, 4e-4)
    assert built["gmpo"].score == GeometricRatio() == GeometricRatio(0.4, 0.4)
    assert built["cispo"].score == CappedLogProb() == CappedLogProb(5.0)
    assert built["sapo"].score == SoftGate() == SoftGate(1.0, 1.05)
    for name in ("grpo", "dapo", "gspo", "gmpo", "cispo", "sapo"):
        assert built[name].contrast == Linear(ZScore()) == Linear(ZScore(1, 1e-6), "reward")
    assert KLReference() == KLReference(0.04)  # the paper's; grpo's default is none
    assert built["grpo"].trust is None
