"""Prompts that join while others grow: whoever stands beside whom, the same tokens, and the trainer's log-probs.

Tokens are compared in float64: in float32 a draw may fall where the last bits of a probability decide.
"""

from functools import cache

import pytest
import torch

from contrapose.policy.logprobs import LogProbs, Row
from contrapose.rollout.decode import EmbeddedEngine, decoder_for
from contrapose.rollout.growing import grow
from contrapose.rollout.sampler import Sampling
from contrapose.types import Prompt
from models import VARIANTS, exact, tiny, tokenizer, variant
from rollout_watched import watched
from train_scripted import by_prompt

EOS = (1, 7, 30, 44)
SHORT = Sampling(max_tokens=8)
COUNT, K = 24, 2
LENGTHS = [1 + (7 * i) % 12 for i in range(COUNT)]
PROMPTS = [tuple(2 + (i + 5 * j) % 60 for j in range(length)) for i, length in enumerate(LENGTHS)]


@cache
def model_of(name, dtype=torch.float64):
    model = variant(name) if name in VARIANTS else tiny(name)
    return exact(model) if dtype == torch.float64 else model


def grown(name, wave, prompts=PROMPTS, k=K, sampling=SHORT, eos=EOS, dtype=torch.float64):
    """``(tokens, log-probs)`` of each rollout, in order; each comes once."""
    seeds = [100 + i for i in range(len(prompts) * k)]
    steps = list(grow(decoder_for(model_of(name, dtype)), prompts, k, seeds, sampling, eos, wave))
    ended = {number: (tokens, logp) for step in steps for number, tokens, logp in step}
    assert sorted(ended) == list(range(len(prompts) * k)) and sum(map(len, steps)) == len(ended)
    return [ended[number] for number in sorted(ended)]


@cache
def together(name):
    """All prompts side by side, none joins."""
    return grown(name, COUNT)


def same(found, expected, near=2e-6):
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    for (_, logp), (_, other) in zip(found, expected, strict=True):
        assert logp == pytest.approx(other, abs=near)


def check_with_the_trainer(name, found, prompts=PROMPTS, k=K, dtype=torch.float64):
    """Every token's log-prob is the trainer's of the whole row."""
    rows = [Row(prompts[i // k], tuple(tokens)) for i, (tokens, _) in enumerate(found)]
    for line, (_, logp) in zip(LogProbs(model_of(name, dtype)).without_grad(rows)[0], found, strict=True):
        assert line[: len(logp)].tolist() == pytest.approx(logp, abs=2e-5 if dtype == torch.float32 else 2e-6)


@pytest.mark.parametrize(
    ("name", "wave", "share"),
    [("qwen3", wave, share) for wave in (2, 5, 23) for share in (0.01, 0.5, 0.75, 0.9, 1.0)]
    + [("qwen3", 1, 0.9), ("mistral, window", 2, 0.9), ("mistral, window", 5, 0.5)],
)
def test_joining_changes_nothing(name, wave, share, monkeypatch):
    """From prompts that wait until all before them are done, to those that join wherever there is room."""
    expected = together(name)
    monkeypatch.setattr("contrapose.rollout.growing.CLOSE_UP_BELOW", share)
    seen = watched(monkeypatch)
    same(grown(name, wave), expected)
    assert sorted(seen.read) == sorted(PROMPTS)
    assert max(seen.steps) <= wave * K
    if share == 0.01:
        assert len(seen.opened) == len(seen.admitted) == -(-COUNT // wave)
    if share >= 0.75 and 1 < wave < 23:
        assert len(seen.opened) < len(seen.admitted)
    check_with_the_trainer(name, grown(name, wave, dtype=torch.float32), dtype=torch.float32)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joining_for_longer_than_a_row_is_long(name, dtype, monkeypatch):
    """In one cache more steps are taken than a row has room for, and the trainer says the same of every token."""
    monkeypatch.setattr("contrapose.rollout.growing.CLOSE_UP_BELOW", 0.9)
    seen = watched(monkeypatch)
    found = grown(name, 5, dtype=dtype)
    assert seen.steps_of_one_cache() > 1.2 * (max(LENGTHS) + SHORT.max_tokens)
    check_with_the_trainer(name, found, dtype=dtype)
    if dtype == torch.float64:
        same(found, together(name))


@pytest.mark.parametrize(("k", "wave"), [(6, 2), (3, 5), (16, 3)])
def test_rows_that_nobody_takes_for_long(k, wave, monkeypatch):
    """Answers of a token or two: rows are free at once, and the last ones wait for their like again and again."""
    prompts, eos, sampling = [(2 + i % 50,) for i in range(60)], tuple(range(0, 64, 2)), Sampling(max_tokens=4)
    expected = grown("qwen3", 60, prompts, k, sampling, eos)
    monkeypatch.setattr("contrapose.rollout.growing.CLOSE_UP_BELOW", 1.0)
    seen = watched(monkeypatch)
    same(grown("qwen3", wave, prompts, k, sampling, eos), expected)
    found = grown("qwen3", wave, prompts, k, sampling, eos, torch.float32)
    check_with_the_trainer("qwen3", found, prompts, k, torch.float32)
    assert seen.steps_of_one_cache() > 3 * (1 + sampling.max_tokens)


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_rows_that_reach_the_limit_beside_others(k, share, monkeypatch):
    """No answer but a few ends by itself, so that some are at the limit while those that joined later go on."""
    expected = grown("qwen3", COUNT, k=k, eos=(30,))
    assert sum(len(tokens) == SHORT.max_tokens for tokens, _ in expected) > 0.5 * len(expected)
    monkeypatch.setattr("contrapose.rollout.growing.CLOSE_UP_BELOW", share)
    same(grown("qwen3", 8, k=k, eos=(30,)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_short_prompts_that_join_long_ones(dtype, monkeypatch):
    """Rows of ninety tokens, and of one; a long prompt that comes late finds room too."""
    monkeypatch.setattr("contrapose.rollout.growing.CLOSE_UP_BELOW", 1.0)
    long, late = tuple(2 + i % 60 for i in range(90)), tuple(range(2, 62)) * 2
    prompts, eos, sampling = [long, (9,), (8, 3), (7,), (6,), late, (5,), (4,)], (*EOS, 12, 20), Sampling(max_tokens=16)
    for wave in (1, 2, 3):
        found = grown("qwen3", wave, prompts, 1, sampling, eos, dtype)
        check_with_the_trainer("qwen3", found, prompts, 1, dtype)
        if dtype == torch.float64:
            same(found, grown("qwen3", 8, prompts, 1, sampling, eos))
    assert len(found[0][0]) > 2 + len(found[1][0])  # the second row was free for others before the first ended


@pytest.mark.parametrize("wave", [1, 5, 23])
def test_a_decoder_that_lets_none_join(wave, monkeypatch):
    """Through the library: one wave after the other, and rows close up in each of them."""
    expected = together("granite")
    monkeypatch.setattr("contrapose.rollout.growing.CLOSE_UP_BELOW", 1.0)
    seen = watched(monkeypatch)
    same(grown("granite", wave), expected)
    assert len(seen.admitted) - seen.read.count((0, 1)) == -(-COUNT // wave)  # but for its look at the cache
    assert sum(seen.steps) == sum(len(tokens) - 1 for tokens, _ in expected)


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_answers_of_a_token_or_two(max_tokens):
    sampling = Sampling(max_tokens=max_tokens)
    same(grown("qwen3", 3, sampling=sampling), grown("qwen3", COUNT, sampling=sampling))


@pytest.mark.parametrize("name", ["qwen3", "granite"])
def test_rollouts_that_are_dropped_go_no_further(name):
    """Once is enough: those that grow end where they are, those that wait after their first token, the others go on."""
    whole, dropped, ended = together(name), set(), {}
    first = min(len(tokens) for tokens, _ in whole[: 6 * K])
    grows = [number for number in range(6 * K) if len(whole[number][0]) > first][:3]
    waits = [number for number in range(20 * K, COUNT * K) if len(whole[number][0]) > 1][:3]
    seeds, chosen = [100 + i for i in range(COUNT * K)], {*grows, *waits}
    for step in grow(decoder_for(model_of(name)), PROMPTS, K, seeds, SHORT, EOS, 6, dropped):
        if not ended:
            dropped |= chosen
        else:
            dropped.clear()
        for number, tokens, logp in step:
            assert number not in ended
            ended[number] = tokens, logp
    assert sorted(ended) == list(range(COUNT * K))
    for number, (tokens, logp) in ended.items():
        full = whole[number][0]
        assert tokens == (full[: len(tokens)] if number in chosen else full)
        assert logp == pytest.approx(whole[number][1][: len(logp)], abs=2e-6)
    assert [len(ended[number][0]) for number in (*grows, *waits)] == [first] * 3 + [1] * 3


@pytest.mark.parametrize("name", ["qwen3", "granite"])
def test_a_prompt_that_is_cancelled_while_it_waits(name):
    """What has not begun when it is cancelled is not rolled out to its end; the others go on as ever."""
    prompts = [Prompt(f"p{i}", "", "", tokens=tokens) for i, tokens in enumerate(PROMPTS)]
    engine, sampling = EmbeddedEngine(model_of(name), tokenizer(), EOS, max_rows=6 * K), Sampling(max_tokens=24)
    whole = by_prompt(engine.generate(prompts, K, 0, sampling))
    late, cancelled, steps = {p.id for p in prompts[18:]}, set(), []
    for step in engine.generate(prompts, K, 0, sampling, cancelled):
        steps.append(step)
        cancelled |= late
    found = by_prompt(steps)
    assert found.keys() == whole.keys()
    for prompt, group in found.items():
        for rollout, full in zip(group, whole[prompt], strict=True):
            assert rollout.tokens == full.tokens[: len(rollout.tokens)]
            if prompt not in late:
                assert (rollout.tokens, rollout.finished) == (full.tokens, full.finished)
    spent, spent_whole = (sum(len(r.tokens) for name in late for r in of[name]) for of in (found, whole))
    assert spent < 0.5 * spent_whole
    assert any(r.finished == "cancelled" for name in late for r in found[name])


def test_inference_mode_is_left_between_steps():
    for _ in grow(decoder_for(model_of("qwen3")), PROMPTS, K, list(range(COUNT * K)), SHORT, EOS, 4):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
