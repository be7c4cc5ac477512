"""The attention of one new token to its row's past: compiled, in torch, by torch's own, and by the definition."""

from types import SimpleNamespace

import pytest
import torch

from contrapose.policy import native
from contrapose.rollout.past import ChunkedPast, PlainPast

SHAPES = [(4, 2, 8), (4, 4, 12), (4, 1, 16), (3, 1, 20), (8, 2, 64)]
"""Query heads, key-value heads, head size: also of no whole number of lanes."""

LENGTHS = [1, 2, 5, 15, 16, 17, 33, 47, 80, 95, 96, 126]
ROWS = len(LENGTHS)
COLUMNS = 127
ROOM = [COLUMNS, 200, 600]
"""Columns that a past may have room for: it cuts them into chunks of other sizes."""

COMPILED = native._compiled
KINDS = ["compiled", "in torch", "plain"]


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def empty(kind, heads, groups, size, window, monkeypatch, rows=ROWS, columns=COLUMNS):
    """A past of one layer."""
    layer = SimpleNamespace(window=window, head_norms=(None, None), eps=1e-6)
    rope = torch.ones(columns, size), torch.zeros(columns, size)
    as_they_are = {"rope": rope, "heads": lambda layer, q_NHD, k_NGD, position_N: (q_NHD, k_NGD)}
    llama = SimpleNamespace(groups=groups, head_size=size, layers=[layer], embedding=torch.empty(1), **as_they_are)
    monkeypatch.setattr(native, "_compiled", COMPILED if kind == "compiled" else lambda size: None)
    return (PlainPast if kind == "plain" else ChunkedPast)(llama, rows, columns)


class Rows:
    """Keys and values of rows of ``LENGTHS``, and a new token for each."""

    def __init__(self, heads, groups, size):
        self.new = tuple(randn(ROWS, count, size, seed=seed) for count, seed in ((heads, 1), (groups, 2), (groups, 3)))
        self.keys, self.values = (randn(ROWS, COLUMNS, groups, size, seed=seed) for seed in (4, 5))

    def write(self, past):
        for row in range(ROWS):
            prompt = (x[row, None, : LENGTHS[row]] for x in (self.keys, self.values))
            past.write(0, torch.tensor([row]), *prompt)

    def defined(self, window, new=None):
        """Softmax over what a row sees, in float64."""
        q, k, v = new or self.new
        out, each = [], q.shape[1] // k.shape[1]
        for row, length in enumerate(LENGTHS):
            first = max(0, length + 1 - (window or COLUMNS))
            for head in range(q.shape[1]):
                group = head // each
                seen_SD = torch.cat([self.keys[row, first:length, group], k[row, group, None]]).double()
                share_S = (seen_SD @ q[row, head].double() * q.shape[2] ** -0.5).softmax(0)
                out.append(share_S @ torch.cat([self.values[row, first:length, group], v[row, group, None]]).double())
        return torch.cat(out).view(len(q), -1).float()


def look_back(past, new, length=LENGTHS):
    return past.look_back(0, *new, torch.tensor(length), max(length) + 1)


@pytest.mark.parametrize("columns", ROOM)
@pytest.mark.parametrize("window", [None, 1, 6, 16, 40, 100])
@pytest.mark.parametrize(("heads", "groups", "size"), SHAPES)
def test_all_are_what_attention_is(heads, groups, size, window, columns, monkeypatch):
    """Rows of any length, at the edges of lanes and chunks too; what is compiled has the bits of what is not."""
    rows, found = Rows(heads, groups, size), {}
    for kind in KINDS:
        past = empty(kind, heads, groups, size, window, monkeypatch, columns=columns)
        rows.write(past)
        found[kind] = look_back(past, rows.new)
        torch.testing.assert_close(found[kind], rows.defined(window), rtol=1e-5, atol=2e-6)
    assert torch.equal(found["compiled"], found["in torch"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("window", "columns"), [(None, COLUMNS), (None, 200), (6, 200)])
def test_a_token_that_was_new_is_past_at_the_next_step(kind, window, columns, monkeypatch):
    """Token by token from the first: the same as rows that are written at once."""
    rows, length = Rows(4, 2, 8), [0] * ROWS
    past = empty(kind, 4, 2, 8, window, monkeypatch, columns=columns)
    for at in range(max(LENGTHS)):
        length = [min(at, n) for n in LENGTHS]
        k, v = (x[torch.arange(ROWS), length] for x in (rows.keys, rows.values))
        look_back(past, (rows.new[0], k, v), length)
    found = look_back(past, rows.new)
    torch.testing.assert_close(found, rows.defined(window), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filling", [1e4, -1e4, torch.inf, torch.nan])
def test_what_stands_beyond_a_row_is_not_seen(kind, filling, monkeypatch):
    """Leftovers of other rows; or of a broken model, once they are to be forgotten."""
    rows, past = Rows(4, 2, 8), empty(kind, 4, 2, 8, 6, monkeypatch)
    past.write(0, torch.arange(ROWS), *[torch.full((ROWS, COLUMNS, 2, 8), filling)] * 2)
    if abs(filling) != 1e4:
        past.forget()
    rows.write(past)
    torch.testing.assert_close(look_back(past, rows.new), rows.defined(6), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_scores_that_are_far_apart(kind, scale, monkeypatch):
    """Where all weight is on a token or two, and the rest underflows."""
    rows, past = Rows(4, 2, 8), empty(kind, 4, 2, 8, None, monkeypatch)
    rows.write(past)
    new = scale * rows.new[0], *rows.new[1:]
    torch.testing.assert_close(look_back(past, new), rows.defined(None, new), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_rows_than_there_is_room_for_and_parts_of_wider_tensors(kind, monkeypatch):
    """Rows that closed up; queries, keys and values as slices of one product."""
    rows, past = Rows(4, 2, 8), empty(kind, 4, 2, 8, None, monkeypatch, rows=20, columns=500)
    rows.write(past)
    parts = torch.cat(rows.new, 1)[:5].split([4, 2, 2], 1)
    assert not any(x.is_contiguous() for x in parts)
    torch.testing.assert_close(look_back(past, parts, LENGTHS[:5]), rows.defined(None)[:5], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", ROOM)
def test_rows_that_move(kind, columns, monkeypatch):
    """From behind into places that are free, several at a time, and twice; and another joins in a free one."""
    rows, past = Rows(4, 2, 8), empty(kind, 4, 2, 8, None, monkeypatch, columns=columns)
    rows.write(past)
    order = [8, 1, 2, 7, 4]
    past.keep(order, 80)  # as long as the longest of those that stay
    found = look_back(past, [x[order] for x in rows.new], [LENGTHS[i] for i in order])
    torch.testing.assert_close(found, rows.defined(None)[order], rtol=1e-5, atol=2e-6)
    past.keep([0, 4, 2, 3], 80)
    prompt = (x[5, None, : LENGTHS[5]] for x in (rows.keys, rows.values))
    past.write(0, torch.tensor([4]), *prompt)
    order = [8, 4, 2, 7, 5]
    found = look_back(past, [x[order] for x in rows.new], [LENGTHS[i] for i in order])
    torch.testing.assert_close(found, rows.defined(None)[order], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_threads_change_nothing(threads, monkeypatch):
    """More threads than rows too."""
    before, rows, found = torch.get_num_threads(), Rows(4, 2, 8), []
    try:
        for number in (before, threads):
            torch.set_num_threads(number)
            past = empty("compiled", 4, 2, 8, 6, monkeypatch)
            rows.write(past)
            found.append(look_back(past, rows.new))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
