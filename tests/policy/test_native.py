"""What is compiled has the bits of what torch computes, forward and backward, at any size, on any number of threads."""

import pytest
import torch

from contrapose.config import resolve
from contrapose.policy import native
from contrapose.policy.attention import attend, rows_of
from contrapose.policy.fused import gated, rms_norm, turned
from contrapose.rollout.sampler import Sampling, sample
from contrapose.train.loop import train
from contrapose.train.run import Run

TOKENS = 37


def randn(*shape, seed=0, grad=True):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def gradients(f, *given):
    """What ``f`` gives, and its derivatives along a random direction."""
    out = f(*given)
    return out, *torch.autograd.grad(out, given, randn(*out.shape, seed=99, grad=False))


def same_in_torch(monkeypatch, f, *given):
    """Whether ``f`` has the same bits without what is compiled."""
    found = f(*given)
    with monkeypatch.context() as without:
        without.setattr(native, "_compiled", lambda size: None)
        expected = f(*given)
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


compiled = pytest.mark.skipif(
    native.native(native.ANY_SIZE, torch.empty(0)) is None, reason="nothing compiles C here, to compare with"
)


@compiled
@pytest.mark.parametrize("size", [96, 16, 20, 7, 8, 100, 1])
def test_norm_and_gate(size, monkeypatch):
    x, weight = 5 * randn(TOKENS, size), randn(size, seed=1)
    x = x.detach().requires_grad_()
    assert same_in_torch(monkeypatch, gradients, lambda *at: rms_norm(*at, 1e-6), x, weight)
    assert same_in_torch(monkeypatch, gradients, gated, x, randn(TOKENS, size, seed=2))


@compiled
@pytest.mark.parametrize("size", [24, 64, 12, 20, 128])
@pytest.mark.parametrize("normalised", [True, False])
def test_heads(size, normalised, monkeypatch):
    rope, at = (randn(50, size, seed=3, grad=False), randn(50, size, seed=4, grad=False)), torch.arange(TOKENS) % 50
    x, weight = randn(TOKENS, 3, size), randn(size, seed=1)
    if normalised:
        assert same_in_torch(monkeypatch, gradients, lambda *given: turned(*given, 1e-6, rope, at), x, weight)
    else:
        assert same_in_torch(monkeypatch, gradients, lambda x: turned(x, None, 1e-6, rope, at), x)


class Rows:
    """Three prompts, of 7, 1 and 19 tokens, and nine answers, of up to 39."""

    def __init__(self):
        prompts = [range(7), range(7, 8), range(8, 27)]
        self.places, self.known, end = [list(prompt) for prompt in prompts], [0, 0, 0], 27
        for number, length in enumerate([0, 1, 3, 4, 15, 16, 17, 30, 39]):
            asked = prompts[number % 3]
            self.places.append([*asked, *range(end, end + length)])
            self.known.append(len(asked))
            end += length
        self.tokens = end

    def defined(self, q, k, v, window):
        """Softmax over what a token sees, in float64, differentiable."""
        out, each = [None] * self.tokens, q.shape[1] // k.shape[1]
        for row, known in zip(self.places, self.known, strict=True):
            keys, values = (x[row].repeat_interleave(each, 1) for x in (k, v))
            for at in range(known, len(row)):
                first = max(0, at + 1 - (window or len(row)))
                score_HS = torch.einsum("hd,shd->hs", q[row[at]], keys[first : at + 1]) * q.shape[2] ** -0.5
                out[row[at]] = torch.einsum("hs,shd->hd", score_HS.softmax(1), values[first : at + 1]).flatten()
        return torch.stack(out)


@compiled
@pytest.mark.parametrize("window", [None, 1, 5, 20])
@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 4, 24), (4, 2, 8), (6, 2, 64), (3, 1, 20), (2, 1, 96)])
def test_attention(heads, groups, size, window, monkeypatch):
    """Of tokens that stand in several rows, it has the same bits, and is what attention is."""
    rows = Rows()
    given = [randn(rows.tokens, count, size, seed=i) for i, count in enumerate((heads, groups, groups))]
    packed = rows_of(rows.places, rows.known)
    assert same_in_torch(monkeypatch, gradients, lambda *given: attend(*given, packed, window), *given)
    exact = [x.detach().double().requires_grad_() for x in given]
    found = gradients(lambda *given: attend(*given, packed, window), *given)
    out = rows.defined(*exact, window)
    expected = out, *torch.autograd.grad(out, exact, randn(*out.shape, seed=99, grad=False).double())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=5e-6)


@compiled
@pytest.mark.parametrize("vocabulary", [5, 26, 64, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_draws(vocabulary, temperature, monkeypatch):
    logits, seeds = 3 * randn(200, vocabulary, grad=False), torch.arange(200)
    assert same_in_torch(monkeypatch, sample, logits, seeds, seeds % 7, Sampling(temperature))


@compiled
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads):
    """Of many tokens, so that they are shared out."""
    x, before, found = randn(5000, 48), torch.get_num_threads(), []
    rope, at = (randn(9, 12, seed=3, grad=False), randn(9, 12, seed=4, grad=False)), torch.arange(5000) % 9

    def layer(x, weight, head):
        y = gated(rms_norm(x, weight, 1e-6), x).unflatten(1, (4, 12))
        packed = rows_of([range(i, i + 50) for i in range(0, 5000, 50)], [0] * 100)
        return attend(turned(y, head, 1e-6, rope, at), y, y, packed, None)

    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            found.append(gradients(layer, x, randn(48, seed=1), randn(12, seed=2)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("compiler", "size"), [("/nonexistent/cc", 28), ("false", 36), ("cc '", 44)]
)  # sizes of no other test
def test_without_a_compiler(compiler, size, monkeypatch, tmp_path, caplog):
    """It is told, and torch does it."""
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.native(size, torch.empty(0)) is None
    (record,) = caplog.records
    assert record.name == "contrapose.policy.native" and "slower" in record.getMessage()


def test_other_types_are_left_to_torch():
    assert native.native(native.ANY_SIZE, torch.empty(0, dtype=torch.float64)) is None
    assert native.native(native.ANY_SIZE, torch.empty(0, dtype=torch.bfloat16)) is None
    assert native.native(native.ANY_SIZE, torch.empty(3, 2), torch.empty(3, 2).t()) is None


@compiled
def test_weights_of_another_type_are_left_to_torch():
    """A norm may be kept in bfloat16 where the rest is float32."""
    x, weight = randn(TOKENS, 16), randn(16, seed=1, grad=False).bfloat16().requires_grad_()
    found, exact = gradients(lambda *at: rms_norm(*at, 1e-6), x, weight), (x, weight.detach().float().requires_grad_())
    for a, b in zip(found, gradients(lambda *at: rms_norm(*at, 1e-6), *exact), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.01, atol=0.01)


@compiled
def test_a_run_has_the_same_bits_without_a_compiler(monkeypatch, tmp_path):
    """Rollouts, scores and weights."""
    short = ["steps=1", "batch.prompts=4", "rollout.k=4"]
    settings = [*short, "eval.data=''", "checkpoint.every=0", "objective.name=rence"]
    found = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(native, "_compiled", lambda size: None)
        with Run(resolve("abacus", settings)[0], tmp_path / name) as run:
            train(run)
            weights = [parameter.detach().clone() for parameter in run.policy.model.parameters()]
        found.append((weights, (tmp_path / name / "rollouts.jsonl").read_text()))
    assert found[0][1] == found[1][1] and found[0][1]
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
