"""Which rollouts grow, side by side: they join, choose a token a step, end, and make room for others.

Who joins when follows from what was sampled, never from time, and no draw depends on its company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from contrapose.rollout.cached import Decoder, Tokens
from contrapose.rollout.sampler import Sampling, sample

CLOSE_UP_BELOW = 0.92
"""When the share of rows that still grow falls to this, prompts that wait join in place of the others, or rows close
up."""

Ended = tuple[int, list[int], list[float]]
"""A rollout's number, its tokens and their log-probs."""


class _Rows:
    """What each row of the decoder is about: its rollout, how far that is, and what it has chosen so far."""

    def __init__(self, rows: int, max_tokens: int, device: torch.device) -> None:
        self.number_N = torch.zeros(rows, dtype=torch.long, device=device)
        self.length_N, self.seed_N = torch.zeros_like(self.number_N), torch.zeros_like(self.number_N)
        self.live_N = torch.zeros(rows, dtype=torch.bool, device=device)
        self.token_NT = torch.zeros(rows, max_tokens, dtype=torch.long, device=device)
        self.logp_NT = torch.zeros(rows, max_tokens, device=device)

    def start(self, rows: Sequence[int], numbers: Sequence[int], seeds: Sequence[int]) -> None:
        device = self.number_N.device
        at = torch.tensor(rows, device=device)
        self.number_N[at], self.seed_N[at] = torch.tensor([numbers, seeds], device=device)
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
        wanted = torch.tensor(sorted(numbers), dtype=torch.long, device=self.number_N.device)
        return self.live_N & torch.isin(self.number_N, wanted)

    def keep(self, rows: Sequence[int]) -> None:
        at = torch.tensor(rows, device=self.number_N.device)
        for name, x in vars(self).items():
            setattr(self, name, x[at])


def _closed_up(live: Sequence[bool]) -> list[int]:
    """The rows that live: each in its place, or, from the end, in the place of one that is dead."""
    count = sum(live)
    beyond = (row for row in reversed(range(len(live))) if live[row])
    return [row if live[row] else next(beyond) for row in range(count)]


@torch.inference_mode()
def grow(
    decoder: Decoder,
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
    columns, waiting = max(map(len, prompts)) + sampling.max_tokens, deque(range(len(prompts)))
    count, cut = min(wave, len(prompts)) * k, set[int]()
    device, logits_NV = decoder.device, torch.empty(0)
    rows, eos_E = _Rows(0, 0, device), torch.tensor(eos, device=device)

    def admit(free: Sequence[int]) -> tuple[list[int], Tensor]:
        """Let prompts that wait join in place of rows that are free, as many as there are whole groups of these."""
        numbers = [waiting.popleft() for _ in range(min(len(free) // k, len(waiting)))]
        taken, each = list(free[: len(numbers) * k]), [n * k + i for n in numbers for i in range(k)]
        rows.start(taken, each, [seeds[n] for n in each])
        return taken, decoder.admit([prompts[n] for n in numbers], k, taken)

    try:
        while waiting or rows.live_N.any():
            if not rows.live_N.any():
                count = min(count, len(waiting) * k)
                rows = _Rows(count, sampling.max_tokens, device)
                decoder.open(count, columns)
                _, logits_NV = admit(range(count))
            chosen_N, logp_N = sample(logits_NV, rows.seed_N, rows.length_N, sampling)
            rows.append(chosen_N, logp_N)
            ended_N = rows.live_N & (torch.isin(chosen_N, eos_E) | (rows.length_N == sampling.max_tokens))
            while (ended_N := ended_N | rows.among(cut)).any():
                freed, done = rows.end(ended_N)
                decoder.free(freed)
                yield done
                cut.update(dropped)
                ended_N = torch.zeros_like(ended_N)
            live = int(rows.live_N.sum())
            crowded = live > CLOSE_UP_BELOW * len(rows.live_N)
            if live and not crowded and not (waiting and decoder.joins):
                kept = _closed_up(rows.live_N.tolist())
                rows.keep(kept)
                decoder.keep(kept)
                chosen_N = chosen_N[torch.tensor(kept, device=device)]
            if live:
                logits_NV = decoder.step(chosen_N)
            free = (~rows.live_N).nonzero().squeeze(1).tolist()
            if live and not crowded and waiting and decoder.joins and len(free) >= k:
                taken, logits_MV = admit(free)
                logits_NV[torch.tensor(taken, device=device)] = logits_MV
    finally:
        decoder.close()
