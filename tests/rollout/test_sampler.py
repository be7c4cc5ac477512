"""The counter-based draw against big-integer SplitMix64, and what is drawn against its probabilities.

How a token is found in a large vocabulary is the subject of ``test_draw.py``.
"""

import math

import pytest
import torch

from contrapose.rollout.sampler import Sampling, sample, seed_of, uniform

FIRST, FIFTH = torch.tensor(0), torch.tensor(4)
PROBABILITIES = [0.02, 0.3, 0.0, 0.11, 0.07, 0.25, 0.05, 0.2]


def splitmix64(seed, position):
    """The ``position``-th output of SplitMix64 started at ``seed``, as Python integers compute it."""
    low = 2**64 - 1
    x = (seed + (position + 1) * 0x9E3779B97F4A7C15) & low
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & low
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & low
    return x ^ (x >> 31)


def seeds(n, salt=0):
    return torch.tensor([seed_of(salt, i) for i in range(n)])


def logits_of(probabilities, rows):
    return torch.tensor(probabilities).log().expand(rows, len(probabilities))


def chi_square(tokens, expected):
    """Of the counts against ``expected`` probabilities; tokens of probability zero must not occur."""
    seen = torch.bincount(tokens, minlength=len(expected)).double()
    assert len(seen) == len(expected)
    wanted = torch.tensor(expected, dtype=torch.float64) * len(tokens)
    assert (seen[wanted == 0] == 0).all()
    kept = wanted > 0
    return ((seen - wanted)[kept].square() / wanted[kept]).sum().item()


def test_the_reference_is_splitmix64():
    """Its published outputs for two seeds."""
    assert [splitmix64(0, i) for i in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [splitmix64(1234567, i) for i in range(2)] == [6457827717110365317, 3203168211198807973]


def test_uniform_is_splitmix64():
    chosen = [0, 1, 1234567, 2**31, 2**62, 2**63 - 1, *(seed_of(i) for i in range(50))]
    positions = [0, 1, 2, 63, 1000, 16383, 10**9]
    for position in positions:
        expected = [(splitmix64(seed, position) >> 11) * 2.0**-53 for seed in chosen]
        found = uniform(torch.tensor(chosen), torch.tensor(position))
        assert found.dtype == torch.float64
        assert found.tolist() == expected
    each = uniform(torch.tensor(chosen[: len(positions)]), torch.tensor(positions))
    assert each.tolist() == [(splitmix64(s, p) >> 11) * 2.0**-53 for s, p in zip(chosen, positions, strict=False)]


@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_uniform_is_uniform(along):
    """Kolmogorov-Smirnov at p = 0.001, and no correlation between neighbours."""
    n = 20_000
    of = (torch.arange(n), torch.tensor(5)) if along == "seeds" else (torch.tensor(7), torch.arange(n))
    u = uniform(*of)
    assert u.min() >= 0 and u.max() < 1
    rank = torch.arange(n, dtype=torch.float64)
    off = torch.maximum((u.sort().values - rank / n).abs().max(), (u.sort().values - (rank + 1) / n).abs().max())
    assert off * math.sqrt(n) < 1.95
    correlation = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
    assert correlation.abs() * math.sqrt(n) < 3.3


def test_seeds_are_the_same_everywhere():
    """The first 63 bits of a SHA-256, so that no process or machine has its own."""
    assert seed_of(7, "abacus-12", 3) == 8117134582461315467


def test_seeds_differ_and_fit():
    many = [seed_of(a, b, c) for a in range(5) for b in ("x", "y", "\ud800", "ключ") for c in range(50)]
    assert len(set(many)) == len(many)
    assert all(0 <= seed < 2**63 for seed in many)
    assert max(many) > 2**62
    assert seed_of("ab", "c") != seed_of("a", "bc")


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_the_probabilities(temperature):
    n = 20_000
    token, logp = sample(logits_of(PROBABILITIES, n), seeds(n), torch.tensor(3), Sampling(temperature))
    sharpened = [p ** (1 / temperature) for p in PROBABILITIES]
    expected = [p / sum(sharpened) for p in sharpened]
    assert chi_square(token, expected) < 22.5  # 6 degrees, p = 0.001
    assert logp.tolist() == pytest.approx([math.log(expected[i]) for i in token.tolist()], rel=1e-5, abs=1e-6)


def test_positions_are_drawn_independently():
    """The joint frequencies of two positions are the products."""
    n = 20_000
    logits = logits_of([0.2, 0.5, 0.3], n)
    first, second = (sample(logits, seeds(n), torch.tensor(position), Sampling())[0] for position in (0, 1))
    joint = [p * q for p in (0.2, 0.5, 0.3) for q in (0.2, 0.5, 0.3)]
    assert chi_square(first * 3 + second, joint) < 26.2  # 8 degrees, p = 0.001


@pytest.mark.parametrize(
    ("top_p", "nucleus"), [(0.29, [1]), (0.31, [1, 5]), (0.6, [1, 5, 7]), (0.8, [1, 5, 7, 3]), (1e-9, [1])]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, nucleus):
    n = 10_000
    token, logp = sample(logits_of(PROBABILITIES, n), seeds(n), FIRST, Sampling(top_p=top_p))
    mass = sum(PROBABILITIES[i] for i in nucleus)
    expected = [p / mass if i in nucleus else 0.0 for i, p in enumerate(PROBABILITIES)]
    assert chi_square(token, expected) < 16.3  # 3 degrees, p = 0.001
    assert logp.tolist() == pytest.approx([math.log(PROBABILITIES[i]) for i in token.tolist()], rel=1e-5)


def test_top_p_at_another_temperature():
    """The nucleus is that of the tempered distribution."""
    n = 10_000
    token, logp = sample(logits_of([0.5, 0.3, 0.2], n), seeds(n), FIRST, Sampling(temperature=0.5, top_p=0.7))
    squares = [0.25, 0.09, 0.04]
    assert chi_square(token, [0.25 / 0.34, 0.09 / 0.34, 0.0]) < 10.9  # 1 degree, p = 0.001
    assert logp.tolist() == pytest.approx([math.log(squares[i] / 0.38) for i in token.tolist()], rel=1e-5)


def test_greedy_takes_the_likeliest():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    token, logp = sample(logits, seeds(50), FIRST, Sampling(temperature=0))
    assert torch.equal(token, logits.argmax(1))
    torch.testing.assert_close(logp, logits.log_softmax(1).amax(1))


def test_a_row_draws_alone():
    """Neither its neighbours nor its place in the batch show in a row's token."""
    logits = torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    together, _ = sample(logits, seeds(40), FIFTH, Sampling())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    mixed, _ = sample(logits[order], seeds(40)[order], FIFTH, Sampling())
    alone = torch.cat([sample(logits[i : i + 1], seeds(40)[i : i + 1], FIFTH, Sampling())[0] for i in range(40)])
    assert torch.equal(mixed, together[order])
    assert torch.equal(alone, together)
    assert not torch.equal(sample(logits, seeds(40, salt=1), FIFTH, Sampling())[0], together)


def test_each_row_draws_at_its_own_position():
    """Rows that are at different tokens of their answers, side by side."""
    logits, position = logits_of([0.1] * 10, 40), torch.arange(40) % 7
    together, _ = sample(logits, seeds(40), position, Sampling())
    for t in range(7):
        alone, _ = sample(logits, seeds(40), torch.tensor(t), Sampling())
        assert torch.equal(together[position == t], alone[position == t])
        assert not torch.equal(together, alone)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2]
)
def test_log_probs_are_at_least_float32(dtype, expected):
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    for temperature in (0.0, 1.0):
        _, logp = sample(logits, seeds(5), FIRST, Sampling(temperature))
        assert logp.dtype == expected
