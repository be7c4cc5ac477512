"""Decoding on a CUDA device: captured steps and their kernels, beside ``generate``, the trainer and the CPU sampler."""

import math

import pytest
import torch

import rollout_grown
from contrapose.rollout.decode import decoder_for
from contrapose.rollout.growing import grow
from contrapose.rollout.sampler import Sampling, sample
from models import VARIANTS, tiny, variant
from rollout_grown import PROMPTS, apart

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from contrapose.rollout.captured import CapturedDecoder
from contrapose.rollout.kernels import draw

TOKENS = 100
"""More than attention reads at a time."""

SAMPLING = Sampling(max_tokens=TOKENS)


@pytest.fixture(autouse=True)
def whole_float32():
    """Products in float32, not in tf32."""
    torch.backends.cuda.matmul.allow_tf32 = False


def model_of(name, dtype=torch.float32):
    return (variant(name) if name in VARIANTS else tiny(name)).to("cuda", dtype)


def grown(decoder, k=1, sampling=SAMPLING, *rest, **more):
    return rollout_grown.grown(decoder, k, sampling, *rest, **more)


@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_is_generate(name):
    model, width = model_of(name), max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in PROMPTS], device="cuda")
    attend = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS], device="cuda")
    told = model.generate(ids, attention_mask=attend, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
    decoder = decoder_for(model)
    assert type(decoder) is CapturedDecoder
    found = grown(decoder, sampling=Sampling(0, max_tokens=TOKENS))
    same = [tokens == row[width:].tolist() for (tokens, _), row in zip(found, told, strict=True)]
    assert sum(same) >= 4  # two logits may be as near as sums round apart
    assert apart(model, found).max() < 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_log_probs_are_the_trainers_where_rows_end_and_join(name):
    model = model_of(name)
    decoder = decoder_for(model)
    prompts, eos = PROMPTS * 4, tuple(range(0, 64, 6))
    for wave in (3, 20, 3):
        found = grown(decoder, 3, Sampling(0.8, max_tokens=40), eos, prompts, wave)
        assert len({len(tokens) for tokens, _ in found}) > 6
        assert all(tokens[-1] in eos or len(tokens) == 40 for tokens, _ in found)
        assert not any(token in eos for tokens, _ in found for token in tokens[:-1])
        assert apart(model, found, prompts, 0.8).max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral, window", "llama, wide heads"])
def test_in_half_precision(name, dtype):
    model = model_of(name, dtype)
    found = grown(decoder_for(model), 2)
    far = apart(model, found)
    assert far.square().mean().sqrt() < 0.15 and far.max() < 1.5


def test_the_same_again_and_after_other_sizes_and_weights():
    model = model_of("qwen3")
    decoder = decoder_for(model)
    usual = grown(decoder, 2)
    assert grown(decoder, 2) == usual
    broken = grow(decoder, PROMPTS, 2, list(range(10)), Sampling(max_tokens=TOKENS), (1, 7, 30), 5)
    next(broken)
    broken.close()
    longer = grown(decoder, 3, Sampling(max_tokens=2 * TOKENS))
    assert apart(model, longer).max() < 1e-4
    assert grown(decoder, 2) == usual
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.9)
    found = grown(decoder, 2)
    assert found != usual and apart(model, found).max() < 1e-4
    model.load_state_dict({name: x.clone() * 1.1 for name, x in model.state_dict().items()}, assign=False)
    assert apart(model, grown(decoder, 2)).max() < 1e-4
    assert apart(model, grown(decoder, 2, Sampling(1.0, 0.9, 20))).max() < 1e-4


def test_rollouts_that_are_dropped_end_there():
    """Those that are under way, and those that wait after their first tokens."""
    decoder, dropped = decoder_for(model_of("qwen3")), set()
    whole = grown(decoder, 2, eos=tuple(range(0, 64, 9)))
    steps = grow(decoder, PROMPTS, 2, list(range(10)), Sampling(max_tokens=TOKENS), tuple(range(0, 64, 9)), 5, dropped)
    first = {number for number, _, _ in next(steps)}
    dropped.update({0, 1, 2, 3} - first)
    ended = {number: tokens for step in steps for number, tokens, _ in step}
    assert sorted(ended) == sorted(set(range(10)) - first)
    for number, tokens in ended.items():
        assert tokens == whole[number][0][: len(tokens)]
        assert len(tokens) == len(whole[number][0]) or number in dropped


def test_a_broken_model_shows_in_the_log_probs_and_is_forgotten():
    model = model_of("mistral, window")
    decoder, greedy = decoder_for(model), Sampling(0, max_tokens=20)
    usual, sound = grown(decoder, 2, greedy), model.model.embed_tokens.weight.clone()
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(torch.nan)
        for how in (Sampling(0, max_tokens=40), Sampling(max_tokens=40)):
            broken = grown(decoder, 2, how)
            assert all(math.isnan(x) for _, logp in broken for x in logp)
            assert all(0 <= token < 64 for tokens, _ in broken for token in tokens)
        model.model.embed_tokens.weight.copy_(sound)
    assert grown(decoder, 2, greedy) == usual


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0])
@pytest.mark.parametrize("vocabulary", [26, 4096, 4097, 151936])
def test_draws_are_the_samplers(vocabulary, temperature):
    generator = torch.Generator().manual_seed(vocabulary)
    logits_NV = 3 * torch.randn(64, vocabulary, generator=generator)
    logits_NV[:, vocabulary // 2 :] = -torch.inf
    seed_N, position_N = torch.randint(0, 2**62, (64,), generator=generator), torch.arange(64) % 7
    token_N, logp_N = draw(logits_NV.cuda(), seed_N.cuda(), position_N.cuda(), temperature)
    expected_N, told_N = sample(logits_NV, seed_N, position_N, Sampling(temperature))
    assert (token_N.cpu() == expected_N).sum() >= 63  # one may fall where sums round apart
    assert (
        logp_N.cpu() - logits_NV.div(temperature or 1).log_softmax(-1).gather(1, token_N.cpu()[:, None])[:, 0]
    ).abs().max() < 1e-4
    assert told_N.isfinite().all()


def test_draws_follow_the_distribution():
    logits_NV = torch.randn(1, 50, device="cuda").expand(20000, -1).contiguous()
    token_N, _ = draw(
        logits_NV, torch.arange(20000, device="cuda"), torch.zeros(20000, dtype=torch.long, device="cuda"), 1.0
    )
    share_V = torch.bincount(token_N, minlength=50) / 20000
    assert (share_V - logits_NV[0].softmax(-1)).abs().max() < 0.015
