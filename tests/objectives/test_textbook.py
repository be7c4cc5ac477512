"""Every objective against its loop-written transcription, on ragged random steps."""

import inspect
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import textbook
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_cases import reads_reference
from textbook.contrastive import gate_and_distribution, info_nce
from textbook.step import apart, groups, prompts, ragged, sides, step_of, without

import contrapose
from contrapose.objectives.zoo import ZOO

CASES = {
    "rence": ("rence", {"kl_coef": 0.0}),
    "rence no trust": ("rence", {"trust": None}),
    "rence constant margin": ("rence", {"trust": None, "margin": "constant"}),
    "rence no margin": ("rence", {"trust": None, "margin": None}),
    "rence softmax": ("rence", {"trust": None, "contrast": "softmax"}),
    "rence softmax no margin": ("rence", {"trust": None, "margin": None, "contrast": "softmax"}),
    "rence all pairs": ("rence", {"trust": None, "contrast": "all_pairs"}),
    "rence all pairs no margin": ("rence", {"trust": None, "margin": None, "contrast": "all_pairs"}),
    "rence correct": ("rence", {"trust": None, "positives": "correct"}),
    "rence beta alpha": ("rence", {"beta": 1.3, "alpha": 2.0, "kl_coef": 0.01}),
    "rence token_mean": ("rence", {"kl_coef": 0.7, "kl_aggregate": "token_mean"}),
    "rence sequence_sum": ("rence", {"kl_coef": 0.7, "kl_aggregate": "sequence_sum"}),
    "rence sequence": ("rence", {"kl_coef": 0.7, "kl_aggregate": "sequence"}),
    "conspo": ("conspo", {"progress": 0.1}),
    "conspo tau": ("conspo", {"tau": 0.5, "M": 0.3, "progress": 0.2}),
    "conspo warmed up": ("conspo", {"tau": 1.0, "M": 0.5, "warmup": 0.4, "progress": 0.9}),
    "conspo constant margin": ("conspo", {"tau": 1.0, "M": 0.5, "margin": "constant"}),
    "conspo no margin": ("conspo", {"tau": 1.0, "margin": None, "progress": 0.5}),
    "conspo linear": ("conspo", {"contrast": "linear", "margin": None}),
    "conspo clipped_ratio": ("conspo", {"tau": 1.0, "score": "clipped_ratio", "progress": 0.5}),
    "conspo clipped_ratio epsilon": ("conspo", {"score": "clipped_ratio", "epsilon": 0.4, "tau": 0.7}),
    "conspo linear clipped_ratio": ("conspo", {"contrast": "linear", "score": "clipped_ratio", "margin": None}),
    "disco": ("disco", {}),
    "disco no hinge": ("disco", {"hinge": 0.0}),
    "disco tau delta": ("disco", {"tau": 0.5, "delta": 0.06, "hinge": 2.0}),
    "disco ratio": ("disco", {"score": "ratio", "hinge": 0.0}),
    "disco ratio tau hinge": ("disco", {"score": "ratio", "tau": 0.3, "delta": 0.0, "hinge": 3.0}),
    "disco_b": ("disco_b", {}),
    "disco_b no hinge": ("disco_b", {"hinge": 0.0}),
    "disco_b ratio": ("disco_b", {"score": "ratio", "delta": 0.06, "hinge": 5.0}),
    "dpo": ("dpo", {}),
    "dpo beta": ("dpo", {"beta": 1.3}),
    "dpo initial": ("dpo", {"beta": 0.8, "reference": "initial"}),
    "grpo": ("grpo", {}),
    "grpo asymmetric": ("grpo", {"clip_low": 0.1, "clip_high": 0.35}),
    "grpo dual_clip": ("grpo", {"dual_clip": 1.4}),
    "grpo reference": ("grpo", {"reference_coef": 0.3}),
    "grpo population": ("grpo", {"std_ddof": 0, "std_eps": 0.0}),
    "grpo unclipped": ("grpo", {"clip_low": 1.0, "clip_high": 1e6}),
    "dapo": ("dapo", {}),
    "dapo asymmetric": ("dapo", {"clip_low": 0.1, "clip_high": 0.5, "std_ddof": 0, "std_eps": 0.1}),
    "dapo dual_clip": ("dapo", {"dual_clip": 1.4}),
    "dapo token_mean_group": ("dapo", {"aggregate": "token_mean_group"}),
    "dr_grpo": ("dr_grpo", {"length": 7.0}),
    "dr_grpo asymmetric": ("dr_grpo", {"length": 0.5, "clip_low": 0.1, "clip_high": 0.35, "dual_clip": 1.4}),
    "gspo": ("gspo", {}),
    "gspo wide": ("gspo", {"clip_low": 0.1, "clip_high": 0.2, "std_ddof": 0, "std_eps": 0.1}),
    "gmpo": ("gmpo", {}),
    "gmpo asymmetric": ("gmpo", {"clip_low": 0.1, "clip_high": 0.3, "std_ddof": 0, "std_eps": 0.1}),
    "cispo": ("cispo", {}),
    "cispo capped": ("cispo", {"cap": 1.1, "std_ddof": 0, "std_eps": 0.1}),
    "sapo": ("sapo", {}),
    "sapo sharp": ("sapo", {"tau_positive": 3.0, "tau_negative": 0.5, "std_ddof": 0, "std_eps": 0.1}),
    "rloo": ("rloo", {}),
    "reinforce": ("reinforce", {}),
}


@st.composite
def steps(draw, widths=(0.35,)):
    """One to three groups of one to five rollouts, each with any length, reward and presence."""
    Q, K, T = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rows = st.tuples(st.integers(0, T), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([True, True, True, False]))
    drawn = [[draw(rows) for _ in range(K)] for _ in range(Q)]
    drawn[0][0] = (*drawn[0][0][:2], True)
    length, reward, present = (torch.tensor([[row[x] for row in group] for group in drawn]) for x in range(3))
    return step_of(length, reward.double(), present, draw(st.integers(0, 999)), T, draw(st.sampled_from(widths)))


def larger(std=0.35):
    return ragged(seed=13, Q=8, K=6, T=9, std=std, absent=0.2)


def check(case, step, tolerance=1e-10):
    name, arguments = CASES[case]
    known = {key: value for key, value in arguments.items() if key != "trust"}
    J, expected = getattr(textbook, name)(step, **known)
    logp, step = apart(step if reads_reference(arguments) else without(step, "reference_logp"))
    found = contrapose.credit(name, logp, **step, **arguments)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * 1e-4)
    value = contrapose.value(name, logp, **step, **arguments).item()
    assert value == pytest.approx(J, rel=tolerance, abs=tolerance * 1e-2)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(step=steps())
def test_any_step(case, step):
    check(case, step)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(step=steps(widths=(5.0, 15.0)))
def test_any_step_however_far(case, step):
    """Log-ratios of tens of nats: nothing overflows, and those beyond 20 are held there."""
    check(case, step, tolerance=1e-6)


@pytest.mark.parametrize("std", [0.35, 5.0, 15.0])
@pytest.mark.parametrize("case", CASES)
def test_a_larger_step(case, std):
    check(case, larger(std), tolerance=1e-10 if std < 1 else 1e-6)


def test_the_larger_step_is_varied():
    """The step above has everything that could go wrong: otherwise agreeing on it proves little."""
    step = larger()
    length = step["mask"].sum(-1)
    d = (step["logp"] - step["old_logp"])[step["mask"] == 1]
    assert ((length == 0) & step["present"]).any()
    assert not step["present"].all()
    assert len(set(length[length > 0].tolist())) > 3
    assert len({int(here.sum()) for here in step["present"]}) > 2
    assert len({int(n) for n in length.sum(1)}) > 5
    assert (d > 0.4).any() and ((d > 0.19) & (d < 0.24)).any() and (d < -0.5).any() and (d == 0).any()
    assert 0.06 < -d.mean() < 0.5  # the hinge bites
    assert any(len({float(r) for r in row}) < len(row) for row in step["reward"])
    right = [int((step["correct"] & step["present"])[q, here].sum()) for q, here in groups(step)]
    wrong = [int((~step["correct"] & step["present"])[q, here].sum()) for q, here in groups(step)]
    assert 0 in right and 1 in right and 1 in wrong  # a dead group, a single positive, a single negative
    far = larger(std=15.0)
    d = (far["logp"] - far["old_logp"])[far["mask"] == 1]
    assert (d > 20).any() and (d < -20).any()


def test_every_setting_is_transcribed():
    """Each choice of each objective, and each of its numbers at a value that is not its default."""
    elsewhere = {("rence", "kl_target"), ("rence", "kl_horizon")}  # the controller's: they do not enter J
    drawn = {"random_pair"}
    assert {name for name, _ in CASES.values()} == set(ZOO)
    for name, make in ZOO.items():
        hints = get_type_hints(make)
        for key, parameter in inspect.signature(make).parameters.items():
            seen = [arguments.get(key, parameter.default) for other, arguments in CASES.values() if other == name]
            if get_origin(hints[key]) is Literal:
                assert set(seen) >= set(get_args(hints[key])) - drawn, f"{name}.{key}"
            elif (name, key) not in elsewhere:
                assert set(seen) - {parameter.default}, f"{name}.{key}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("rence", {"trust": None, "beta": 0.7}), ("rence", {"trust": None, "positives": "correct"}), ("dpo", {})],
)
def test_a_random_pair_is_all_pairs_of_two(name, arguments, seed):
    """With every rollout that was not drawn emptied, so that it has no score, all pairs are the one pair."""
    step = ragged(seed, Q=4, K=6, absent=0.1)
    logp, rest = apart(step)
    kw = {**rest, **arguments, "contrast": "random_pair"}
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    found = contrapose.credit(name, logp, **kw, generator=generators[0])
    J = contrapose.value(name, logp, **kw, generator=generators[1]).item()
    drawn = (found != 0).any(-1)
    assert drawn.any() and set(drawn.sum(1).tolist()) <= {0, 2}
    alone = {**step, "mask": step["mask"] * drawn.unsqueeze(-1)}
    arguments = {key: value for key, value in arguments.items() if key != "trust"}
    pairs = {"contrast": "all_pairs"} if name == "rence" else {}
    expected_J, expected = getattr(textbook, name)(alone, **arguments, **pairs)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-15)
    assert pytest.approx(expected_J, rel=1e-10) == J


@pytest.mark.parametrize("T", [1.0, 0.3, 10.0])
@pytest.mark.parametrize(("pos", "neg"), [([0], [1]), ([0, 2], [1, 3, 4]), ([0, 1, 2, 3], [4]), ([4], [0, 1, 2, 3])])
def test_gate_and_distribution_is_the_pairwise_form(T, pos, neg):
    scores = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
    J, c = info_nce({k: scores[k] for k in pos + neg}, pos, neg, T)
    fast_J, fast_c = gate_and_distribution({k: s / T for k, s in enumerate(scores)}, pos, neg, T)
    assert fast_J == pytest.approx(J, rel=1e-10)
    assert fast_c == pytest.approx(c, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_credit_is_a_gate_and_a_distribution(seed):
    """ConSPO's credit in O(K), without any matrix of positives against negatives."""
    step = ragged(seed, Q=4, K=8)
    tau, M = 0.5, 0.2
    logp, mask = step["logp"], step["mask"]
    given = {key: step[key] for key in ("old_logp", "mask", "reward", "correct", "present")}
    found = contrapose.credit("conspo", logp, **given, tau=tau, M=M, margin="constant")
    rollout_credit = found.sum(-1) * prompts(step)
    for q, here in groups(step):
        pos, neg = sides(step, q, here, "correct")
        expected = dict.fromkeys(range(8), 0.0)
        if pos and neg:
            score = {k: float(logp[q, k][mask[q, k] == 1].mean()) for k in pos + neg}
            logits = {k: (s - (M if k in pos else 0.0)) / tau for k, s in score.items()}
            expected |= gate_and_distribution(logits, pos, neg, tau)[1]
        assert rollout_credit[q].tolist() == pytest.approx(list(expected.values()), rel=1e-10, abs=1e-14)
