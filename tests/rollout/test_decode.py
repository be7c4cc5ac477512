"""The embedded engine against ``generate`` and against ``LogProbs``; nothing but the seed decides what is drawn.

What Llama-family models may have is the subject of ``test_cached.py``, how prompts join that of ``test_growing.py``.
Tokens from another company are compared in float64: in float32 the last bits of a probability may decide a draw.
"""

import pytest
import torch

from contrapose.policy.llama import Llama
from contrapose.policy.logprobs import LogProbs, Row
from contrapose.rollout.decode import EmbeddedEngine, decoder_for
from contrapose.rollout.growing import grow
from contrapose.rollout.sampler import Sampling
from contrapose.types import UNVERSIONED, ContraposeError, Prompt
from models import FOREIGN, PLAIN, tiny, tokenizer
from rollout_watched import watched
from train_scripted import by_prompt

TOKENS = [(5, 9, 3), (8,), (11, 2, 3, 4, 5, 6, 40), (63, 22), (17, 33, 8, 9)]
PROMPTS = [Prompt(id=f"p{i}", problem="", answer="", tokens=tokens) for i, tokens in enumerate(TOKENS)]
EOS = (1, 7, 30)
SAMPLING = Sampling(max_tokens=24)


def rollouts(model, prompts=PROMPTS, k=3, seed=0, sampling=SAMPLING, eos=EOS, max_rows=256):
    """Rollouts by prompt id."""
    engine = EmbeddedEngine(model, tokenizer(eos=eos[0]), eos, max_rows)
    found = by_prompt(engine.generate(prompts, k, seed, sampling))
    assert len(found) == len(prompts)
    assert all(len(group) == k for group in found.values())
    return found


def tokens_of(drawn):
    return {name: [r.tokens for r in group] for name, group in drawn.items()}


@pytest.mark.parametrize("eos", [(1,), EOS, (7, 20, 40, 50)])
@pytest.mark.parametrize("family", (*PLAIN, *FOREIGN))
def test_greedy_is_generate(family, eos):
    """Prompts of different lengths, padded on the left."""
    model = tiny(family)
    width = max(map(len, TOKENS))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in TOKENS])
    attend = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in TOKENS])
    expected = model.generate(
        ids, attention_mask=attend, do_sample=False, max_new_tokens=24, eos_token_id=list(eos), pad_token_id=0
    )[:, width:].tolist()
    drawn = rollouts(model, k=1, sampling=Sampling(temperature=0, max_tokens=24), eos=eos)
    for prompt, row in zip(PROMPTS, expected, strict=True):
        (rollout,) = drawn[prompt.id]
        stop = next((t + 1 for t, token in enumerate(row) if token in eos), 24)
        assert list(rollout.tokens) == row[:stop]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", (*PLAIN, *FOREIGN))
def test_log_probs_are_the_trainers(family, temperature):
    model = tiny(family)
    drawn = rollouts(model, sampling=Sampling(temperature, max_tokens=24))
    rows = [Row(p.tokens, r.tokens) for p in PROMPTS for r in drawn[p.id]]
    expected, _ = LogProbs(model, temperature).without_grad(rows)
    found = torch.zeros_like(expected)
    for i, r in enumerate(r for p in PROMPTS for r in drawn[p.id]):
        found[i, : len(r.tokens)] = torch.tensor(r.logp)
    assert (found - expected).abs().max() < 2e-5
    assert len({r.tokens for p in PROMPTS for r in drawn[p.id]}) > 10


def test_log_probs_of_greedy_tokens_are_the_policys():
    model = tiny("qwen3")
    drawn = rollouts(model, k=1, sampling=Sampling(temperature=0, max_tokens=24))
    for prompt in PROMPTS:
        (rollout,) = drawn[prompt.id]
        expected, _ = LogProbs(model).without_grad([Row(prompt.tokens, rollout.tokens)])
        assert rollout.logp == pytest.approx(expected[0].tolist(), abs=2e-5)


def test_the_seed_decides():
    model = tiny("qwen3")
    assert rollouts(model, seed=3) == rollouts(model, seed=3)
    assert tokens_of(rollouts(model, seed=3)) != tokens_of(rollouts(model, seed=4))


def test_rollouts_of_a_prompt_differ():
    drawn = rollouts(tiny("qwen3"), k=6)
    assert all(len({r.tokens for r in group}) > 3 for group in drawn.values())


@pytest.mark.parametrize("family", (*PLAIN, "granite"))
def test_the_company_of_other_prompts_changes_nothing(family):
    model = tiny(family).double()
    together = tokens_of(rollouts(model))
    assert tokens_of(rollouts(model, PROMPTS[::-1])) == together
    for prompt in PROMPTS:
        assert tokens_of(rollouts(model, [prompt]))[prompt.id] == together[prompt.id]


def test_more_rollouts_begin_with_the_fewer():
    model = tiny("qwen3").double()
    few, many = tokens_of(rollouts(model, k=2)), tokens_of(rollouts(model, k=5))
    assert all(many[name][:2] == group for name, group in few.items())


@pytest.mark.parametrize("max_rows", [1, 3, 6, 7])
@pytest.mark.parametrize("family", ["qwen3", "granite"])
def test_waves_change_nothing(family, max_rows, monkeypatch):
    """At most ``max_rows`` rows at a time, or one prompt's where that is more; every prompt is read once."""
    model = tiny(family).double()
    whole = tokens_of(rollouts(model))
    engine = EmbeddedEngine(model, tokenizer(eos=EOS[0]), EOS, max_rows)
    seen = watched(monkeypatch)
    assert tokens_of(by_prompt(engine.generate(PROMPTS, 3, 0, SAMPLING))) == whole
    assert max(seen.steps) == max(max_rows // 3 * 3, 3)
    assert sorted(seen.read) == sorted(TOKENS)
    assert len(seen.admitted) > 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("family", ["qwen3", "granite"])
def test_closing_up_changes_nothing(family, share, monkeypatch):
    """From never letting go of rows that ended to doing so at every step."""
    model = tiny(family).double()
    usual = rollouts(model)
    monkeypatch.setattr("contrapose.rollout.growing.CLOSE_UP_BELOW", share)
    seen = watched(monkeypatch)
    found = rollouts(model)
    assert tokens_of(found) == tokens_of(usual)
    for name, group in found.items():
        for rollout, other in zip(group, usual[name], strict=True):
            assert rollout.logp == pytest.approx(other.logp, abs=2e-6)
    lengths = [len(r.tokens) for group in usual.values() for r in group]
    growing = [sum(n > t for n in lengths) for t in range(1, max(lengths))]
    assert min(lengths) < max(lengths)
    if share == 0:
        assert seen.steps == [15] * len(growing)
    if share == 0.5:
        assert sum(growing) < sum(seen.steps) < 15 * len(growing)
    if share == 1:
        assert seen.steps == growing


@pytest.mark.parametrize("family", ["qwen3", "granite"])
def test_a_small_cache_makes_small_waves(family, monkeypatch):
    """Rollouts side by side are bounded by what the cache would hold if all ran to the limit; never below a group."""
    model = tiny(family).double()
    bytes_per_token = 2 * 2 * 2 * 8 * 8  # keys and values, layers, heads, head size, float64
    assert decoder_for(model).bytes_per_token() == bytes_per_token
    longest = max(len(p.tokens) for p in PROMPTS) + SAMPLING.max_tokens
    usual = tokens_of(rollouts(model))
    seen = watched(monkeypatch)
    for rows, expected in ((15, 15), (9, 9), (7, 6), (1, 3)):
        cache_gib = rows * longest * bytes_per_token / 2**30 * 1.001
        engine = EmbeddedEngine(model, tokenizer(eos=EOS[0]), EOS, cache_gib=cache_gib)
        seen.clear()  # of the engine's own look at the cache
        assert tokens_of(by_prompt(engine.generate(PROMPTS, 3, 0, SAMPLING))) == usual
        assert max(seen.steps) == expected
        for opened, *_, columns in seen.opened:
            assert columns >= longest
            assert opened == 3 or opened * columns <= 1.001 * rows * longest


def test_a_model_without_a_key_value_cache_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    with pytest.raises(ContraposeError, match="Mamba"):
        EmbeddedEngine(model, tokenizer(), EOS)


def test_stop_and_length():
    """A rollout ends with its first EOS of any kind, which it keeps, or at the limit."""
    drawn = rollouts(tiny("qwen3"), k=6, sampling=Sampling(max_tokens=12))
    every = [r for group in drawn.values() for r in group]
    for r in every:
        assert len(r.tokens) == len(r.logp) == len(r.mask) <= 12
        assert set(r.mask) == {1}
        assert not set(r.tokens[:-1]) & set(EOS)
        assert r.finished == ("stop" if r.tokens[-1] in EOS else "length")
        assert r.finished == "stop" or len(r.tokens) == 12
    ended = {r.tokens[-1] for r in every if r.finished == "stop"}
    assert len(ended) > 1
    assert any(r.finished == "length" for r in every)


def test_the_text_is_without_the_eos():
    """Whichever EOS it was, also one that the tokenizer does not call special."""
    drawn = rollouts(tiny("qwen3"), k=6)
    stops = set()
    for r in (r for group in drawn.values() for r in group):
        shown = r.tokens[:-1] if r.finished == "stop" else r.tokens
        assert r.text == " ".join(f"t{i}" for i in shown)
        if r.finished == "stop":
            stops.add(r.tokens[-1])
    assert stops - {EOS[0]}


def test_an_eos_at_the_limit_is_a_stop():
    model = tiny("qwen3")
    first = rollouts(model, k=8, sampling=Sampling(max_tokens=1))
    tokens = sorted({r.tokens[0] for group in first.values() for r in group})
    drawn = rollouts(model, k=8, sampling=Sampling(max_tokens=1), eos=tuple(tokens[:2]))
    finished = {r.finished for group in drawn.values() for r in group}
    assert finished == {"stop", "length"}
    for r in (r for group in drawn.values() for r in group):
        assert (r.finished == "stop") == (r.tokens[0] in tokens[:2])


def test_rollouts_are_yielded_when_they_are_finished():
    """Rows come as they end: shorter answers before longer ones."""
    model = tiny("qwen3")
    steps = list(grow(decoder_for(model), TOKENS, 2, list(range(10)), SAMPLING, EOS, wave=5))
    assert sorted(row for step in steps for row, _, _ in step) == list(range(10))
    lengths = [{len(tokens) for _, tokens, _ in step} for step in steps]
    assert all(len(length) == 1 for length in lengths)
    assert lengths == sorted(lengths, key=max) and len(lengths) > 1
    engine = EmbeddedEngine(model, tokenizer(), EOS)
    groups = by_prompt(engine.generate(PROMPTS, 2, 0, SAMPLING)).values()
    longest = [max(len(r.tokens) for r in group) for group in groups]
    assert longest == sorted(longest) and len(set(longest)) > 1


def test_one_prefill_a_prompt(monkeypatch):
    """The first forward pass sees each prompt once, not K times."""
    sizes, plain = [], Llama.__call__
    ours, foreign = (EmbeddedEngine(tiny(family), tokenizer(), EOS) for family in ("qwen3", "gemma2"))
    monkeypatch.setattr("contrapose.rollout.cached.compiled_step", lambda *parts: None)
    monkeypatch.setattr(Llama, "__call__", lambda self, *args: sizes.append(len(args[0])) or plain(self, *args))
    list(ours.generate(PROMPTS, 4, 0, SAMPLING))
    assert sizes[:2] == [5 * 7, 20]  # five prompts of at most seven tokens
    sizes.clear()
    foreign.model.register_forward_pre_hook(lambda m, a, kw: sizes.append(kw["input_ids"].numel()), with_kwargs=True)
    list(foreign.generate(PROMPTS, 4, 0, SAMPLING))
    assert sizes[:2] == [5 * 7, 20]


@pytest.mark.parametrize("family", (*PLAIN, "gemma2"))
def test_the_model_can_still_be_trained(family):
    """Decoding leaves nothing behind that autograd refuses, also in the middle of a generation."""
    model = tiny(family)
    engine = EmbeddedEngine(model, tokenizer(), EOS)
    generation = engine.generate(PROMPTS, 2, 0, SAMPLING)
    first = next(generation)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    LogProbs(model).states([Row((1, 2), (3, 4))]).loss(torch.ones(1, 2)).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(first) < sum(map(len, by_prompt([first, *generation]).values())) == 10


def test_the_weights_are_those_of_now():
    model, other = tiny("qwen3"), tiny("qwen3", seed=1)
    engine = EmbeddedEngine(model, tokenizer(), EOS)
    engine.sync(other)
    synced = by_prompt(engine.generate(PROMPTS, 3, 0, SAMPLING))
    assert synced == rollouts(other) != rollouts(model)
    model.load_state_dict(other.state_dict())
    assert rollouts(model) == synced


def test_rollouts_carry_the_version_of_the_weights():
    engine = EmbeddedEngine(tiny("qwen3"), tokenizer(), EOS)

    def versions():
        return {r.version for group in by_prompt(engine.generate(PROMPTS, 2, 0, SAMPLING)).values() for r in group}

    assert versions() == {UNVERSIONED}
    engine.sync(engine.model, 7)
    assert versions() == {7}
    engine.sync(engine.model)  # to look at, not to train on
    assert versions() == {UNVERSIONED}


def test_room_after_the_longest_prompt():
    engine = EmbeddedEngine(tiny("qwen3", max_position_embeddings=50), tokenizer(), EOS)
    assert engine.room_after(PROMPTS) == 43
