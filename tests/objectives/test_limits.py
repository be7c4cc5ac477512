"""What an objective becomes when one of its settings goes to an end of its range."""

import pytest
import torch
from objective_cases import SCORES, batch_of, one_token
from textbook.step import apart, ragged

import contrapose

D = torch.float64
HARDEST = torch.tensor([[-0.5, -2.0, -3.0, -1.0, -1.5, -4.0, -2.5, -6.0]], dtype=D)
"""The likeliest negative, the fourth rollout, beats the second and the third positive."""


def advantage_and_ratio(step):
    A = contrapose.objective("grpo").plan(batch_of(step)).advantage_QK.unsqueeze(-1)
    return A, (step["logp"] - step["old_logp"]).exp().masked_fill(step["mask"] == 0, 0.0)


def test_a_high_temperature_sees_no_scores():
    """tau -> infinity, ConSPO: N- / (N- + 1) times (1/N+, -1/N-)."""
    _, c = one_token(SCORES, name="conspo", tau=1e7, margin=None)
    assert c.tolist() == pytest.approx([5 / 6 / 3] * 3 + [-5 / 6 / 5] * 5, rel=1e-6)


def test_a_low_temperature_sees_the_hardest_negative():
    """tau -> 0, ConSPO: only the likeliest negative is pushed, by the positives that it beats."""
    _, c = one_token(HARDEST, name="conspo", tau=1e-3, margin=None)
    assert c.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, -2 / 3, 0.0, 0.0, 0.0, 0.0], abs=1e-12)


def test_disco_at_a_low_temperature_sees_the_hardest_negative():
    """tau -> 0: J is the positives' mean less the likeliest negative, whether it beats them or not."""
    J, c = one_token(HARDEST, name="disco", tau=1e-3, hinge=0.0)
    assert c.tolist() == pytest.approx([1 / 3] * 3 + [-1.0, 0.0, 0.0, 0.0, 0.0], abs=1e-12)
    assert pytest.approx(-5.5 / 3 + 1.0, abs=0.01) == J


@pytest.mark.parametrize("score", ["log_prob", "ratio"])
def test_disco_at_a_high_temperature_is_disco_b(score):
    """tau -> infinity, in value and credit; at its published temperature it is not yet there."""
    logp, step = apart(ragged(40, Q=4, K=6))
    kw = {**step, "score": score, "hinge": 0.0}
    basic, basic_J = (f("disco_b", logp, **kw) for f in (contrapose.credit, contrapose.value))
    hot, hot_J = (f("disco", logp, **kw, tau=1e7) for f in (contrapose.credit, contrapose.value))
    torch.testing.assert_close(hot, basic, rtol=1e-6, atol=0)
    assert hot_J.item() == pytest.approx(basic_J.item(), rel=1e-6)
    assert not torch.allclose(contrapose.credit("disco", logp, **kw), basic, rtol=1e-3)


def test_with_every_gate_open_conspo_is_disco():
    """A margin beyond all scores makes each positive's 1 - P+ one; the negatives keep their softmax."""
    logp, step = apart(ragged(41, Q=4, K=6))
    found = contrapose.credit("conspo", logp, **step, tau=0.5, M=100.0, margin="constant")
    torch.testing.assert_close(found, contrapose.credit("disco", logp, **step, tau=0.5, hinge=0.0), rtol=1e-12, atol=0)
    assert not torch.allclose(contrapose.credit("conspo", logp, **step, tau=0.5, margin=None), found, rtol=0.1)


def test_dpo_of_a_small_beta_is_half_a_difference_of_means():
    """beta -> 0: every pair's surprise is 1/2."""
    logp, step = apart(ragged(42, Q=4, K=6))
    found = contrapose.credit("dpo", logp, **step, beta=1e-8) / 1e-8
    basic = contrapose.credit("disco_b", logp, **step, hinge=0.0) * step["mask"].sum(-1, keepdim=True)
    torch.testing.assert_close(found, basic / 2, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "cispo", "sapo"])
def test_without_a_leash_it_is_the_importance_weighted_policy_gradient(name):
    """A rho m over the denominator: clips at 0 and infinity, a cap at infinity, gates of temperature 0."""
    step = ragged(9, Q=4, K=6)
    A, ratio = advantage_and_ratio(step)
    N, tokens, lengths = step["present"].sum(), step["mask"].sum(), step["mask"].sum(-1, keepdim=True).clamp(min=1)
    wide = {"clip_low": 1.0, "clip_high": 1e9}
    settings, denominator = {
        "grpo": (wide, N * lengths),
        "dapo": (wide, tokens),
        "dr_grpo": ({**wide, "length": 5.0}, N * 5.0),
        "cispo": ({"cap": 1e9}, tokens),
        "sapo": ({"tau_positive": 1e-6, "tau_negative": 1e-6}, N * lengths),
    }[name]
    logp, step = apart(step)
    if name == "dr_grpo":
        A = contrapose.objective(name, length=1.0).plan(batch_of({**step})).advantage_QK.unsqueeze(-1)
    found = contrapose.credit(name, logp, **step, **settings)
    torch.testing.assert_close(found, A * ratio / denominator, rtol=1e-10, atol=1e-15)
    assert found.abs().max() > 0.01


def test_without_a_clip_gmpo_is_gspo():
    """A g m / (N L), g the geometric mean of the rollout's ratios."""
    step = ragged(43, Q=4, K=6)
    A, ratio = advantage_and_ratio(step)
    L = step["mask"].sum(-1, keepdim=True).clamp(min=1)
    g = (ratio.log().masked_fill(step["mask"] == 0, 0.0).sum(-1, keepdim=True) / L).exp()
    expected = A * g * step["mask"] / L / step["present"].sum()
    logp, step = apart(step)
    for name, low in (("gspo", 1.0), ("gmpo", 1e9)):
        found = contrapose.credit(name, logp, **step, clip_low=low, clip_high=1e9)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-16)
    assert expected.abs().max() > 0.01


def test_sharp_gates_shut_on_every_token_that_moved():
    """tau -> infinity, SAPO: only tokens at rho = 1 are left, with their on-policy credit."""
    logp, step = apart(ragged(44, Q=4, K=6))
    found = contrapose.credit("sapo", logp, **step, tau_positive=1e5, tau_negative=1e5)
    still = logp == step["old_logp"]
    at_old = contrapose.credit("sapo", logp, **{**step, "old_logp": logp})
    torch.testing.assert_close(found, at_old * still, rtol=1e-12, atol=1e-16)
    assert (found != 0).any() and ((at_old != 0) & ~still).any()


def test_a_cap_below_every_ratio_leaves_reinforce_with_advantages():
    """CISPO, cap -> 0: A cap over all tokens, wherever the policy went."""
    step = ragged(45, Q=4, K=6)
    A, _ = advantage_and_ratio(step)
    logp, step = apart(step)
    found = contrapose.credit("cispo", logp, **step, cap=1e-3)
    torch.testing.assert_close(found, A * 1e-3 * step["mask"] / step["mask"].sum(), rtol=1e-12, atol=1e-18)
