"""The hidden states that choose response tokens, without padding, and each prompt computed once for all its answers.

All layers but attention work on one list of tokens: those of the different prompts, then those of the responses. A
prompt lends its keys and values to all rows that answer it, and their gradients add up there. Short rows are attended
to where their tokens lie; others are put together by index, rows of like length: causal attention needs no mask then.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from contrapose.policy import attention
from contrapose.policy.attention import rows_of
from contrapose.policy.llama import Attend, Llama, causal, heads_last

LIKE = 1.5
"""Rows stand together in attention when the longest is at most so many times as long as the shortest."""

SHORT = 128
"""On a CPU in float32, attention takes rows of so many tokens at most where they lie; torch is as fast with longer."""


class Row(NamedTuple):
    """One prompt with one response, as token ids."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.response)


def put(values: Sequence[Any], device: torch.device) -> Tensor:
    """Whole numbers as a tensor on a device, which nobody waits for."""
    there = torch.from_numpy(np.array(values, dtype=np.int64))  # torch takes three times as long with a list
    return there.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else there


def states_of(llama: Llama, rows: Sequence[Row]) -> Tensor:
    """The state that chooses each response token, row by row, ``[M, E]``."""
    device = llama.device
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    told = [row.response[:-1] for row in rows]  # the last token chooses nothing
    ends = list(accumulate(map(len, [*prompts, *told])))
    asked = {prompt: range(end - len(prompt), end) for prompt, end in zip(prompts, ends, strict=False)}
    answers = [range(end - len(part), end) for part, end in zip(told, ends[len(prompts) :], strict=True)]
    places = [[*asked[row.prompt], *answer] for row, answer in zip(rows, answers, strict=True)]  # of a row's tokens
    after = [0] * len(prompts) + [len(row.prompt) for row in rows]
    positions = [
        at for first, part in zip(after, (*prompts, *told), strict=True) for at in range(first, first + len(part))
    ]
    position_N = put(positions, device)
    llama.reach(max(map(len, places)))
    if llama.embedding.dtype == torch.float32 and device.type == "cpu" and max(map(len, places)) <= SHORT:
        attend = _in_place(llama, position_N, [*map(list, asked.values()), *places], after)
    else:
        attend = _put_together(llama, position_N, places)
    hidden_NE = llama(put([token for part in (*prompts, *told) for token in part], device), attend)
    # a response's first token is chosen by the prompt's last state, each other by the token before it
    choosing = [at for row, own in zip(rows, places, strict=True) if row.response for at in own[len(row.prompt) - 1 :]]
    return hidden_NE.index_select(0, put(choosing, device))


def _in_place(llama: Llama, position_N: Tensor, places: Sequence[Sequence[int]], known: Sequence[int]) -> Attend:
    """Attention of short rows, of which the first ``known`` tokens attend in a row of their own."""
    rows = rows_of(places, known)

    def attend(layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
        q_NHD, k_NGD = llama.heads(layer, q_NHD, k_NGD, position_N)
        return attention.attend(q_NHD, k_NGD, v_NGD, rows, llama.layers[layer].window)

    return attend


def _put_together(llama: Llama, position_N: Tensor, places: Sequence[Sequence[int]]) -> Attend:
    """torch's attention of rows of like length, which are put together by index."""
    back_N, together, start = [0] * len(position_N), [], 0
    for group in _alike(places):
        width = len(places[group[-1]])
        for number, row in enumerate(group):
            for position, place in enumerate(places[row]):
                back_N[place] = start + number * width + position
        padded = [[*places[row], *[0] * (width - len(places[row]))] for row in group]
        together.append(put(padded, llama.device))
        start += len(group) * width
    back = put(back_N, llama.device)

    def attend(layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
        q_NHD, k_NGD = llama.heads(layer, q_NHD, k_NGD, position_N)
        window, out = llama.layers[layer].window, []
        for place_RS in together:
            q, k, v = (_rows(x, place_RS) for x in (q_NHD, k_NGD, v_NGD))
            out.append(heads_last(causal(q, k, v, window)))
        return torch.cat(out).index_select(0, back)

    return attend


def _alike(places: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows in groups of like length, the shortest first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(places)), key=lambda i: len(places[i])):
        if groups and len(places[row]) <= LIKE * len(places[groups[-1][0]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _rows(x_NHD: Tensor, place_RS: Tensor) -> Tensor:
    """Tokens put together as ``[R, H, S, D]``."""
    flat = x_NHD.flatten(1).index_select(0, place_RS.flatten())
    return flat.view(*place_RS.shape, *x_NHD.shape[1:]).transpose(1, 2)
