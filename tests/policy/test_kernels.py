"""Kernels of the update on a CUDA device, beside the same in torch."""

import pytest
import torch

from contrapose.policy.logprobs import LogProbs, Row
from contrapose.policy.softmax import _InTorch, softmax
from models import tiny

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

NEAR = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("vocabulary", "temperature"), [(26, 1.0), (4097, 0.7), (151936, 1.3)])
def test_the_softmax_of_chosen_tokens(vocabulary, temperature, dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    logits_CV = (3 * torch.randn(33, vocabulary, device="cuda", generator=generator)).to(dtype)
    logits_CV[:, -1] = -torch.inf
    chosen_C = torch.randint(vocabulary - 1, (33,), device="cuda", generator=generator)
    credit_C = torch.randn(33, device="cuda", generator=generator)
    found, expected, other = (kind(logits_CV.clone(), chosen_C, temperature) for kind in (softmax, _InTorch, _InTorch))
    assert type(found) is not _InTorch
    torch.testing.assert_close(found.logp_C, expected.logp_C, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy(), expected.entropy(), atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(found.slope(credit_C), other.slope(credit_C), atol=NEAR[dtype], rtol=NEAR[dtype])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_show(bad):
    logits_CV = torch.zeros(3, 26, device="cuda")
    logits_CV[1, 5] = bad
    found = softmax(logits_CV, torch.tensor([1, 2, 3], device="cuda"), 1.0)
    assert found.logp_C.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_the_gradient_is_the_cpus(family):
    rows = [Row((5, 9, 3), (1, 2, 3, 4)), Row((5, 9, 3), (7, 8)), Row((4,), (9, 9, 9, 9, 9, 9, 9))]
    credit_NT, gradients = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), []
    for device in ("cpu", "cuda"):
        model = tiny(family).to(device)
        LogProbs(model, 0.8).states(rows).loss(credit_NT.to(device)).backward()
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-4, rtol=1e-3)
