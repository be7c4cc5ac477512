"""Log-probs against the naive way: full logits of one unpadded row at a time.

Gradients in float64, and rows that share prompts, are the subject of ``test_states.py``.
"""

import logging

import pytest
import torch

from contrapose.policy.logprobs import LogProbs, Row, States
from models import FOREIGN, PLAIN, tiny

ROWS = [
    Row((5, 9, 3), (7, 2, 60, 1)),
    Row((8,), (4,)),
    Row((1, 2, 3, 4, 5, 6), ()),
    Row((63, 0, 0), (0, 0, 17, 17, 5, 22, 8)),
]
RESHAPED = {
    "gemma2": {"final_logit_softcapping": 2.0, "attn_implementation": "eager"},
    "granite": {"logits_scaling": 4.0},
}


def naive(model, row, temperature=1.0):
    """``(logp, entropy)`` of one row, each ``[T]``."""
    logits = model(input_ids=torch.tensor([[*row.prompt, *row.response]])).logits[0].double() / temperature
    logp = logits.log_softmax(-1)[len(row.prompt) - 1 : -1]
    chosen = logp[torch.arange(len(row.response)), list(row.response)]
    return chosen, -(logp.exp() * logp).sum(-1)


def check(model, rows, temperature=1.0):
    logprobs = LogProbs(model, temperature)
    states = logprobs.states(rows)
    live, live_entropy = (states.dense(x) for x in states.logp(entropy=True))
    still, entropy = logprobs.without_grad(rows, entropy=True)
    assert live.shape == still.shape == entropy.shape == (len(rows), max(len(r.response) for r in rows))
    assert states.loss(torch.ones_like(live)).requires_grad
    assert not any(x.requires_grad for x in (live, live_entropy, still, entropy))
    assert torch.equal(live, still) and torch.equal(live_entropy, entropy)
    for i, row in enumerate(rows):
        n = len(row.response)
        expected, expected_entropy = (x.detach().float() for x in naive(model, row, temperature))
        torch.testing.assert_close(still[i, :n], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy[i, :n], expected_entropy, rtol=1e-5, atol=1e-5)
        assert (still[i, n:] == 0).all() and (entropy[i, n:] == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("family", (*PLAIN, *FOREIGN))
def test_like_full_logits(family, temperature, caplog):
    check(tiny(family), ROWS, temperature)
    assert family in FOREIGN or not caplog.records


def test_tied_embeddings():
    check(tiny("qwen3", tie_word_embeddings=True), ROWS)


@pytest.mark.parametrize("family", RESHAPED)
def test_logits_changed_after_the_head_are_noticed(family, caplog):
    model = tiny(family, **RESHAPED[family])
    with caplog.at_level(logging.WARNING):
        check(model, ROWS, 0.7)
    assert type(model).__name__ in caplog.text


def test_temperature_changes_the_numbers():
    model = tiny("qwen3")
    one, other = (LogProbs(model, t).without_grad(ROWS, entropy=True) for t in (1.0, 0.7))
    assert (one[0] - other[0]).abs().max() > 0.1
    assert (other[1] < one[1])[one[1] > 0].all()


def test_entropy_only_when_asked_for():
    _, entropy = LogProbs(tiny("qwen3")).without_grad(ROWS)
    assert (entropy == 0).all()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


CREDIT = torch.linspace(-1, 2, 28).view(4, 7)
"""Weighs every token differently."""


@pytest.mark.parametrize("family", (*PLAIN, *FOREIGN))
def test_gradients_like_full_logits(family):
    model = tiny(family)
    loss = LogProbs(model, 0.7).states(ROWS).loss(CREDIT)
    found = gradients(model, loss)
    width = max(len(r.response) for r in ROWS)
    rows = [naive(model, row, 0.7)[0].float() for row in ROWS]
    padded = torch.stack([torch.nn.functional.pad(x, (0, width - len(x))) for x in rows])
    expected_loss = -(CREDIT * padded).sum()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    expected = gradients(model, expected_loss)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("tokens", [1, 3, 11, 12])
def test_chunks_change_nothing(tokens, monkeypatch):
    """The 12 response tokens in chunks: same values, same entropy, same loss, same gradients."""
    model = tiny("qwen3")
    logprobs = LogProbs(model, 0.7)
    whole, whole_entropy = logprobs.without_grad(ROWS, entropy=True)
    loss = logprobs.states(ROWS).loss(CREDIT)
    expected = gradients(model, loss)
    monkeypatch.setattr("contrapose.policy.logprobs.CHUNK_LOGITS", tokens * 64)
    parts, parts_entropy = logprobs.without_grad(ROWS, entropy=True)
    loss_of_parts = logprobs.states(ROWS).loss(CREDIT)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts_entropy, whole_entropy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss_of_parts, loss, rtol=1e-6, atol=1e-6)
    found = gradients(model, loss_of_parts)
    assert found.keys() == expected.keys()
    for name, x in found.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("chunk", "formed"), [(64 * 12, 1), (64 * 11, 4)])
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_a_loss_after_its_log_probs(family, chunk, formed, monkeypatch):
    """It meets the same log-probs and has the same gradient, bit for bit; where they are one piece its logits are not
    formed anew."""
    calls = []
    monkeypatch.setattr(States, "logits", lambda of, state, logits=States.logits: calls.append(1) or logits(of, state))
    monkeypatch.setattr("contrapose.policy.logprobs.CHUNK_LOGITS", chunk)
    model = tiny(family)
    alone, after = (LogProbs(model, 0.7).states(ROWS) for _ in range(2))
    loss, met = alone.loss_and_logp(CREDIT)
    expected = gradients(model, loss)
    calls.clear()
    logp, _ = after.logp()
    found_loss, met_after = after.loss_and_logp(CREDIT)
    assert len(calls) == (formed if family == "qwen3" else formed // 2 or 1)
    found = gradients(model, found_loss)
    assert torch.equal(found_loss, loss)
    assert torch.equal(met, logp) and torch.equal(met_after, logp) and not met.requires_grad
    assert all(torch.equal(x, expected[name]) for name, x in found.items())


def test_log_probs_are_differentiated_once():
    loss = LogProbs(tiny("qwen3")).states(ROWS).loss(CREDIT)
    with pytest.raises(RuntimeError, match="once, not twice"):
        loss.backward(create_graph=True)


def test_a_vocabulary_wider_than_a_chunk(monkeypatch):
    monkeypatch.setattr("contrapose.policy.logprobs.CHUNK_LOGITS", 1)
    check(tiny("llama"), ROWS)


@pytest.mark.parametrize("rows", [[Row((1, 2), ())], [Row((1, 2), ()), Row((3,), ())], [Row((1, 2), ())] * 2])
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_nothing_but_empty_responses(family, rows):
    model = tiny(family)
    logprobs = LogProbs(model)
    states = logprobs.states(rows)
    assert states.dense(states.logp()[0]).shape == (len(rows), 0)
    found = gradients(model, states.loss(torch.zeros(len(rows), 0)))
    assert all((x == 0).all() for x in found.values())
    logp, entropy = logprobs.without_grad(rows, entropy=True)
    assert logp.shape == entropy.shape == (len(rows), 0)


def test_the_company_of_longer_rows_changes_nothing():
    logprobs = LogProbs(tiny("qwen2"))
    alone, _ = logprobs.without_grad(ROWS[:1])
    beside, _ = logprobs.without_grad([Row(tuple(range(40)), tuple(range(20))), *ROWS])
    torch.testing.assert_close(beside[1, :4], alone[0], rtol=1e-5, atol=1e-5)


def test_rows_come_back_in_order():
    logprobs = LogProbs(tiny("qwen2"))
    forward, _ = logprobs.without_grad(ROWS)
    backward, _ = logprobs.without_grad(ROWS[::-1])
    torch.testing.assert_close(backward.flip(0), forward, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bfloat16", torch.float32), ("float32", torch.float32), ("float64", torch.float64)]
)
def test_log_probs_are_at_least_float32(dtype, expected):
    model = tiny("qwen2").to(getattr(torch, dtype))
    logp, entropy = LogProbs(model).without_grad(ROWS, entropy=True)
    assert logp.dtype == entropy.dtype == expected


def test_the_weights_are_those_of_now():
    """A ``LogProbs`` keeps the model, not a copy."""
    model = tiny("qwen2")
    logprobs = LogProbs(model)
    before, _ = logprobs.without_grad(ROWS)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    check(model, ROWS)
    assert (logprobs.without_grad(ROWS)[0] - before).abs().max() > 0.1


def test_a_row_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="a row needs a prompt"):
        LogProbs(tiny("qwen2")).without_grad([ROWS[0], Row((), (4, 5))])


def test_the_length_of_a_row():
    assert [row.length for row in ROWS] == [7, 2, 6, 10]
