"""Decoding with our own cache, variant by variant: what ``generate`` chooses, and what the trainer computes.

The trainer's log-probs come from whole rows, so that any key or position out of place would show in them.
"""

import math
from functools import cache

import pytest
import torch
from torch import nn

import rollout_grown
from contrapose.policy.logprobs import LogProbs, Row
from contrapose.rollout.cached import LlamaDecoder
from contrapose.rollout.decode import decoder_for
from contrapose.rollout.foreign import ForeignDecoder
from contrapose.rollout.growing import grow
from contrapose.rollout.sampler import Sampling
from models import FOREIGN, VARIANTS, exact, tiny, variant
from rollout_grown import PROMPTS, apart

TOKENS = 20
SAMPLING = Sampling(max_tokens=TOKENS)


@cache
def model_of(name):
    return variant(name) if name in VARIANTS else tiny(name)


@cache
def exact_of(name):
    """For tokens that are compared: in float32 a draw may fall where the last bits of a probability decide."""
    return exact(variant(name) if name in VARIANTS else tiny(name))


def grown(decoder, k=1, sampling=SAMPLING, *rest, **more):
    return rollout_grown.grown(decoder, k, sampling, *rest, **more)


def generated(model):
    """Greedy tokens of the library, with prompts padded on the left."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in PROMPTS])
    attend = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    rows = model.generate(ids, attention_mask=attend, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
    return rows[:, width:].tolist()


@pytest.mark.parametrize("name", (*VARIANTS, *FOREIGN))
def test_greedy_is_generate(name):
    model = model_of(name)
    decoder = decoder_for(model)
    assert type(decoder) is (ForeignDecoder if name in FOREIGN else LlamaDecoder)
    found = grown(decoder, sampling=Sampling(0, max_tokens=TOKENS))
    assert [tokens for tokens, _ in found] == generated(model)
    assert len({token for tokens, _ in found for token in tokens}) > 10
    assert apart(model, found).max() < 2e-5


@pytest.mark.parametrize("name", (*VARIANTS, *FOREIGN))
def test_log_probs_of_samples_are_the_trainers(name):
    """Three rollouts a prompt that end at different lengths, so that rows close up on the way."""
    model = model_of(name)
    found = grown(decoder_for(model), 3, Sampling(0.8, max_tokens=TOKENS), eos=tuple(range(0, 64, 6)))
    assert len({len(tokens) for tokens, _ in found}) > 4
    assert apart(model, found, temperature=0.8).max() < 2e-5


@pytest.mark.parametrize("name", VARIANTS)
def test_in_float64(name):
    """As near as float32 is, in which log-probs are kept."""
    model = exact_of(name)
    found = grown(decoder_for(model), 2, eos=(1, 7, 30))
    assert apart(model, found).max() < 2e-6


@pytest.mark.parametrize("name", (*VARIANTS, *FOREIGN))
def test_in_bfloat16(name):
    """The decoder rounds where the trainer does not: near on the whole."""
    model = (variant(name) if name in VARIANTS else tiny(name)).bfloat16()
    found = grown(decoder_for(model), 2)
    rows = [Row(PROMPTS[i // 2], tuple(tokens)) for i, (tokens, _) in enumerate(found)]
    apart = LogProbs(model).without_grad(rows)[0] - torch.tensor([logp for _, logp in found])
    assert apart.square().mean().sqrt() < 0.15
    assert apart.abs().max() < 1.0


@pytest.mark.parametrize("name", ["qwen3", "mistral, window"])
def test_long_rows(name):
    """A past of many columns is laid out otherwise."""
    found = grown(decoder_for(model_of(name)), 1, Sampling(max_tokens=180), prompts=PROMPTS[:2])
    assert apart(model_of(name), found, PROMPTS[:2]).max() < 5e-5


@pytest.mark.parametrize("name", ["qwen3, one layer with a window", "llama, yarn", "mistral, window"])
def test_both_decoders_agree(name):
    """The library's cache and ours: the same tokens."""
    ours, theirs = (grown(kind(exact_of(name)), 2, eos=(1, 7, 30)) for kind in (LlamaDecoder, ForeignDecoder))
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
    for (_, logp), (_, other) in zip(ours, theirs, strict=True):
        assert logp == pytest.approx(other, abs=2e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_company_shows_in_no_bit(name):
    """Prompts alone, in waves, or all dropped but the two longest rollouts: BLAS sums a few rows otherwise."""
    decoder, eos = decoder_for(model_of(name)), tuple(range(0, 64, 9))
    whole = grown(decoder, 4, eos=eos)
    assert grown(decoder, 4, eos=eos, prompts=PROMPTS[:1]) == whole[:4]
    assert grown(decoder, 4, eos=eos, wave=2) == whole
    assert grown(decoder, 1, prompts=PROMPTS[:2]) == grown(decoder)[:2]
    longest = sorted(range(20), key=lambda number: -len(whole[number][0]))[:2]
    found = grown(decoder, 4, eos=eos, dropped=set(range(20)) - set(longest))
    assert sum(len(tokens) for tokens, _ in found) < sum(len(tokens) for tokens, _ in whole)
    assert [found[number] for number in longest] == [whole[number] for number in longest]


@pytest.mark.parametrize("most", [1, 12, 24, 30])
def test_prompts_that_are_read_in_parts(most, monkeypatch):
    """One prompt, or so many padded tokens, at a time: the same tokens."""
    whole = grown(LlamaDecoder(exact_of("qwen3")), 2)
    monkeypatch.setattr("contrapose.rollout.cached.PREFILL_TOKENS", most)
    found = grown(LlamaDecoder(exact_of("qwen3")), 2)
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in whole]
    assert apart(model_of("qwen3"), grown(LlamaDecoder(model_of("qwen3")), 2)).max() < 2e-5


def test_a_head_with_a_bias():
    model = variant("llama")
    model.lm_head = nn.Linear(32, 64)
    nn.init.normal_(model.lm_head.bias, std=2.0, generator=torch.Generator().manual_seed(0))
    decoder = decoder_for(model)
    assert type(decoder) is LlamaDecoder
    found = grown(decoder, sampling=Sampling(0, max_tokens=TOKENS))
    assert [tokens for tokens, _ in found] == generated(model)
    assert apart(model, found).max() < 2e-5


@pytest.mark.parametrize("name", ["qwen3", "granite"])
def test_a_decoder_can_be_used_again(name):
    """After a generation that was broken off, and for other sizes: fewer and longer rows, more and shorter ones."""
    decoder = decoder_for(exact_of(name))
    (first,) = grown(decoder, 1, Sampling(max_tokens=60), prompts=PROMPTS[:1])
    usual = grown(decoder, 2)
    assert usual[0][0] == first[0][:TOKENS]
    short = grown(decoder, 1, Sampling(max_tokens=3), prompts=PROMPTS[:2])
    assert [tokens for tokens, _ in short] == [usual[0][0][:3], grown(decoder, 1)[1][0][:3]]
    broken = grow(decoder, PROMPTS, 2, list(range(10)), SAMPLING, (1, 7, 30), 5)
    next(broken)
    broken.close()
    assert grown(decoder, 2) == usual
    longer = grown(decoder, 2, Sampling(max_tokens=60))
    assert [tokens[:TOKENS] for tokens, _ in longer] == [tokens for tokens, _ in usual]
    assert apart(exact_of(name), longer).max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wave", [1, 5])
def test_a_decoder_forgets_what_a_broken_model_left_behind(wave, dtype):
    """Numbers that are not finite, in the memory that a decoder keeps for the next generation."""
    model = variant("mistral, window").to(dtype)
    decoder, greedy = decoder_for(model), Sampling(0, max_tokens=TOKENS)
    usual = grown(decoder, 2, greedy, wave=wave)
    sound = model.model.embed_tokens.weight.clone()
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(torch.nan)
        broken = grown(decoder, 2, Sampling(0, max_tokens=2 * TOKENS), wave=wave)
        assert all(math.isnan(x) for _, logp in broken for x in logp)
        model.model.embed_tokens.weight.copy_(sound)
    assert grown(decoder, 2, greedy, wave=wave) == usual


@pytest.mark.parametrize("name", ["qwen3", "llama, one head for all queries", "llama, wide heads", "gemma2"])
def test_what_a_token_takes(name):
    """The sizes of keys and values, as the library's cache has them."""
    model = model_of(name)
    held = model(input_ids=torch.tensor([[1, 2, 3, 4, 5]]), use_cache=True).past_key_values
    numbers = sum(x.numel() for layer in held.layers for x in (layer.keys, layer.values))
    assert decoder_for(model).bytes_per_token() == numbers * 4 / 5
