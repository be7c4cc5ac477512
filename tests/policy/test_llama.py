"""Our forward pass of Llama-family models against the library's, and which models are left to the library."""

import logging

import pytest
import torch
from torch import nn

from contrapose.policy.llama import Llama, is_llama
from contrapose.policy.logprobs import LogProbs, Row
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.types import Prompt
from models import FOREIGN, VARIANTS, exact, tiny, tokenizer, variant
from train_scripted import by_prompt

IDS = torch.randint(0, 64, (3, 40), generator=torch.Generator().manual_seed(0))


def library(model, ids_NS=IDS):
    return model.base_model(input_ids=ids_NS, use_cache=False).last_hidden_state


def apart(found, expected):
    """The largest difference relative to the largest number."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_hidden_states_are_the_librarys(name):
    """Of whole rows, far longer than the windows."""
    model = exact(variant(name))
    assert is_llama(model)
    llama = Llama(model)
    assert apart(llama.rows(IDS), library(model)) < 1e-12
    assert apart(llama.rows(IDS[:1, :3]), library(model, IDS[:1, :3])) < 1e-12


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_hidden_states_in_lower_precision(name, dtype, near):
    model = variant(name).to(dtype)
    assert is_llama(model)
    with torch.no_grad():
        found, expected = Llama(model).rows(IDS), library(model)
    assert found.dtype == dtype
    off = (found.double() - expected.double()).norm() / expected.double().norm()
    assert off < near


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_counts(name):
    """A change to any parameter of the body shows as it does in the library: none is forgotten, none was copied."""
    model = exact(variant(name))
    llama = Llama(model)
    with torch.no_grad():
        before = llama.rows(IDS[:1])
        for parameter in model.model.parameters():
            parameter[..., ::3] *= 1.5  # a bias of keys as a whole would not show: softmax takes no notice
            after = llama.rows(IDS[:1])
            assert apart(after, before) > 1e-9
            assert apart(after, library(model, IDS[:1])) < 1e-12
            before = after


def test_rows_longer_than_those_before():
    """The angles of positions are extended, not those of the first call alone."""
    model = exact(variant("llama, yarn"))
    llama = Llama(model)
    for length in (3, 40, 17):
        assert apart(llama.rows(IDS[:, :length]), library(model, IDS[:, :length])) < 1e-12


class LowRank(nn.Linear):
    """A linear layer with something beside it, nothing at first, as adapters are."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features, base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        self.beside = nn.Parameter(torch.zeros(base.out_features, base.in_features))

    def forward(self, x):
        return super().forward(x) + x @ self.beside.t()


class Wrapped(nn.Module):
    """The same as a module of its own, with the weight of what it wraps."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.weight, self.bias = base.weight, getattr(base, "bias", None)
        self.beside = nn.Parameter(torch.zeros_like(base.weight))

    def forward(self, x):
        if isinstance(self.base, nn.Embedding):
            return self.base(x) + nn.functional.embedding(x, self.beside)
        return self.base(x) + x @ self.beside.t()


WRAPS = [LowRank, Wrapped]
PLACES = ["model.layers.1.self_attn.k_proj", "model.layers.0.mlp.down_proj", "lm_head", "model.embed_tokens"]
PROMPTS = [Prompt(f"p{i}", "", "", tokens=tokens) for i, tokens in enumerate([(5, 9, 3), (8, 2, 9), (7, 7, 7)])]


def adapted(place, wrap, family="llama"):
    model = tiny(family)
    owner, _, name = place.rpartition(".")
    setattr(model.get_submodule(owner), name, wrap(model.get_submodule(place)))
    return model


def said(caplog):
    return [record for record in caplog.records if record.name.startswith("contrapose")]


def check_against_the_library(model, logprobs, engine):
    """Log-probs are those of full logits, and greedy tokens those of ``generate``."""
    rows = [Row((5, 9, 3), (7, 2, 60)), Row((8,), (4, 4))]
    found, _ = logprobs.without_grad(rows)
    for i, row in enumerate(rows):
        ids = torch.tensor([[*row.prompt, *row.response]])
        logp = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1].log_softmax(-1)
        expected = logp.gather(1, torch.tensor(row.response).unsqueeze(1)).squeeze(1).detach()
        torch.testing.assert_close(found[i, : len(row.response)], expected, rtol=1e-5, atol=1e-5)
    ids = torch.tensor([p.tokens for p in PROMPTS])
    attend = torch.ones_like(ids)
    tokens = model.generate(ids, attention_mask=attend, do_sample=False, max_new_tokens=12, pad_token_id=0)
    drawn = by_prompt(engine.generate(PROMPTS, 1, 0, Sampling(0, max_tokens=12)))
    assert [drawn[p.id][0].tokens for p in PROMPTS] == [tuple(row[3:]) for row in tokens.tolist()]


@pytest.mark.parametrize(("place", "wrap"), [(p, w) for p in PLACES for w in WRAPS if (p, w) != (PLACES[-1], LowRank)])
def test_a_part_with_a_forward_of_its_own_keeps_it(place, wrap):
    """An adapter that does nothing yet, so that no measurement sees it: later it counts, and is trained."""
    model = adapted(place, wrap)
    logprobs, engine = LogProbs(model), EmbeddedEngine(model, tokenizer(), (64,))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        beside = model.get_submodule(place).beside
        beside.copy_(0.3 * torch.randn(beside.shape, generator=generator))
    check_against_the_library(model, logprobs, engine)
    logprobs.states([Row((5, 9, 3), (7, 2, 60))]).loss(torch.ones(1, 3)).backward()
    assert beside.grad is not None and beside.grad.abs().max() > 0


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("place", PLACES[:2])
def test_replaced_linear_layers_are_not_a_llamas(place, wrap):
    assert not is_llama(adapted(place, wrap))


SHIFTING = {
    "dynamic": {"factor": 2.0},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 128},
}


@pytest.mark.parametrize("kind", SHIFTING)
def test_angles_that_depend_on_the_longest_row_are_left_to_the_library(kind, caplog):
    rope = {"rope_type": kind, "rope_theta": 10000.0, **SHIFTING[kind]}
    model = tiny("llama", rope_parameters=rope)
    assert not is_llama(model)
    engine = EmbeddedEngine(model, tokenizer(), (64,))
    (record,) = said(caplog)
    assert record.levelno == logging.WARNING and "LlamaForCausalLM" in record.getMessage()
    check_against_the_library(model, LogProbs(model), engine)


@pytest.mark.parametrize("family", FOREIGN)
def test_other_families_are_left_to_the_library(family, caplog):
    model = tiny(family)
    assert not is_llama(model)
    engine = EmbeddedEngine(model, tokenizer(), (64,))
    (record,) = said(caplog)
    assert record.levelno == logging.WARNING and type(model).__name__ in record.getMessage()
    check_against_the_library(model, LogProbs(model), engine)


@pytest.mark.parametrize("name", ["qwen3", "mistral, window"])
def test_our_own_decoding_says_nothing(name, caplog):
    EmbeddedEngine(variant(name), tokenizer(), (64,))
    LogProbs(variant(name))
    assert not said(caplog)


def test_a_model_that_computes_something_else_under_a_name_we_know():
    """Which shows in the numbers alone: other activations are taken as they are, another norm is not."""
    model = tiny("qwen3", hidden_act="gelu")
    assert is_llama(model)
    norm = model.model.layers[1].input_layernorm
    norm.forward = lambda x: nn.functional.layer_norm(x, norm.weight.shape, norm.weight)
    assert not is_llama(model)
