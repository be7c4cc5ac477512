"""What ``grow`` asks for at each step: that every row chooses a token, and takes it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from contrapose.policy.states import put
from contrapose.rollout.cached import Decoder, Tokens
from contrapose.rollout.sampler import Sampling, sample

Chosen = Callable[[], tuple[Tensor, Tensor]]
"""Waits for what was chosen: ``(token_N, logp_N)``, on the CPU."""


class Steps(Protocol):
    """Rows that choose a token and take it in, in turn. ``joins``: see ``Decoder``. ``late``: how many choices may be
    under way before the first is asked for; a row that ended meanwhile goes on in vain."""

    joins: bool
    late: int

    def open(self, rows: int, columns: int, sampling: Sampling, eos: tuple[int, ...]) -> None:
        """Make room for ``rows`` rows of so many tokens, and forget what was there."""
        ...

    def admit(self, prompts: Sequence[Tokens], k: int, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """Read each prompt once and clone it to ``k`` of ``rows`` in turn, each of which draws with its seed."""
        ...

    def choose(self, seed_N: Tensor, position_N: Tensor) -> Chosen:
        """Let every row choose its next token. The seeds and how many tokens there are come from who asks, and may be
        known better on the device."""
        ...

    def step(self) -> None:
        """Take in what was chosen."""
        ...

    def room(self, live: int) -> int:
        """Of how many rows is the step that ``live`` rows fit into."""
        ...

    def free(self, rows: Sequence[int]) -> None:
        """See ``Decoder.free``."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """See ``Decoder.keep``; between a choice and its step."""
        ...

    def close(self) -> None:
        """See ``Decoder.close``."""
        ...


class AtOnce:
    """``Steps`` of any decoder: each choice is waited for."""

    late = 0

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.joins = decoder, decoder.joins
        self._sampling, self._chosen_N, self._logits_NV = Sampling(), torch.empty(0), torch.empty(0)

    def open(self, rows: int, columns: int, sampling: Sampling, eos: tuple[int, ...]) -> None:
        """See ``Steps.open``."""
        self._sampling, self._logits_NV = sampling, torch.empty(0)
        self.decoder.open(rows, columns)

    def admit(self, prompts: Sequence[Tokens], k: int, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """See ``Steps.admit``. The first to be admitted are all rows there are."""
        logits_MV = self.decoder.admit(prompts, k, rows)
        if len(self._logits_NV):
            self._logits_NV[put(rows, self.decoder.device)] = logits_MV
        else:
            self._logits_NV = logits_MV

    def choose(self, seed_N: Tensor, position_N: Tensor) -> Chosen:
        """See ``Steps.choose``."""
        seed_N, position_N = seed_N.to(self.decoder.device), position_N.to(self.decoder.device)
        self._chosen_N, logp_N = sample(self._logits_NV, seed_N, position_N, self._sampling)
        found = self._chosen_N.cpu(), logp_N.cpu()
        return lambda: found

    def step(self) -> None:
        """See ``Steps.step``."""
        self._logits_NV = self.decoder.step(self._chosen_N)

    def room(self, live: int) -> int:
        """See ``Steps.room``."""
        return live

    def free(self, rows: Sequence[int]) -> None:
        """See ``Steps.free``."""
        self.decoder.free(rows)

    def keep(self, rows: Sequence[int]) -> None:
        """See ``Steps.keep``."""
        self.decoder.keep(rows)
        self._chosen_N = self._chosen_N[put(rows, self.decoder.device)]

    def close(self) -> None:
        """See ``Steps.close``."""
        self._logits_NV = torch.empty(0)
        self.decoder.close()
