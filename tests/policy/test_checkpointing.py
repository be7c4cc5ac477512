"""Activations that are computed again on the way back: less is kept, and nothing else changes."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import OPTConfig, OPTForCausalLM

from contrapose.policy.logprobs import LogProbs, Row
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.types import Prompt
from models import FOREIGN, tiny, tokenizer, variant

ROWS = [Row((5, 9, 3), (7, 2, 60, 1)), Row((5, 9, 3), (4,)), Row((8,), ()), Row((8,), (0, 0, 17, 17, 5, 22, 8))]
CREDIT = torch.linspace(-1, 2, 28).view(4, 7)
OURS = ("qwen2", "qwen3, one layer with a window", "qwen3, tied", "llama, biases", "mistral, window")


def opt():
    """A family with dropout between its layers' parts, not in modules of their own."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = OPTConfig(**sizes, vocab_size=64, num_attention_heads=4, max_position_embeddings=128, dropout=0.5)
        return OPTForCausalLM(config).eval()


def make(name):
    """Models that would show dropout if it were on."""
    if name == "opt":
        return opt()
    return tiny(name, attention_dropout=0.5) if name in FOREIGN else variant(name, attention_dropout=0.5)


def kept_and_found(model, checkpointing):
    """How many numbers are kept for the way back, the log-probs, the loss and the gradients."""
    kept = 0

    def pack(x):
        nonlocal kept
        kept += x.numel()
        return x

    logprobs = LogProbs(model, 0.7, checkpointing=checkpointing)
    with saved_tensors_hooks(pack, lambda x: x):
        states = logprobs.states(ROWS)
    values, loss = states.logp()[0], states.loss(CREDIT)
    model.zero_grad()
    loss.backward()
    torch.testing.assert_close(states.dense(values), logprobs.without_grad(ROWS)[0], rtol=0, atol=2e-5)
    return kept, values, loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", (*OURS, *FOREIGN, "opt"))
def test_the_same_bits_for_less_memory(name):
    kept, values, loss, by_name = kept_and_found(make(name), False)
    less, other_values, other_loss, other_by_name = kept_and_found(make(name), True)
    assert less < 0.7 * kept
    assert torch.equal(other_values, values) and torch.equal(other_loss, loss)
    for parameter, x in by_name.items():
        assert x.abs().max() > 0 or parameter.endswith("k_proj.bias")
        assert torch.equal(other_by_name[parameter], x), parameter


@pytest.mark.parametrize("name", ("qwen3", *FOREIGN, "opt"))
def test_a_model_that_is_trained_so_is_decoded_as_before(name):
    """The engine has the trainer's model, whether it was there before the trainer or comes after."""
    prompts = [Prompt(f"p{i}", "", "", tokens=tokens) for i, tokens in enumerate([(5, 9, 3), (8,), (7, 7)])]

    def rollouts(engine):
        return [s for step in engine.generate(prompts, 2, 0, Sampling(max_tokens=12)) for s in step]

    model = make(name)
    before = EmbeddedEngine(model, tokenizer(), (1,))
    usual = rollouts(before)
    LogProbs(model, checkpointing=True)
    assert rollouts(before) == usual
    assert rollouts(EmbeddedEngine(model, tokenizer(), (1,))) == usual
