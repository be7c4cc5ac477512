"""The embedded engine: decodes on the policy's own parameters. One prefill a prompt, its cache cloned K times."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from contrapose.policy.fused import runs_kernels
from contrapose.policy.llama import is_llama
from contrapose.policy.model import eos_ids, load_model, load_tokenizer
from contrapose.rollout.answers import Answer, room_after, sampled
from contrapose.rollout.cached import Decoder, LlamaDecoder
from contrapose.rollout.captured import CapturedDecoder
from contrapose.rollout.foreign import ForeignDecoder
from contrapose.rollout.growing import grow
from contrapose.rollout.sampler import Sampling, seed_of
from contrapose.types import UNVERSIONED, ContraposeError, Prompt, Sampled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MAX_ROWS = 256
"""Rollouts side by side, at most."""


class EmbeddedEngine:
    """A ``RolloutEngine`` in the trainer's own process.

    Side by side it decodes at most ``max_rows`` rollouts, and no more than a cache of ``cache_gib`` would hold if all
    of them ran to the limit; never less than one group. Raises ContraposeError for a model whose past it cannot clone
    and cut (state-space and linear-attention models).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos: tuple[int, ...],
        max_rows: int = MAX_ROWS,
        cache_gib: float = 8.0,
    ) -> None:
        self.tokenizer = tokenizer
        self.eos = eos
        self.max_rows = max_rows
        self.model, self.version = model, UNVERSIONED
        decoder = decoder_for(model)
        self._idle: tuple[PreTrainedModel, Decoder | CapturedDecoder] | None = (model, decoder)
        self._cache_tokens = int(cache_gib * 2**30 / decoder.bytes_per_token())

    @classmethod
    def load(cls, path: str, dtype: str = "float32") -> EmbeddedEngine:
        """The engine over the model and tokenizer of a folder or hub name."""
        tokenizer, model = load_tokenizer(path), load_model(path, dtype)
        return cls(model, tokenizer, eos_ids(model, tokenizer))

    @property
    def trainer_numerics(self) -> bool:
        """In float32: half of these digits are lost where a cache and whole rows round apart."""
        return self.model.dtype in (torch.float32, torch.float64)

    def room_after(self, prompts: Iterable[Prompt]) -> int | None:
        """How many tokens the model's context leaves after the longest prompt; None where it has no limit.

        Raises ContraposeError for a prompt with a token that the model has not.
        """
        return room_after(self.model, self.tokenizer, prompts)

    def sync(self, model: PreTrainedModel, version: int = UNVERSIONED) -> None:
        """Take ``model``; it is decoded in place, so its weights are always the present ones."""
        self.model, self.version = model, version

    def side_by_side(self, prompts: Sequence[Prompt], k: int, sampling: Sampling) -> int:
        """How many of ``prompts`` are rolled out together."""
        columns = max((len(p.tokens) for p in prompts), default=0) + sampling.max_tokens
        return max(1, min(self.max_rows, self._cache_tokens // columns) // k)

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling, cancelled: Collection[str] = ()
    ) -> Iterator[list[Sampled]]:
        """See ``RolloutEngine.generate``. Rollout i of a prompt is drawn with the seed of ``(seed, prompt id, i)``."""
        model, idle, self._idle = self.model, self._idle, None  # a generation that begins meanwhile has its own
        decoder = idle[1] if idle and idle[0] is model else decoder_for(model)
        seeds = [seed_of(seed, p.id, i) for p in prompts for i in range(k)]
        growing = [True] * len(prompts)
        dropped: set[int] = set()  # rollouts that are to be handed over as they are
        tokens, wave = [p.tokens for p in prompts], self.side_by_side(prompts, k, sampling)
        try:
            for ended in grow(decoder, tokens, k, seeds, sampling, self.eos, wave, dropped):
                answers = [Answer(*what, what[0] in dropped) for what in ended]
                yield sampled(answers, prompts, k, self.tokenizer, self.eos, self.version)
                for number, prompt in enumerate(prompts if cancelled else ()):
                    if growing[number] and prompt.id in cancelled:
                        growing[number] = False
                        dropped.update(range(number * k, number * k + k))
        finally:
            self._idle = model, decoder


def decoder_for(model: PreTrainedModel) -> Decoder | CapturedDecoder:
    """The fastest decoder that computes what ``model`` does."""
    if is_llama(model):
        return (CapturedDecoder if runs_kernels(next(model.parameters())) else LlamaDecoder)(model)
    name = type(model).__name__
    decoder = ForeignDecoder(model)
    try:
        decoder.bytes_per_token()
    except (AttributeError, TypeError, ValueError, NotImplementedError) as error:
        raise ContraposeError(f"model.path: the embedded engine needs a key-value cache, {name} has none") from error
    logging.getLogger(__name__).warning("%s is decoded through transformers, which is slower", name)
    return decoder
