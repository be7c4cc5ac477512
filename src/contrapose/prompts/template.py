"""From a problem to the tokens a policy is asked with: the papers' prompts, plain text, chat templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from contrapose.types import ContraposeError, Prompt, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = {
    "plain": "{problem}",
    "chat": "{problem}",
    "rence": (
        "Please solve the following math problem: {problem}. The assistant first thinks about the reasoning process "
        "step by step and then provides the user with the answer. Return the final answer in \\boxed{} tags, for "
        "example \\boxed{1}. Let's solve this step by step."
    ),
    "conspo": "{problem} Let's think step by step and output the final answer within \\boxed{}.",
}
"""``plain`` is the bare problem; ``chat`` needs a tokenizer with a chat template; the papers' prompts are wrapped in
one where the tokenizer has it (a user turn, thinking off unless asked for) and stand alone where it has none."""

_MARK = "ContraposeQuestion"


class Unspellable(ContraposeError):
    """A problem holds characters for which the tokenizer has no token, or that it takes for a control token."""

    def __init__(self, prompt: Prompt, template: str) -> None:
        self.why = f"under {template!r}" + ("" if template == "plain" else "; try template = 'plain'")
        super().__init__(f"data.template: the tokenizer cannot spell problem {prompt.id} {self.why}")


class _NoText(Exception):
    """The tokens are not those of the text."""


def render(prompt: Prompt, template: str, tokenizer: PreTrainedTokenizerBase, *, thinking: bool = False) -> Prompt:
    """``prompt`` with its tokens. Text of the data set can never become a control token.

    ``thinking`` is the chat template's own switch. Raises ContraposeError for an unknown template, a missing chat
    template, text the tokenizer cannot spell (``Unspellable``), or thinking where there is no such switch.
    """
    if template not in TEMPLATES:
        raise ContraposeError(f"data.template: {template!r} is unknown{nearest(template, list(TEMPLATES))}")
    text = TEMPLATES[template].replace("{problem}", prompt.problem)
    in_chat = wraps_in_chat(template, tokenizer)
    if thinking and not in_chat:
        raise ContraposeError(
            f"data.thinking: {template!r} is not put into a chat template here, which alone can switch it"
        )
    try:
        tokens = _chat(text, tokenizer, thinking) if in_chat else _plain(text, tokenizer)
    except (_NoText, UnicodeEncodeError):  # half a surrogate pair is no text
        raise Unspellable(prompt, template) from None
    return replace(prompt, tokens=tuple(tokens))


def render_all(
    prompts: Sequence[Prompt],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    *,
    thinking: bool = False,
) -> tuple[list[Prompt], int]:
    """The rendered prompts of at most ``max_tokens`` tokens, and how many were longer and left out.

    A prompt is never cut. Raises ContraposeError when none is short enough.
    """
    rendered = [render(p, template, tokenizer, thinking=thinking) for p in prompts]
    kept = [p for p in rendered if 0 < len(p.tokens) <= max_tokens]
    if not kept:
        raise ContraposeError(
            f"data.max_prompt_tokens: all {len(rendered)} prompts are empty or longer than {max_tokens}"
        )
    return kept, len(rendered) - len(kept)


def wraps_in_chat(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ``template`` is put into the tokenizer's chat template."""
    if template == "chat" and not tokenizer.chat_template:
        raise ContraposeError("data.template: 'chat' needs a chat template, and this tokenizer has none; try 'plain'")
    return template != "plain" and bool(tokenizer.chat_template)


def _chat(text: str, tokenizer: PreTrainedTokenizerBase, thinking: bool) -> list[int]:
    """A user turn with a generation prompt.

    Tokenised in one go, as the model was trained; only where the text spells a control token is it tokenised
    apart from its frame. A template that prints today's date gives other tokens tomorrow.
    """

    def turn(content: str, thinking: bool = thinking) -> str:
        messages = [{"role": "user", "content": content}]
        try:
            frame: Any = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
        except Exception as error:  # a template is a program, and came with the model
            fault = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise ContraposeError(
                f"data.template: the tokenizer's chat template fails ({fault}): mend it, or try 'plain'"
            ) from None
        return str(frame)

    text = text.strip()
    if thinking and turn(_MARK) == turn(_MARK, thinking=False):
        raise ContraposeError("data.thinking: the tokenizer's chat template has no such switch: leave it false")
    as_text = _as_text(text, tokenizer)  # also shows whether every character can be spelled
    spells_control = _any_of(frozenset(_controls(tokenizer))).search(text) is not None
    content = _MARK if spells_control else text
    whole = turn(content)
    if content not in whole or (spells_control and whole.count(_MARK) > 1):
        raise ContraposeError("data.template: the tokenizer's chat template alters the question; try 'plain'")
    if not spells_control:
        return _ids(whole, tokenizer)
    before, _, after = whole.partition(_MARK)
    frame = [_ids(part, tokenizer) for part in (before, after)]
    return [*frame[0], *as_text, *frame[1]]


def _plain(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The text after the tokenizer's own beginning-of-text token, where it has one."""
    begin = [i for i in tokenizer.encode("") if i == tokenizer.bos_token_id]
    return [*begin, *_as_text(text, tokenizer)]


def _as_text(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of untrusted text: what spells a control token is cut after its first character, so that it is none.

    Raises _NoText where a control token is there all the same: one that the tokenizer finds in the text as it
    normalises it, or the unknown token.
    """
    text.encode()
    controls = _controls(tokenizer)
    cuts = [0, *(m.start() + 1 for m in _any_of(frozenset(controls)).finditer(text)), len(text)]
    ids = [i for piece in pairwise(cuts) for i in _ids(text[slice(*piece)], tokenizer)]
    if not {*controls.values(), tokenizer.unk_token_id}.isdisjoint(ids):
        raise _NoText
    return ids


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    except Exception:  # nothing narrower: a tokenizer without an unknown token meets an unknown word
        raise _NoText from None
    return ids


def _controls(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Every token that was added to the vocabulary whole, marked as special or not. Blanks are text, and belong to
    the vocabulary that was learned as well."""
    return {token: i for token, i in tokenizer.get_added_vocab().items() if token.strip("\u2581 \t\r\n")}


@lru_cache(maxsize=8)
def _any_of(texts: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")
