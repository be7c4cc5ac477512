"""Values and gradients of response tokens in float64, against autograd through one unpadded row at a time."""

from functools import cache

import pytest
import torch
from torch import nn

from contrapose.policy.llama import Llama
from contrapose.policy.logprobs import LogProbs, Row
from models import FOREIGN, VARIANTS, exact, tiny, variant

SHORT, LONG, LONGER = (9,), (50, 51, 52, 51), (33, 4, 5, 61, 7, 8, 33, 10, 11, 12, 13)
ROWS = {
    "mixed": [
        Row(LONG, (7, 2, 60, 1)),
        Row(SHORT, (4,)),
        Row(LONG, ()),
        Row(LONGER, (0, 0, 17, 17, 5, 22, 8, 9, 9)),
        Row(SHORT, tuple(range(20, 35))),
        Row(LONG, (7, 2, 60, 1)),
        Row(LONG, (7, 3)),
        Row(LONGER, (63,)),
        Row((1, 2), ()),
    ],
    "no prompt twice": [Row(LONG, (7, 2, 60, 1)), Row(SHORT, (4,)), Row(LONGER, (17, 5, 22)), Row((1, 2), ())],
    "one prompt": [Row(LONG, (7, 2, 60, 1)), Row(LONG, (4,)), Row(LONG, ()), Row(LONG, tuple(range(12)))],
    "one token each": [Row(LONG, (7,)), Row(SHORT, (4,)), Row(LONG, (9,)), Row(SHORT, (4,))],
    "a prompt within a prompt": [Row((5, 6), (7, 8, 9)), Row((5, 6, 7), (8, 9)), Row((5, 6), (7, 1))],
    "one row": [Row(LONGER, (7, 2, 60, 1))],
    "one token": [Row(SHORT, (7,))],
}


def model_of(name):
    return exact(variant(name)) if name in VARIANTS else tiny(name).double()


def credit_of(rows):
    """Every token has its own, some are zero, and those beyond a response are not to be looked at."""
    credit = torch.linspace(-1, 2, len(rows) * max(len(r.response) for r in rows), dtype=torch.float64)
    credit[::5] = 0.0
    credit = credit.view(len(rows), -1)
    for i, row in enumerate(rows):
        credit[i, len(row.response) :] = torch.nan
    return credit


def naive(model, rows, temperature=1.0):
    """Log-probs of each row, the loss, and its gradients."""
    values, loss = [], 0.0
    for row, credit in zip(rows, credit_of(rows), strict=True):
        ids = torch.tensor([[*row.prompt, *row.response]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1].double()
        logp = (logits / temperature).log_softmax(-1)
        values.append(logp[torch.arange(len(row.response)), list(row.response)])
        loss = loss - (credit[: len(row.response)] * values[-1]).sum()
    return [x.detach() for x in values], loss.detach(), gradients(model, loss)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check(model, rows, expected, near=1e-10, temperature=1.0):
    """``near`` is absolute for values, and relative to the largest number for each parameter's gradient."""
    values, loss, by_name = expected
    logprobs = LogProbs(model, temperature)
    states = logprobs.states(rows)
    found = states.dense(states.logp()[0])
    for logp_NT in (found, logprobs.without_grad(rows)[0]):
        for line, value in zip(logp_NT, values, strict=True):
            torch.testing.assert_close(line[: len(value)], value, rtol=0, atol=near)
            assert (line[len(value) :] == 0).all()
    own = states.loss(credit_of(rows))
    torch.testing.assert_close(own.detach(), loss, rtol=near, atol=near)
    agree(gradients(model, own), by_name, near)


def agree(found, expected, near=1e-10):
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert (x - expected[name]).abs().max() <= near * max(1.0, expected[name].abs().max()), name


@cache
def expected_of(name, case="mixed"):
    return naive(model_of(name), ROWS[case])


@pytest.mark.parametrize("like", [1.0, 1.5, 1e9])
@pytest.mark.parametrize("name", VARIANTS)
def test_like_one_row_at_a_time(name, like, monkeypatch):
    """Whichever rows stand together in attention: those of one length, or all."""
    monkeypatch.setattr("contrapose.policy.states.LIKE", like)
    model = model_of(name)
    assert expected_of(name)[2].keys() == dict(model.named_parameters()).keys()
    assert all(x.abs().max() > 1e-3 for n, x in expected_of(name)[2].items() if not n.endswith("k_proj.bias"))
    check(model, ROWS["mixed"], expected_of(name))


@pytest.mark.parametrize("case", [case for case in ROWS if case != "mixed"])
@pytest.mark.parametrize("name", ["qwen3, one layer with a window", "llama, biases", "mistral, window"])
def test_whoever_shares_a_prompt(name, case):
    check(model_of(name), ROWS[case], expected_of(name, case))


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("family", FOREIGN)
def test_other_families(family, case):
    """As near as the library is, which takes norms in float32."""
    check(model_of(family), ROWS[case], expected_of(family, case), 1e-5)


@pytest.mark.parametrize("case", ROWS)
def test_a_prompt_is_computed_once(case, monkeypatch):
    """The tokens that go through the layers: each prompt's once, and of each response all but the last."""
    seen, plain = [], Llama.__call__
    model, rows = model_of("qwen3"), ROWS[case]
    logprobs = LogProbs(model)
    monkeypatch.setattr(Llama, "__call__", lambda self, ids_N, *rest: seen.append(ids_N) or plain(self, ids_N, *rest))
    logprobs.states(rows)
    (ids_N,) = seen
    needed = [token for part in (*{r.prompt for r in rows}, *(r.response[:-1] for r in rows)) for token in part]
    assert sorted(ids_N.tolist()) == sorted(needed)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_another_temperature(name, temperature):
    model = model_of(name)
    expected = naive(model, ROWS["mixed"], temperature)
    assert (expected[1] - expected_of(name)[1]).abs() > 0.1
    check(model, ROWS["mixed"], expected, 1e-5 if name in FOREIGN else 1e-10, temperature)


@pytest.mark.parametrize("tokens", [1, 2, 5, 35, 36, 37])
def test_chunks_of_any_size(tokens, monkeypatch):
    """There are 36 response tokens."""
    assert sum(len(r.response) for r in ROWS["mixed"]) == 36
    monkeypatch.setattr("contrapose.policy.logprobs.CHUNK_LOGITS", tokens * 64)
    check(model_of("qwen3, tied"), ROWS["mixed"], expected_of("qwen3, tied"))


def test_the_order_of_rows_is_theirs():
    """Backwards: the same values at the other places, the same gradients where credit goes with the rows."""
    model, rows = model_of("qwen3"), ROWS["mixed"]
    logprobs = LogProbs(model)
    forward, backward = logprobs.states(rows), logprobs.states(rows[::-1])
    values = [states.dense(states.logp()[0]) for states in (forward, backward)]
    torch.testing.assert_close(values[0], values[1].flip(0), rtol=0, atol=1e-12)
    credit = credit_of(rows)
    agree(gradients(model, backward.loss(credit.flip(0))), gradients(model, forward.loss(credit)))


def test_a_loss_that_is_scaled():
    """Whatever is done to the loss afterwards is done to its gradient."""
    model, rows = model_of("qwen3"), ROWS["mixed"]
    once, thrice = (gradients(model, c * LogProbs(model).states(rows).loss(credit_of(rows))) for c in (1.0, -3.0))
    agree(thrice, {name: -3 * x for name, x in once.items()})


@pytest.mark.parametrize("trained", [("lm_head",), ("model.",), ("embed", "layers.0"), ("layers.1.mlp.up", "lm_head")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_parameters(trained, checkpointing):
    """A frozen head, a frozen body, some layers: the others' gradients are what they were, the frozen have none."""
    model, name = model_of("llama, biases"), "llama, biases"
    for parameter, p in model.named_parameters():
        p.requires_grad_(any(part in parameter for part in trained))
    loss = LogProbs(model, checkpointing=checkpointing).states(ROWS["mixed"]).loss(credit_of(ROWS["mixed"]))
    expected = {n: x for n, x in expected_of(name)[2].items() if any(part in n for part in trained)}
    assert 0 < len(expected) < len(expected_of(name)[2])
    agree(gradients(model, loss), expected)


@pytest.mark.parametrize("tokens", [5, 40])
def test_a_head_with_a_bias(tokens, monkeypatch):
    """In many chunks, and in one."""
    monkeypatch.setattr("contrapose.policy.logprobs.CHUNK_LOGITS", tokens * 64)
    model = model_of("llama")
    model.lm_head = nn.Linear(32, 64, dtype=torch.float64)
    nn.init.normal_(model.lm_head.bias, generator=torch.Generator().manual_seed(0))
    expected = naive(model, ROWS["mixed"])
    assert expected[2]["lm_head.bias"].abs().max() > 0.1
    check(model, ROWS["mixed"], expected)


@pytest.mark.parametrize("name", ["qwen3, tied", "llama, biases", "mistral, window"])
def test_gradients_in_bfloat16(name):
    """In the parameters' own precision, and near the exact ones of the same parameters."""
    model = variant(name).bfloat16()
    found = gradients(model, LogProbs(model).states(ROWS["mixed"]).loss(credit_of(ROWS["mixed"]).float()))
    expected = naive(exact(model), ROWS["mixed"])[2]
    assert all(x.dtype == torch.bfloat16 for x in found.values())
    found, expected = (torch.cat([x[n].flatten().double() for n in expected]) for x in (found, expected))
    assert (found - expected).norm() / expected.norm() < 0.05
