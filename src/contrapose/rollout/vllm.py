"""Rollouts from vLLM: in the trainer's process, or on servers of its own. Nothing is sampled before a canary sang.

A *place* is where vLLM runs (``colocated.py``, ``servers.py``). It is handed the policy's weights when somebody first
samples after a sync. vLLM says nothing where a prefix cache still holds keys and values of other weights, where it went
on with another head, or states log-probs of another kind; so after each hand-over a fixed prompt is answered, and the
log-probs of that answer must be the trainer's.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from contrapose.policy.logprobs import LogProbs, Row
from contrapose.rollout.answers import Answer, room_after, sampled
from contrapose.rollout.engine import MAX_DRIFT, StaleEngine
from contrapose.rollout.sampler import Sampling, seed_of
from contrapose.types import UNVERSIONED, Prompt, Sampled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CANARY, SUNG = 300, 8
"""Tokens of the canary's prompt, longer than a block of any of vLLM's caches (16 on a GPU, 128 on a CPU): only whole
blocks are ever found again. And tokens of its answer."""


class Ask(NamedTuple):
    """One answer to one prompt. Asks of one ``prompt`` are best answered by one server, which reads it once."""

    prompt: int
    tokens: tuple[int, ...]
    seed: int


class Place(Protocol):
    """Where vLLM runs: in one or several parts, named for messages, each with the whole model."""

    names: Sequence[str]
    context: int | None
    side_by_side: int

    def hand_over(self, model: PreTrainedModel, label: str) -> None:
        """Sample from ``model``'s weights, under this label, and forget what was computed from others."""
        ...

    def answers(
        self,
        asks: Sequence[Ask],
        sampling: Sampling,
        eos: tuple[int, ...],
        label: str | None,
        dropped: Collection[int] = (),
    ) -> Iterator[list[Answer]]:
        """The answers, numbered as the asks are, as they end. An ask of prompt p goes to part p, modulo their number.

        ``dropped`` holds numbers of asks that nobody waits for, and may grow at every yield. Raises StaleEngine where
        an answer is not from the weights of ``label``, unless that is None.
        """
        ...

    def awake(self) -> AbstractContextManager[None]:
        """Within, weights are handed over and asks answered; outside, it takes as little memory as it can."""
        ...


class VllmEngine:
    """A ``RolloutEngine`` over vLLM.

    Log-probs are those of what was drawn from: with ``top_p`` below 1 of what that leaves. vLLM's own arithmetic
    depends on what is computed side by side, so that now and then the last bits decide a draw otherwise.
    """

    trainer_numerics = False

    def __init__(
        self,
        place: Place,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos: tuple[int, ...],
        temperature: float = 1.0,
        max_drift: float = 0.0,
    ) -> None:
        self.place, self.tokenizer, self.eos = place, tokenizer, eos
        self.temperature, self.max_drift = temperature, max_drift
        self._run, self._handed = secrets.token_hex(4), 0
        self._label: str | None = None
        self.sync(model)

    def sync(self, model: PreTrainedModel, version: int = UNVERSIONED) -> None:
        """See ``RolloutEngine.sync``. Weights travel when somebody samples: as they are then."""
        self.model, self.version, self._label = model, version, None

    def room_after(self, prompts: Iterable[Prompt]) -> int | None:
        """See ``answers.room_after``; vLLM's context may be shorter than the model's."""
        return room_after(self.model, self.tokenizer, prompts, self.place.context)

    def side_by_side(self, prompts: Sequence[Prompt], k: int, sampling: Sampling) -> int:
        """How many of ``prompts`` are rolled out together."""
        return max(1, self.place.side_by_side // k)

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling, cancelled: Collection[str] = ()
    ) -> Iterator[list[Sampled]]:
        """See ``RolloutEngine.generate``. Rollout i of a prompt is drawn with the seed of ``(seed, prompt id, i)``."""
        asks = [Ask(q, p.tokens, seed_of(seed, p.id, i)) for q, p in enumerate(prompts) for i in range(k)]
        growing = list(range(len(prompts)))
        dropped: set[int] = set()
        with self.place.awake():
            label = self._label = self._label or self._hand_over()
            for ended in self.place.answers(asks, sampling, self.eos, label, dropped):
                yield sampled(ended, prompts, k, self.tokenizer, self.eos, self.version)
                for q in [q for q in growing if prompts[q].id in cancelled] if cancelled else ():
                    growing.remove(q)
                    dropped.update(range(q * k, q * k + k))

    def _hand_over(self) -> str:
        """Give the place the present weights, and see that it samples from them: their label."""
        prompt = self._canary()
        self._sing(prompt, None)  # so that a cache holds it that is then not reset
        self._handed += 1
        label = f"{self._run}-{self._handed}"  # no other trainer gives a server this one
        self.place.hand_over(self.model, label)
        self._check(prompt, self._sing(prompt, label))
        return label

    def _canary(self) -> tuple[int, ...]:
        room = self.room_after([Prompt("canary", "", "", tokens=(0,))])
        length = CANARY if room is None else min(CANARY, room + 1 - SUNG)
        known = min(self.tokenizer.vocab_size, self.model.config.get_text_config().vocab_size)
        return tuple(seed_of("canary", i) % known for i in range(length))

    def _sing(self, prompt: tuple[int, ...], label: str | None) -> list[Answer]:
        """An answer of each part."""
        asks = [Ask(part, prompt, seed_of("canary")) for part in range(len(self.place.names))]
        found = self.place.answers(asks, Sampling(self.temperature, max_tokens=SUNG), (), label)
        return sorted(answer for ended in found for answer in ended)

    def _check(self, prompt: tuple[int, ...], answers: Sequence[Answer]) -> None:
        most = self.max_drift or MAX_DRIFT[self.model.dtype]
        rows = [Row(prompt, tuple(a.tokens)) for a in answers]
        own_NT, _ = LogProbs(self.model, self.temperature).without_grad(rows)
        stated_NT = own_NT.new_tensor([a.logp for a in answers])
        for name, gap in zip(self.place.names, (stated_NT - own_NT).abs().mean(1).tolist(), strict=True):
            if not gap <= most:
                raise StaleEngine(
                    f"{name}: with the weights just handed over its log-probs are {gap:.2g} nats a token from the "
                    f"trainer's (at most {most:g} in {self.model.dtype}): a prefix cache that was not reset, a head "
                    "that was not taken (tied embeddings), log-probs from before the temperature (--logprobs-mode "
                    "processed_logprobs), or other rounding (--dtype; then raise rollout.max_drift)"
                )
