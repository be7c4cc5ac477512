"""The embedded engine: decodes on the policy's own parameters. One prefill a prompt, its cache cloned K times."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from contrapose.policy.fused import runs_kernels
from contrapose.policy.llama import is_llama
from contrapose.policy.model import context_length, eos_ids, load_model, load_tokenizer
from contrapose.rollout.cached import Decoder, LlamaDecoder
from contrapose.rollout.captured import CapturedDecoder
from contrapose.rollout.foreign import ForeignDecoder
from contrapose.rollout.growing import grow
from contrapose.rollout.sampler import Sampling, seed_of
from contrapose.types import UNVERSIONED, ContraposeError, Prompt, Rollout, Sampled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


MANY = 16
"""Answers that end together are decoded to text by several processors from so many on."""


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
        max_rows: int = 256,
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
        prompts, limit, rows = list(prompts), context_length(self.model), self.model.config.get_text_config().vocab_size
        for prompt in prompts:
            if max(prompt.tokens) >= rows:
                token = self.tokenizer.convert_ids_to_tokens(max(prompt.tokens))
                raise ContraposeError(
                    f"model.path: the prompt of {prompt.id!r} holds the token {token!r}, and the model has none of its "
                    f"{rows} tokens for it: give the tokenizer that belongs to it"
                )
        return None if limit is None else limit - max(len(p.tokens) for p in prompts)

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
                texts = self._texts([tokens for _, tokens, _ in ended])
                yield [
                    Sampled(prompts[number // k], number % k, self._rollout(tokens, logp, text, number in dropped))
                    for (number, tokens, logp), text in zip(ended, texts, strict=True)
                ]
                for number, prompt in enumerate(prompts if cancelled else ()):
                    if growing[number] and prompt.id in cancelled:
                        growing[number] = False
                        dropped.update(range(number * k, number * k + k))
        finally:
            self._idle = model, decoder

    def _texts(self, answers: Sequence[list[int]]) -> list[str]:
        """What was said, without the EOS; of many answers at once where the tokenizer does not tidy up afterwards."""
        said = [tokens[:-1] if tokens[-1] in self.eos else tokens for tokens in answers]
        tokenizer: Any = self.tokenizer
        if getattr(tokenizer, "is_fast", False) and not tokenizer.clean_up_tokenization_spaces:
            backend = tokenizer.backend_tokenizer
            if len(said) < MANY:
                return [backend.decode(tokens, skip_special_tokens=True) for tokens in said]
            return list(backend.decode_batch(said, skip_special_tokens=True))
        texts = (tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said)
        return [text if isinstance(text, str) else "".join(text) for text in texts]

    def _rollout(self, tokens: list[int], logp: list[float], text: str, cancelled: bool) -> Rollout:
        stopped = tokens[-1] in self.eos
        return Rollout(
            tokens=tuple(tokens),
            mask=(1,) * len(tokens),
            logp=tuple(logp),
            text=text,
            finished="stop" if stopped else "cancelled" if cancelled else "length",
            version=self.version,
        )


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
