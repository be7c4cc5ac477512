"""The two-level search for a token against one running sum over the whole vocabulary, in float64."""

import pytest
import torch

from contrapose.rollout.sampler import Sampling, sample, uniform

ROWS = {26: 2000, 64: 2000, 65: 2000, 1000: 500, 4096: 500, 151936: 8}
LAST = 1 - 2.0**-53  # the largest number that a draw may be


def seeds_of(uniform_N):
    """The seeds whose first draws are these, down to the grid of draws: SplitMix64 backwards."""
    return torch.tensor([_seed_of(int(u * 2.0**53)) for u in uniform_N.tolist()])


def _seed_of(draw, bits=2**64):
    x = draw << 11
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        x ^= x >> shift ^ x >> 2 * shift
        x = x * pow(factor, -1, bits) % bits
    x = (x - 0x9E3779B97F4A7C15) % bits
    return x - bits if x >= bits // 2 else x


def sampled(logits_NV, uniform_N=None, **kw):
    """With draws of these values, or those of seeds from 0 on."""
    seed_N = torch.arange(len(logits_NV)) if uniform_N is None else seeds_of(uniform_N)
    return sample(logits_NV, seed_N, torch.tensor(0), Sampling(**kw))


def plain(p_NV, uniform_N):
    """The token at which the running sum passes the draw, and how far the draw is from the token's two ends."""
    cdf_NV = p_NV.double().cumsum(-1)
    target_N1 = uniform_N.unsqueeze(1) * cdf_NV[:, -1:]
    token_N1 = torch.searchsorted(cdf_NV, target_N1, right=True)
    ends_NV = torch.nn.functional.pad(cdf_NV, (1, 0))
    away = [(target_N1 - ends_NV.gather(1, token_N1 + more)).abs() for more in (0, 1)]
    return token_N1.squeeze(1), torch.minimum(*away).squeeze(1)


@pytest.mark.parametrize("spread", [0.0, 3.0, 12.0])
@pytest.mark.parametrize("vocabulary", ROWS)
def test_a_plain_inverse_cdf(vocabulary, spread):
    """From even to peaked logits, with draws that the sampler makes itself."""
    rows = ROWS[vocabulary]
    logits_NV = spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    found_N, logp_N = sampled(logits_NV)
    expected_N, away_N = plain(logits_NV.softmax(-1), uniform(torch.arange(rows), torch.tensor(0)))
    clear_N = away_N > 1e-13
    assert clear_N.double().mean() > 0.99
    assert torch.equal(found_N[clear_N], expected_N[clear_N])
    assert len(found_N.unique()) > 4
    torch.testing.assert_close(logp_N, logits_NV.log_softmax(-1).gather(1, found_N.unsqueeze(1)).squeeze(1))


@pytest.mark.parametrize("vocabulary", [64, 4096])
def test_every_token_begins_where_the_one_before_ends(vocabulary):
    """Probabilities of a power of two, so that nothing is rounded: at blocks' ends too."""
    start_N = torch.arange(vocabulary, dtype=torch.float64) / vocabulary
    logits_NV = torch.zeros(1, vocabulary).expand(vocabulary, -1)
    for uniform_N in (start_N, start_N + 2.0**-40, start_N[1:] - 2.0**-40):
        assert torch.equal(uniform(seeds_of(uniform_N), torch.tensor(0)), uniform_N)
        found_N, _ = sampled(logits_NV[: len(uniform_N)], uniform_N)
        assert torch.equal(found_N, torch.arange(len(uniform_N)))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("vocabulary", [26, 64, 65, 130, 4096, 151936])
def test_neither_padding_nor_a_token_without_probability(vocabulary, top_p):
    """With a few tokens possible, at either end, in one block or in the last, and draws at the ends of the interval."""
    last = vocabulary - 1
    for possible in ([0], [last], [0, last], [3, 20], [last // 2], [last - 1, last // 3]):
        p_V = torch.zeros(vocabulary)
        p_V[possible] = torch.tensor([0.3, 0.7])[: len(possible)]
        for u in (0.0, 2.0**-53, 0.3, 0.5, LAST):
            found_N, logp_N = sampled(p_V.log().unsqueeze(0), torch.tensor([u], dtype=torch.float64), top_p=top_p)
            assert found_N.tolist()[0] in possible
            assert logp_N.isfinite().all()


@pytest.mark.parametrize("vocabulary", [26, 64, 65, 4096])
def test_the_last_draw_is_of_the_last_possible_token(vocabulary):
    """Sums that round apart lead to no token beyond it: random probabilities, the tail impossible."""
    rows, generator = 300, torch.Generator().manual_seed(0)
    logits_NV = 3 * torch.randn(rows, vocabulary, generator=generator)
    tail_N = torch.randint(1, vocabulary + 1, (rows, 1), generator=generator)
    logits_NV = logits_NV.masked_fill(torch.arange(vocabulary) >= tail_N, -torch.inf)
    for dtype in (torch.float32, torch.float64):
        found_N, _ = sampled(logits_NV.to(dtype), torch.full((rows,), LAST, dtype=torch.float64))
        p_NV = logits_NV.to(dtype).softmax(-1)
        assert (p_NV.gather(1, found_N.unsqueeze(1)) > 0).all()
        beyond_N = p_NV.double().flip(1).cumsum(1).flip(1).gather(1, found_N.unsqueeze(1)).squeeze(1)
        passed_N = beyond_N - p_NV.gather(1, found_N.unsqueeze(1)).squeeze(1)
        assert (passed_N < 1e-14).all()  # what stands behind the token weighs nothing
    first_N, _ = sampled(logits_NV.flip(1), torch.zeros(rows, dtype=torch.float64))
    assert (first_N == vocabulary - tail_N.squeeze(1)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [{}, {"temperature": 0}, {"top_p": 0.9}])
def test_logits_that_are_not_finite_show_in_the_log_prob(bad, kind):
    """A token of the vocabulary all the same: what is wrong is told by the guards of an update, not by an index."""
    logits_NV = torch.zeros(3, 26)
    logits_NV[1, 5] = bad
    token_N, logp_N = sampled(logits_NV, **kind)
    assert ((token_N >= 0) & (token_N < 26)).all()
    assert logp_N.isfinite().tolist() == [True, False, True]
