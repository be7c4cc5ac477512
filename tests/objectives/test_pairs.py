"""Pairs: DPO, and ReNCE's ablations that are pairs."""

import pytest
import torch
from objective_cases import POSITIVES_FIRST, SCORES
from textbook.step import apart, ragged

import contrapose

D = torch.float64


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("rence", {"alpha": 0.0}),
        ("rence", {"margin": None}),
        ("rence", {"margin": None, "contrast": "all_pairs"}),
        ("rence", {"margin": None, "contrast": "softmax"}),
        ("rence", {"margin": None, "contrast": "random_pair"}),
        ("dpo", {}),
        ("dpo", {"contrast": "random_pair"}),
        ("dpo", {"reference": "initial"}),
    ],
)
def test_one_against_one_is_dpo(name, arguments):
    """nP = nN = 1 without a margin: log sigmoid(beta D_i - beta D_j), D to pi_old, or to pi_ref where that is asked."""
    logp, old, initial = -torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(8), dtype=D)
    beta, reward = 0.3, torch.tensor([[1.0, 0.0]])
    kw = {"old_logp": old, "reference_logp": initial, "reward": reward, "beta": beta, **arguments}
    if name == "rence":
        kw["trust"] = None
    since = initial if "reference" in arguments else old
    gap = beta * ((logp - since)[0, 0].sum() - (logp - since)[0, 1].sum())
    surprise = beta * torch.sigmoid(-gap)
    J = contrapose.value(name, logp, **kw)
    assert J.item() == pytest.approx(torch.nn.functional.logsigmoid(gap).item(), rel=1e-12)
    found = contrapose.credit(name, logp, **kw)
    torch.testing.assert_close(found, surprise * torch.tensor([[[1.0] * 3, [-1.0] * 3]], dtype=D), rtol=1e-12, atol=0)


def test_dpo_is_rences_pairs_among_the_verified():
    """DPO's pairs are ReNCE's without a margin, positives by correctness and not by reward."""
    logp, step = apart(ragged(5, Q=6, K=6))
    kw = {"margin": None, "trust": None, "contrast": "all_pairs"}
    found = contrapose.credit("dpo", logp, **step)
    assert torch.equal(found, contrapose.credit("rence", logp, **step, **kw, positives="correct"))
    assert not torch.allclose(found, contrapose.credit("rence", logp, **step, **kw, positives="best"))


def test_a_random_pair_is_contrasted_alone_and_drawn_uniformly():
    Q = 6000
    scores, reward = SCORES[:, 1:6].expand(Q, 5), POSITIVES_FIRST[:, 1:6].expand(Q, 5)
    kw = {"old_logp": torch.zeros(Q, 5, 1, dtype=D), "reward": reward, "contrast": "random_pair", "beta": 1.0}
    for name, arguments in (("rence", {"trust": None, "margin": None}), ("dpo", {})):
        generator = torch.Generator().manual_seed(0)
        c = contrapose.credit(name, scores.unsqueeze(-1), **kw, **arguments, generator=generator).squeeze(-1) * Q
        assert ((c != 0).sum(1) == 2).all()
        i, j = c.argmax(1), c.argmin(1)
        assert (reward.gather(1, i.unsqueeze(1)) == 1).all() and (reward.gather(1, j.unsqueeze(1)) == 0).all()
        surprise = torch.sigmoid(scores.gather(1, j.unsqueeze(1)) - scores.gather(1, i.unsqueeze(1))).squeeze(1)
        torch.testing.assert_close(c.amax(1), surprise, rtol=1e-10, atol=0)
        torch.testing.assert_close(c.amin(1), -surprise, rtol=1e-10, atol=0)
        seen = torch.bincount(i * 5 + j, minlength=25)
        seen = seen[seen > 0].double()
        assert len(seen) == 6
        assert ((seen - Q / 6).square() / (Q / 6)).sum() < 20.5  # chi-square, 5 degrees, p = 0.001


@pytest.mark.parametrize(("name", "arguments"), [("rence", {"trust": None}), ("dpo", {})])
def test_a_generator_draws_the_same_pairs_in_every_dtype(name, arguments):
    kw = {"reward": POSITIVES_FIRST.expand(20, 8), "contrast": "random_pair", **arguments}
    logp = -torch.rand(20, 8, 2, dtype=D, generator=torch.Generator().manual_seed(1))
    drawn = [
        contrapose.credit(name, x, **kw, generator=torch.Generator().manual_seed(5)) != 0 for x in (logp, logp.float())
    ]
    assert torch.equal(*drawn)
