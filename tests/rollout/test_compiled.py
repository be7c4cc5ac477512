"""A decoding step in one call of C has the bits of the same step in torch, layer by layer."""

import gc
import weakref

import pytest
import torch

from contrapose.policy import native
from contrapose.rollout.cached import LlamaDecoder
from contrapose.rollout.compiled import compiled_step
from models import tiny

PROMPTS = [(5, 9, 3), (8,), (11, 2, 3, 4, 5, 6, 40), (63, 22)]
K, STEPS = 5, 20

CASES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "llama ": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "qwen3  ": {"hidden_size": 322, "intermediate_size": 321, "num_attention_heads": 2, "num_key_value_heads": 1},
    "qwen3 ": {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20},
}
"""Biases in qwen2; norms of heads in qwen3; sizes of no whole number of lanes, or not even of four."""


def stepped(model, *, in_c, threads=1):
    """The logits of some steps, rows closing up and joining in between."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            decoder = LlamaDecoder(model)
            decoder.open(len(PROMPTS) * K, 7 + STEPS)
            assert decoder._compiled
            if not in_c:
                decoder._compiled = None
            found = [decoder.admit(PROMPTS, K, range(len(PROMPTS) * K))]
            for step in range(STEPS):
                if step == 8:
                    kept = [0, 19, 2, 18, 4, *range(5, 15)]
                    decoder.keep(kept)
                    found[-1] = found[-1][kept]
                if step == 12:
                    decoder.free(range(5, 10))
                    found[-1][5:10] = decoder.admit(PROMPTS[:1], K, range(5, 10))
                found.append(decoder.step(found[-1].argmax(1)))
            return found
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _there_is_a_compiler():
    if native.native(native.ANY_SIZE, torch.empty(0)) is None:
        pytest.skip("nothing compiles C here")


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_torchs(case):
    model = tiny(case.strip(), **CASES[case])
    found, expected = (stepped(model, in_c=in_c) for in_c in (True, False))
    assert len(found) == STEPS + 1
    for step, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(a, b), step


def test_threads_share_the_rows():
    """A product of fewer rows may round otherwise."""
    model = tiny("qwen3")
    for a, b in zip(stepped(model, in_c=True, threads=2), stepped(model, in_c=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_c_does_not_know_is_left_to_torch(monkeypatch):
    """Another activation, and a library without the product."""
    for model, blas in ((tiny("llama", hidden_act="gelu"), None), (tiny("llama"), {"sgemm_": None})):
        decoder = LlamaDecoder(model)
        decoder.open(2, 9)
        assert (decoder._compiled is None) == (blas is None)
        if blas:
            monkeypatch.setattr("contrapose.rollout.compiled._blas", lambda blas=blas: blas)
            assert compiled_step(decoder.llama, decoder.head, decoder._past) is None


def altered(change):
    """A model of which something is not as C takes it to be."""
    model = tiny("llama", vocab=64)
    layer = model.model.layers[1]
    if change == "strided":
        layer.self_attn.o_proj.weight.data = layer.self_attn.o_proj.weight.data.t().contiguous().t()
    if change == "sizes":
        layer.mlp.gate_proj, layer.mlp.up_proj = (torch.nn.Linear(32, 20, bias=False) for _ in range(2))
        layer.mlp.down_proj = torch.nn.Linear(20, 32, bias=False)
    if change == "eps":
        layer.input_layernorm.variance_epsilon = 0.3
    if change == "type":
        layer.input_layernorm.to(torch.bfloat16)
    if change == "head":
        model.lm_head = torch.nn.Linear(32, 80, bias=False)
    return model


@pytest.mark.parametrize("change", ["strided", "sizes", "eps", "type", "head"])
def test_layers_that_are_not_alike_are_left_to_torch(change):
    decoder = LlamaDecoder(altered(change))
    decoder.open(2, 9)
    assert decoder._past and decoder._compiled is None


def test_what_is_closed_or_opened_anew_lets_go_of_the_past(monkeypatch):
    """Also of what C was told of it."""
    monkeypatch.setattr("contrapose.rollout.cached.KEPT_BYTES", 0)
    decoder, freed = LlamaDecoder(tiny("llama")), []
    for _ in range(2):
        decoder.open(4, 9)
        weakref.finalize(decoder._past.layers[0][0], freed.append, True)
        decoder.close()
        assert decoder._past is None
        gc.collect()
    assert len(freed) == 2


def test_weights_are_those_of_now_and_outlive_the_model():
    """A step reads what the parameters hold; parameters that are replaced meanwhile stay readable."""
    model = tiny("qwen3")
    with torch.inference_mode():
        decoder = LlamaDecoder(model)
        decoder.open(2, 9)
        decoder.admit([(3, 4)], 2, range(2))
        before = decoder.step(torch.tensor([5, 6]))
        model.model.norm.weight.mul_(2.0)
        decoder._length_N -= 1
        assert torch.equal(decoder.step(torch.tensor([5, 6])), 2 * before)
    model.double()
    with torch.inference_mode():
        decoder._length_N -= 1
        assert torch.equal(decoder.step(torch.tensor([5, 6])), 2 * before)
