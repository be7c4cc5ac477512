"""Which rollouts grow, side by side: they join, choose a token a step, end, and make room for others.

Who joins when follows from what was sampled, never from time, and no draw depends on its company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contrapose.rollout.cached import Decoder, Tokens
from contrapose.rollout.captured import CapturedDecoder
from contrapose.rollout.sampler import Sampling
from contrapose.rollout.stepping import AtOnce, Chosen, Steps

CLOSE_UP_BELOW = 0.85
"""When the share of rows that still grow falls to this, prompts that wait join in place of the others, or rows close
up."""

Ended = tuple[int, list[int], list[float]]
"""A rollout's number, its tokens and their log-probs."""

Numbers = NDArray[Any]


class _Rows:
    """What each row of the decoder is about, as far as it is known here: its rollout, how far that is, and what it has
    chosen so far. In numpy, whose calls on so few numbers cost a third of torch's."""

    def __init__(self, rows: int, max_tokens: int) -> None:
        self.number_N = np.zeros(rows, np.int64)
        self.length_N, self.seed_N = np.zeros_like(self.number_N), np.zeros_like(self.number_N)
        self.live_N = np.zeros(rows, np.bool_)
        self.token_NT = np.zeros((rows, max_tokens), np.int64)
        self.logp_NT = np.zeros((rows, max_tokens), np.float32)

    def start(self, rows: Sequence[int], numbers: Sequence[int], seeds: Sequence[int]) -> None:
        self.number_N[rows], self.seed_N[rows] = numbers, seeds
        self.length_N[rows], self.live_N[rows] = 0, True

    def append(self, token_N: Tensor, logp_N: Tensor, eos_E: Numbers) -> Numbers:
        """Which rows end with it. Those that are dead go on in place, also those that ended at the limit."""
        chosen_N, limit = token_N.numpy(), self.token_NT.shape[1]
        at = np.arange(len(chosen_N)), np.minimum(self.length_N, limit - 1)
        self.token_NT[at], self.logp_NT[at] = chosen_N, logp_N.numpy()
        self.length_N += self.live_N
        ends_N: Numbers = (chosen_N[:, None] == eos_E).any(1) | (self.length_N == limit)
        return ends_N & self.live_N

    def end(self, ended_N: Numbers) -> tuple[list[int], list[Ended]]:
        """The rows that ended, and what they hold."""
        self.live_N &= ~ended_N
        rows = ended_N.nonzero()[0].tolist()
        about = [(row, int(self.length_N[row])) for row in rows]
        done = [
            (int(self.number_N[row]), self.token_NT[row, :length].tolist(), self.logp_NT[row, :length].tolist())
            for row, length in about
        ]
        return rows, done

    def among(self, numbers: Collection[int]) -> Numbers:
        """Rows that live and are of these rollouts."""
        return self.live_N & np.isin(self.number_N, list(numbers)) if numbers else np.zeros_like(self.live_N)

    def keep(self, rows: Sequence[int]) -> None:
        for name, x in vars(self).items():
            setattr(self, name, x[rows])


def _closed_up(live_N: Numbers, count: int) -> list[int]:
    """``count`` rows, those that live among them: each in its place, or in that of one that is dead."""
    kept, beyond = np.arange(count), count + live_N[count:].nonzero()[0]
    kept[(~live_N[:count]).nonzero()[0][: len(beyond)]] = beyond
    return kept.tolist()


@torch.inference_mode()
def grow(
    decoder: Decoder | CapturedDecoder,
    prompts: Sequence[Tokens],
    k: int,
    seeds: Sequence[int],
    sampling: Sampling,
    eos: tuple[int, ...],
    wave: int,
    dropped: Collection[int] = (),
) -> Iterator[list[Ended]]:
    """Yield the rollouts that end, step by step; those of prompt p are ``p * k`` to ``p * k + k - 1``.

    At most ``wave`` prompts grow side by side. Rollouts that stood in ``dropped`` after a yield are yielded as they
    are, and go no further; those that wait, after their first token.
    """
    if not prompts:
        return
    steps: Steps = decoder if isinstance(decoder, CapturedDecoder) else AtOnce(decoder)
    columns, waiting = max(map(len, prompts)) + sampling.max_tokens, deque(range(len(prompts)))
    count, cut, live = min(wave, len(prompts)) * k, set[int](), 0
    rows, eos_E, ahead = _Rows(0, 0), np.array(eos), deque[Chosen]()

    def admit(free: Sequence[int]) -> None:
        """Let prompts that wait join in place of rows that are free, as many as there are whole groups of these."""
        numbers = [waiting.popleft() for _ in range(min(len(free) // k, len(waiting)))]
        taken, each = list(free[: len(numbers) * k]), [n * k + i for n in numbers for i in range(k)]
        rows.start(taken, each, [seeds[n] for n in each])
        steps.admit([prompts[n] for n in numbers], k, taken, [seeds[n] for n in each])

    def joining() -> bool:
        """Whether prompts that wait are to join now."""
        crowded = live > CLOSE_UP_BELOW * len(rows.live_N)
        return bool(live and not crowded and waiting and steps.joins and len(rows.live_N) - live >= k)

    def room() -> int:
        """How many rows there are to be now."""
        crowded = not live or live > CLOSE_UP_BELOW * len(rows.live_N) or (waiting and steps.joins)
        return len(rows.live_N) if crowded else steps.room(live)

    try:
        while waiting or live:
            if not live:
                live = count = min(count, len(waiting) * k)
                rows = _Rows(count, sampling.max_tokens)
                ahead.clear()
                steps.open(count, columns, sampling, eos)
                admit(range(count))
            ahead.append(steps.choose(torch.from_numpy(rows.seed_N), torch.from_numpy(rows.length_N)))
            # what was chosen is looked at late, but before rows change places
            while len(ahead) > steps.late or (ahead and (joining() or room() < len(rows.live_N))):
                ended_N = rows.append(*ahead.popleft()(), eos_E)
                while (ended_N := ended_N | rows.among(cut)).any():
                    freed, done = rows.end(ended_N)
                    steps.free(freed)
                    yield done
                    cut.update(dropped)
                    ended_N = np.zeros_like(ended_N)
                live = int(rows.live_N.sum())
            if room() < len(rows.live_N):
                kept = _closed_up(rows.live_N, room())
                rows.keep(kept)
                steps.keep(kept)
            if live:
                steps.step()
            if joining():
                admit((~rows.live_N).nonzero()[0].tolist())
                live = int(rows.live_N.sum())
    finally:
        steps.close()
