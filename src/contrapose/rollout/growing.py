"""Which rollouts grow, side by side: they join, choose a token a step, end, and make room for others.

Who joins when follows from what was sampled, never from time, and no draw depends on its company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence

import torch
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


class _Rows:
    """What each row of the decoder is about, as far as it is known here: its rollout, how far that is, and what it has
    chosen so far."""

    def __init__(self, rows: int, max_tokens: int) -> None:
        self.number_N = torch.zeros(rows, dtype=torch.long)
        self.length_N, self.seed_N = torch.zeros_like(self.number_N), torch.zeros_like(self.number_N)
        self.live_N = torch.zeros(rows, dtype=torch.bool)
        self.token_NT = torch.zeros(rows, max_tokens, dtype=torch.long)
        self.logp_NT = torch.zeros(rows, max_tokens)

    def start(self, rows: Sequence[int], numbers: Sequence[int], seeds: Sequence[int]) -> None:
        at = torch.tensor(rows)
        self.number_N[at], self.seed_N[at] = torch.tensor([numbers, seeds])
        self.length_N[at], self.live_N[at] = 0, True

    def append(self, token_N: Tensor, logp_N: Tensor) -> None:
        """Rows that are dead go on in place, also those that ended at the limit."""
        at_N1 = self.length_N.clamp(max=self.token_NT.shape[1] - 1).unsqueeze(1)
        self.token_NT.scatter_(1, at_N1, token_N.unsqueeze(1))
        self.logp_NT.scatter_(1, at_N1, logp_N.float().unsqueeze(1))
        self.length_N += self.live_N

    def end(self, ended_N: Tensor) -> tuple[list[int], list[Ended]]:
        """The rows that ended, and what they hold."""
        self.live_N &= ~ended_N
        rows_E = ended_N.nonzero().squeeze(1)
        about = zip(self.number_N[rows_E].tolist(), self.length_N[rows_E].tolist(), strict=True)
        token_ET, logp_ET = self.token_NT[rows_E].tolist(), self.logp_NT[rows_E].tolist()
        done = [(n, token_ET[i][:length], logp_ET[i][:length]) for i, (n, length) in enumerate(about)]
        return rows_E.tolist(), done

    def among(self, numbers: Collection[int]) -> Tensor:
        """Rows that live and are of these rollouts."""
        if not numbers:
            return torch.zeros_like(self.live_N)
        wanted = torch.tensor(sorted(numbers), dtype=torch.long)
        return self.live_N & torch.isin(self.number_N, wanted)

    def keep(self, rows: Sequence[int]) -> None:
        at = torch.tensor(rows)
        for name, x in vars(self).items():
            setattr(self, name, x[at])


def _closed_up(live: Sequence[bool], count: int) -> list[int]:
    """``count`` rows, those that live among them: each in its place, or, from the end, in the place of one that is
    dead."""
    beyond = [row for row in range(count, len(live)) if live[row]]
    return [beyond.pop() if not live[row] and beyond else row for row in range(count)]


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
    rows, eos_E, ahead = _Rows(0, 0), torch.tensor(eos), deque[Chosen]()

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
            ahead.append(steps.choose(rows.seed_N, rows.length_N))
            # what was chosen is looked at late, but before rows change places
            while len(ahead) > steps.late or (ahead and (joining() or room() < len(rows.live_N))):
                chosen_N, logp_N = ahead.popleft()()
                rows.append(chosen_N, logp_N)
                ended_N = rows.live_N & (torch.isin(chosen_N, eos_E) | (rows.length_N == sampling.max_tokens))
                while (ended_N := ended_N | rows.among(cut)).any():
                    freed, done = rows.end(ended_N)
                    steps.free(freed)
                    yield done
                    cut.update(dropped)
                    ended_N = torch.zeros_like(ended_N)
                live = int(rows.live_N.sum())
            if room() < len(rows.live_N):
                kept = _closed_up(rows.live_N.tolist(), room())
                rows.keep(kept)
                steps.keep(kept)
            if live:
                steps.step()
            if joining():
                admit((~rows.live_N).nonzero().squeeze(1).tolist())
                live = int(rows.live_N.sum())
    finally:
        steps.close()
