"""Tokens that an engine sampled -> rollouts, and whether the prompts leave room for them. The same for every engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from contrapose.policy.model import context_length
from contrapose.types import ContraposeError, Prompt, Rollout, Sampled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANY = 16
"""Answers that end together are decoded to text by several processors from so many on."""


class Answer(NamedTuple):
    """Rollout ``number``, counted over all prompts: its tokens, their log-probs, and whether nobody waited for more."""

    number: int
    tokens: list[int]
    logp: list[float]
    cancelled: bool


def sampled(
    answers: Sequence[Answer],
    prompts: Sequence[Prompt],
    k: int,
    tokenizer: PreTrainedTokenizerBase,
    eos: tuple[int, ...],
    version: int,
) -> list[Sampled]:
    """These answers as an engine hands them over; their texts are without the EOS."""
    said = [a.tokens[:-1] if a.tokens[-1:] and a.tokens[-1] in eos else a.tokens for a in answers]
    return [
        Sampled(prompts[a.number // k], a.number % k, _rollout(a, text, eos, version))
        for a, text in zip(answers, _texts(tokenizer, said), strict=True)
    ]


def _rollout(answer: Answer, text: str, eos: tuple[int, ...], version: int) -> Rollout:
    stopped = bool(answer.tokens) and answer.tokens[-1] in eos
    return Rollout(
        tokens=tuple(answer.tokens),
        mask=(1,) * len(answer.tokens),
        logp=tuple(answer.logp),
        text=text,
        finished="stop" if stopped else "cancelled" if answer.cancelled else "length",
        version=version,
    )


def _texts(tokenizer: Any, said: Sequence[list[int]]) -> list[str]:
    """What was said; of many answers at once where the tokenizer does not tidy up afterwards."""
    if getattr(tokenizer, "is_fast", False) and not tokenizer.clean_up_tokenization_spaces:
        backend = tokenizer.backend_tokenizer
        if len(said) < MANY:
            return [backend.decode(tokens, skip_special_tokens=True) for tokens in said]
        return list(backend.decode_batch(said, skip_special_tokens=True))
    texts = (tokenizer.decode(tokens, skip_special_tokens=True) for tokens in said)
    return [text if isinstance(text, str) else "".join(text) for text in texts]


def room_after(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt], limit: int | None = None
) -> int | None:
    """How many tokens the context leaves after the longest prompt; None where it has no limit.

    It is the model's, or ``limit`` where that is less. Raises ContraposeError for a prompt with a token that the model
    has not.
    """
    prompts, rows = list(prompts), model.config.get_text_config().vocab_size
    for prompt in prompts:
        if max(prompt.tokens) >= rows:
            token = tokenizer.convert_ids_to_tokens(max(prompt.tokens))
            raise ContraposeError(
                f"model.path: the prompt of {prompt.id!r} holds the token {token!r}, and the model has none of its "
                f"{rows} tokens for it: give the tokenizer that belongs to it"
            )
    limits = [size for size in (context_length(model), limit) if size is not None]
    return min(limits) - max(len(p.tokens) for p in prompts) if limits else None
