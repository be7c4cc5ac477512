"""Every objective against its loop-written transcription, on ragged random steps."""

import pytest
import textbook
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import contrapose

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
    "grpo": ("grpo", {}),
    "grpo asymmetric": ("grpo", {"clip_low": 0.1, "clip_high": 0.35}),
    "grpo dual_clip": ("grpo", {"dual_clip": 1.4}),
    "grpo reference": ("grpo", {"reference_coef": 0.3}),
    "grpo population": ("grpo", {"std_ddof": 0, "std_eps": 0.0}),
    "grpo unclipped": ("grpo", {"clip_low": 1.0, "clip_high": 1e6}),
}


@st.composite
def steps(draw):
    """One to three groups of one to five rollouts, each with any length, reward and presence."""
    Q, K, T = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rows = st.tuples(st.integers(0, T), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([True, True, True, False]))
    drawn = [[draw(rows) for _ in range(K)] for _ in range(Q)]
    drawn[0][0] = (*drawn[0][0][:2], True)
    length, reward, present = (torch.tensor([[row[x] for row in group] for group in drawn]) for x in range(3))
    return textbook.step_of(length, reward.double(), present, draw(st.integers(0, 999)), T)


def check(case, step):
    name, arguments = CASES[case]
    known = {key: value for key, value in arguments.items() if key != "trust"}
    J, expected = getattr(textbook, name)(step, **known)
    step = dict(step)
    logp = step.pop("logp")
    if "reference_coef" not in arguments:
        del step["reference_logp"]
    found = contrapose.credit(name, logp, **step, **arguments)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-14)
    assert contrapose.value(name, logp, **step, **arguments).item() == pytest.approx(J, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(step=steps())
def test_any_step(case, step):
    check(case, step)


@pytest.mark.parametrize("case", CASES)
def test_a_larger_step(case):
    check(case, textbook.ragged(seed=11, Q=8, K=6, T=9))


def test_the_larger_step_is_varied():
    """The step above has everything that could go wrong: otherwise agreeing on it proves little."""
    step = textbook.ragged(seed=11, Q=8, K=6, T=9)
    length = step["mask"].sum(-1)
    moved = (step["logp"] - step["old_logp"])[step["mask"] == 1]
    assert ((length == 0) & step["present"]).any()
    assert not step["present"].all()
    assert len(set(length[length > 0].tolist())) > 3
    assert (moved > 0.2).any() and (moved < -0.25).any() and (moved == 0).any()
    assert any(len({float(r) for r in row}) < len(row) for row in step["reward"])


@pytest.mark.parametrize("T", [1.0, 0.3, 10.0])
@pytest.mark.parametrize(("pos", "neg"), [([0], [1]), ([0, 2], [1, 3, 4]), ([0, 1, 2, 3], [4]), ([4], [0, 1, 2, 3])])
def test_gate_and_distribution_is_the_pairwise_form(T, pos, neg):
    scores = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
    J, c = textbook.info_nce({k: scores[k] for k in pos + neg}, pos, neg, T)
    fast_J, fast_c = textbook.gate_and_distribution({k: s / T for k, s in enumerate(scores)}, pos, neg, T)
    assert fast_J == pytest.approx(J, rel=1e-10)
    assert fast_c == pytest.approx(c, rel=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_credit_is_a_gate_and_a_distribution(seed):
    """ConSPO's credit in O(K), without any matrix of positives against negatives."""
    step = textbook.ragged(seed, Q=4, K=8)
    tau, M = 0.5, 0.2
    logp, mask = step["logp"], step["mask"]
    given = {key: step[key] for key in ("old_logp", "mask", "reward", "correct", "present")}
    found = contrapose.credit("conspo", logp, **given, tau=tau, M=M, margin="constant")
    rollout_credit = found.sum(-1) * textbook.prompts(step)
    for q, here in textbook.groups(step):
        pos, neg = textbook.sides(step, q, here, "correct")
        expected = dict.fromkeys(range(8), 0.0)
        if pos and neg:
            score = {k: float(logp[q, k][mask[q, k] == 1].mean()) for k in pos + neg}
            logits = {k: (s - (M if k in pos else 0.0)) / tau for k, s in score.items()}
            expected |= textbook.gate_and_distribution(logits, pos, neg, tau)[1]
        assert rollout_credit[q].tolist() == pytest.approx(list(expected.values()), rel=1e-10, abs=1e-14)
