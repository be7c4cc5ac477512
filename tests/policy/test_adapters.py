"""An adapter inside a model: our passes see it, and merged or saved it is what it was."""

import sys

import pytest
import torch
from peft import PeftModel

from contrapose.policy.adapters import adapt, save_adapter
from contrapose.policy.logprobs import LogProbs, Row
from contrapose.policy.sharding import copy_weights, sampling_copy, whole_weights
from contrapose.train.shards import trained
from contrapose.types import ContraposeError
from models import exact, tiny

ROWS = [Row((1, 2, 3), (4, 5, 6, 7)), Row((1, 2, 3), (4, 5)), Row((2, 3), (9, 8, 7))]


def adapted(family="qwen3", learned=True, seed=0, targets="all-linear"):
    model = exact(tiny(family, vocab=20, seed=3))
    about = adapt(model, 4, 8.0, targets, "somewhere", seed)
    if learned:
        generator = torch.Generator().manual_seed(1)
        for name, x in trained(model).items():
            if "lora_B" in name:
                x.copy_(torch.randn(x.shape, generator=generator, dtype=x.dtype) * 0.2)
    return model.double(), about


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "gemma2"])
def test_the_gradient_of_an_adapter_is_that_of_the_librarys_forward_pass(family):
    model, _ = adapted(family)
    credit = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    LogProbs(model).states(ROWS).loss(credit).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    loss = 0.0
    for row, credit_T in zip(ROWS, credit, strict=True):
        logp = model(torch.tensor([[*row.prompt, *row.response]])).logits[0].log_softmax(-1)
        start = len(row.prompt) - 1
        for t, token in enumerate(row.response):
            loss = loss - credit_T[t] * logp[start + t, token]
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert found and all("lora_" in name for name in found)
    for name, x in expected.items():
        assert x.norm() > 0
        torch.testing.assert_close(found[name], x, rtol=1e-9, atol=1e-12)


def test_nothing_is_learned_at_first_and_where_it_begins_is_drawn_from_the_seed():
    plain = exact(tiny("qwen3", vocab=20, seed=3)).double()
    model, _ = adapted(learned=False)
    before = torch.random.get_rng_state()
    again, other = adapted(learned=False)[0], adapted(learned=False, seed=1)[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    ids = torch.arange(3, 9)[None]
    assert torch.equal(model(ids).logits, plain(ids).logits)
    starts = [trained(m) for m in (model, again, other)]
    assert all(torch.equal(x, starts[1][name]) for name, x in starts[0].items())
    assert any(not torch.equal(x, starts[2][name]) for name, x in starts[0].items())


def test_merged_it_is_a_plain_model_that_says_the_same():
    model, _ = adapted()
    plain = sampling_copy(exact(tiny("qwen3", vocab=20, seed=4)), torch.float64)
    assert dict(whole_weights(model)).keys() == dict(plain.named_parameters()).keys()
    copy_weights(model, plain)
    ids = torch.arange(3, 15)[None]
    torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=1e-10, atol=1e-12)
    assert (plain(ids).logits - exact(tiny("qwen3", vocab=20, seed=3)).double()(ids).logits).abs().max() > 0.01


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_saved_alone_peft_puts_it_back(tmp_path):
    model, about = adapted()
    save_adapter({name: x.float() for name, x in trained(model).items()}, about, tmp_path)
    loaded = PeftModel.from_pretrained(tiny("qwen3", vocab=20, seed=3), tmp_path)
    ids = torch.arange(3, 15)[None]
    torch.testing.assert_close(loaded(ids).logits, model.float()(ids).logits, rtol=1e-4, atol=1e-5)


def test_maps_that_are_not_there_are_refused():
    with pytest.raises(ContraposeError, match=r"^lora.targets: "):
        adapted(targets=["w_pack"])


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ContraposeError, match=r"pip install 'contrapose\[lora\]'"):
        adapted()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_a_head_that_is_tied_is_not_adapted_alone():
    with pytest.raises(ContraposeError, match=r"^lora.targets: the head is tied"):
        adapt(tiny("qwen3", vocab=20, tie_word_embeddings=True), 4, 8.0, ["lm_head"], "somewhere", 0)


def test_angles_keep_their_precision_where_weights_do_not():
    copy = sampling_copy(tiny("qwen3", vocab=20, tie_word_embeddings=True), torch.bfloat16)
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in copy.buffers() if b.is_floating_point()} == {torch.float32}
    assert copy.lm_head.weight is copy.model.embed_tokens.weight and not copy.lm_head.weight.requires_grad
