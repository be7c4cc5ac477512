"""How far apart right and wrong must be, and when."""

import math

import pytest
import torch
from objective_cases import SCORES, one_token

D = torch.float64


def test_the_reward_gap_decides_between_negatives_of_equal_score():
    """|c_j| / |c_k| = exp(alpha (r_k - r_j))."""
    reward = torch.tensor([[1.0, 0.1, 0.0]], dtype=D)
    _, c = one_token(torch.zeros(1, 3, dtype=D), reward=reward, alpha=2.0)
    assert (c[2] / c[1]).item() == pytest.approx(math.exp(2.0 * 0.1), rel=1e-12)


def test_the_reward_gap_is_for_negatives_only():
    """A correct rollout below the best reward is still a positive, and has no margin."""
    reward = torch.tensor([[1.0, 0.6, 0.0]], dtype=D)
    J, c = one_token(SCORES[:, :3], reward=reward, correct=reward > 0.5, positives="correct", alpha=2.0)
    s = SCORES[0, :3]
    gates = torch.sigmoid(s[2] + 2.0 - s[:2])
    assert c.tolist() == pytest.approx([gates[0].item() / 2, gates[1].item() / 2, -gates.mean().item()], rel=1e-12)
    assert pytest.approx((1 - gates).log().mean().item(), rel=1e-12) == J


@pytest.mark.parametrize(
    ("progress", "height"),
    [(0.0, 0.0), (0.1, (1 - math.cos(math.pi / 4)) / 2), (0.2, 0.5), (0.4, 1.0), (0.7, 1.0), (1.0, 1.0)],
)
def test_the_margin_rises_over_the_warm_up(progress, height):
    """m(0) = 0, m(warmup/2) = M/2, m = M from the end of the warm-up on."""
    M = 0.8
    found = one_token(SCORES, name="conspo", tau=0.5, M=M, warmup=0.4, progress=progress)
    expected = one_token(SCORES, name="conspo", tau=0.5, M=M * height, margin="constant")
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-12, atol=0)


def test_without_a_warm_up_the_margin_is_whole_at_once():
    found = one_token(SCORES, name="conspo", M=0.8, warmup=0.0, progress=0.0)
    assert found[0] == one_token(SCORES, name="conspo", M=0.8, margin="constant")[0]


@pytest.mark.parametrize("margin", ["cosine", "constant", None])
def test_a_margin_does_nothing_to_a_linear_contrast(margin):
    _, c = one_token(SCORES, name="conspo", contrast="linear", margin=margin, M=5.0, progress=1.0)
    assert torch.equal(c, one_token(SCORES, name="conspo", contrast="linear", margin=None)[1])


def test_a_margin_opens_the_gates():
    _, without = one_token(SCORES, margin=None)
    _, with_margin = one_token(SCORES, margin="constant", alpha=1.0)
    assert (with_margin[:3] > without[:3]).all()


@pytest.mark.parametrize(
    ("arguments", "positive", "negative"),
    [
        ({}, 0.4531, [-0.1472, -0.1548]),
        ({"margin": None}, 0.4286, [-0.1429, -0.1429]),
        ({"margin": "constant"}, 0.4541, [-0.1514, -0.1514]),
    ],
)
def test_the_first_step_of_rence(arguments, positive, negative):
    """At theta = old the credit does not vanish, margin or not."""
    reward = torch.tensor([[1.0, 1.0, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0]], dtype=D)
    _, c = one_token(torch.zeros(1, 8, dtype=D), reward=reward, **arguments)
    assert c.tolist() == pytest.approx([positive] * 2 + [negative[0]] * 3 + [negative[1]] * 3, abs=5e-5)
