"""What a layer does beside its products, against the library's modules; derivatives against finite differences."""

import pytest
import torch
from torch.autograd import gradcheck
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from contrapose.policy.fused import gated, rms_norm, turned

SHAPES = [(5, 8), (5, 3, 8)]
"""Of a layer's norm, and of one for each head."""


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def angles(tokens, size, dtype):
    """Cosines and sines of some positions as the library has them, each angle for both halves of a head."""
    at = torch.arange(tokens, dtype=torch.float64).unsqueeze(1) * 0.7 ** torch.arange(size // 2)
    both = torch.cat([at, at], 1)
    return both.cos().to(dtype), both.sin().to(dtype)


def tables(cos_TD, sin_TD):
    """As ``turned`` takes them: the sines of a head's first half negated."""
    first = torch.arange(sin_TD.shape[1]) < sin_TD.shape[1] // 2
    return cos_TD, torch.where(first, -sin_TD, sin_TD)


def rotate(x_NHD, cos_ND, sin_ND):
    """Tokens at positions 0, 1, 2 ..."""
    return turned(x_NHD, None, 1e-6, (cos_ND, sin_ND), torch.arange(len(x_NHD)))


def library_norm(weight, eps):
    norm = LlamaRMSNorm(len(weight), eps).to(weight.dtype)
    norm.weight.data.copy_(weight)
    return norm


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grad", [False, True])
def test_the_norm_is_the_librarys(shape, grad):
    """With grad and without, at an ``eps`` that shows."""
    x, weight = randn(*shape, dtype=torch.float32), randn(shape[-1], dtype=torch.float32, seed=1)
    with torch.set_grad_enabled(grad):
        found = rms_norm(x, weight, 0.3)
    torch.testing.assert_close(found, library_norm(weight, 0.3)(x).detach(), rtol=1e-6, atol=1e-6)
    assert (found - rms_norm(x, weight, 1e-6)).abs().max() > 0.01


@pytest.mark.parametrize("grad", [False, True])
def test_the_norm_leaves_what_it_is_given_alone(grad):
    x, weight = randn(5, 8), randn(8, seed=1)
    before = x.clone(), weight.clone()
    with torch.set_grad_enabled(grad):
        rms_norm(x, weight, 1e-6)
    assert torch.equal(x, before[0]) and torch.equal(weight, before[1])


@pytest.mark.parametrize("grad", [False, True])
def test_the_norm_is_exact_in_float64(grad):
    x, weight = 100 * randn(7, 64), randn(64, seed=1)
    with torch.set_grad_enabled(grad):
        found = rms_norm(x, weight, 1e-6)
    expected = weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("grad", [False, True])
def test_the_mean_of_bfloat16_is_in_float32(grad):
    """Elements are rounded this way and that, a row as a whole is not: a mean in bfloat16 would shift it."""
    x, weight = (3 * randn(20, 512)).bfloat16(), randn(512, dtype=torch.bfloat16, seed=1)
    with torch.set_grad_enabled(grad):
        found = rms_norm(x, weight, 1e-6)
    exact = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()
    coarse = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight

    def shift(y):
        return (y.double() / exact - 1).mean(-1).abs().max()

    assert found.dtype == torch.bfloat16
    assert (found.double() / exact - 1).abs().max() < 2**-7
    assert shift(found) < 1e-3 < 3e-3 < shift(coarse)


def test_half_precision_does_not_overflow():
    """Squares of 1000 are beyond float16, not beyond the mean."""
    x = torch.full((1, 8), 1000.0, dtype=torch.float16)
    assert rms_norm(x, torch.ones(8, dtype=torch.float16), 1e-6).tolist() == [[1.0] * 8]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_norms_gradient(shape):
    x, weight = randn(*shape).requires_grad_(), randn(shape[-1], seed=1).requires_grad_()
    assert gradcheck(lambda x, weight: rms_norm(x, weight, 0.1), (x, weight))


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_the_norms_gradient_where_one_side_needs_none(frozen):
    x, weight = randn(5, 8).requires_grad_(frozen != "x"), randn(8, seed=1).requires_grad_(frozen != "weight")
    assert gradcheck(lambda x, weight: rms_norm(x, weight, 0.1), (x, weight))


def test_the_norms_gradient_in_bfloat16():
    """As near to the exact one as bfloat16 is fine."""
    x, weight, back = randn(20, 64), randn(64, seed=1), randn(20, 64, seed=2)
    found, expected = (
        torch.autograd.grad(rms_norm(*at, 1e-6), at, back.to(dtype))
        for dtype in (torch.bfloat16, torch.float64)
        for at in [[t.bfloat16().to(dtype).requires_grad_() for t in (x, weight)]]
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.double() - b).norm() / b.norm() < 0.01


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 0.02)])
def test_the_gate_is_silu(dtype, near, grad):
    """Far out on both sides too."""
    gate, up = (30 * randn(7, 24)).to(dtype), randn(7, 24, dtype=dtype, seed=1)
    with torch.set_grad_enabled(grad):
        found = gated(gate, up)
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.nn.functional.silu(gate) * up, rtol=near, atol=near)


def test_the_gates_gradient():
    assert gradcheck(gated, (3 * randn(5, 8).requires_grad_(), randn(5, 8, seed=1).requires_grad_()))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0.03)])
def test_the_rotation_is_the_librarys(dtype, near, grad):
    """Of heads as they come from a projection, and as a slice of something wider."""
    wide = randn(6, 3, 16, dtype=dtype)
    cos, sin = angles(6, 8, dtype)
    for x in (wide[:, :, :8], wide[:, :, 4:12].contiguous()):
        before = x.clone()
        expected, _ = apply_rotary_pos_emb(x.transpose(0, 1), x.transpose(0, 1), cos, sin, unsqueeze_dim=0)
        with torch.set_grad_enabled(grad):
            found = rotate(x, *tables(cos, sin))
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected.transpose(0, 1), rtol=near, atol=near)
        assert torch.equal(x, before)
        assert (found - x)[1:].abs().amax((1, 2)).min() > 0.1


def test_the_rotations_gradient():
    cos, sin = tables(*angles(5, 8, torch.float64))
    assert gradcheck(lambda x: rotate(x, cos, sin), (randn(5, 3, 8).requires_grad_(),))


def test_the_rotations_gradient_of_a_scaled_rotation():
    """Yarn's cosines and sines are longer than one: the way back is the transpose, not the inverse."""
    cos, sin = tables(*angles(5, 8, torch.float64))
    assert gradcheck(lambda x: rotate(x, 1.3 * cos, 1.3 * sin), (randn(5, 3, 8).requires_grad_(),))


def test_heads_are_normalised_before_they_are_rotated():
    """At positions in any order."""
    x, weight, at = randn(5, 3, 8), randn(8, seed=1), torch.tensor([4, 0, 3, 3, 1])
    cos, sin = tables(*angles(5, 8, torch.float64))
    expected = turned(rms_norm(x, weight, 0.1), None, 0.1, (cos, sin), at)
    torch.testing.assert_close(turned(x, weight, 0.1, (cos, sin), at), expected)
    torch.testing.assert_close(expected, rotate(rms_norm(x, weight, 0.1), cos[at], sin[at]))


def test_the_gradient_of_heads_that_are_normalised_and_rotated():
    rope, at = tables(*angles(5, 8, torch.float64)), torch.tensor([4, 0, 3, 3, 1])
    given = randn(5, 3, 8).requires_grad_(), randn(8, seed=1).requires_grad_()
    assert gradcheck(lambda x, weight: turned(x, weight, 0.1, rope, at), given)
