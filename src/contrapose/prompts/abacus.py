"""Abacus: short sums as a task, and the habits, good and bad, of the tiny base model that ships with it.

A real pre-trained model can already solve some problems, guesses at others and gives up on the rest;
reinforcement elicits the habit that works. The base model of abacus is made the same way: supervised on a
mixture of careful, guessing, careless and resigned answers (``HABITS``), so that about a third of its samples
are right.

    problem   3+4-9=
    careful   3+4=7;7-9=-2;\\boxed{-2}
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contrapose.types import ContraposeError, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BASE_MODEL = Path(__file__).parent / "abacus_base"
"""The shipped base model, in Hugging Face format."""


def model_folder(path: str) -> str:
    """``path``, or the shipped base model's folder where ``path`` is ``"abacus"``."""
    return str(BASE_MODEL) if path == "abacus" else path


Split = Literal["train", "validation", "test"]
HABITS = {"careful": 0.30, "guess": 0.25, "slip": 0.25, "give_up": 0.20}
"""Share of each habit in the base model's training text."""

LUCKY = 0.2
"""Share of guesses that are right."""

CHARACTERS = "0123456789+-=;?\\{}boxed"
EOS, PAD, UNKNOWN = "<eos>", "<pad>", "<unk>"


def split_of(problem: str) -> Split:
    """The split a problem belongs to, by its hash: 80 % train, 10 % validation, 10 % test, never overlapping."""
    bucket = int.from_bytes(hashlib.sha256(problem.encode()).digest()[:4], "big") % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def problems(
    split: Split, count: int, *, seed: int = 0, terms: tuple[int, int] = (2, 4), largest: int = 9
) -> list[Prompt]:
    """``count`` distinct sums of ``terms`` (least, most) signed numbers of 1 to ``largest``.

    Numbers of terms are drawn evenly, until the short sums run out. Raises ContraposeError when the ranges are
    empty or hold fewer distinct problems than asked for.
    """
    if not (1 <= terms[0] <= terms[1] and largest >= 1 and count >= 1):
        raise ContraposeError(
            f"abacus: no problems of {terms[0]} to {terms[1]} terms of 1 to {largest}, {count} of them"
        )
    rng = random.Random(f"abacus/{split}/{seed}/{terms}/{largest}")
    found: dict[str, Prompt] = {}
    for _ in range(200 * count):
        numbers = [rng.choice((-1, 1)) * rng.randint(1, largest) for _ in range(rng.randint(*terms))]
        text = "".join(f"{n:+d}" for n in numbers).removeprefix("+") + "="
        if split_of(text) == split:
            found.setdefault(text, Prompt(f"abacus/{text}", text, str(sum(numbers)), "abacus"))
        if len(found) == count:
            return list(found.values())
    raise ContraposeError(
        f"abacus: only {len(found)} distinct {split} problems of {terms[0]} to {terms[1]} terms up to {largest}, "
        f"{count} asked for: widen the ranges"
    )


def numbers_of(problem: str) -> list[int]:
    """``"3+4-9="`` -> ``[3, 4, -9]``."""
    signed = problem.rstrip("=").replace("-", "+-").removeprefix("+").split("+")
    return [int(n) for n in signed]


def careful(numbers: list[int], slip_at: int = -1, slip: int = 0) -> str:
    """The sum, one step at a time. At step ``slip_at`` the result is off by ``slip``, and the error is carried on."""
    total, steps = numbers[0], []
    for i, n in enumerate(numbers[1:]):
        result = total + n + (slip if i == slip_at else 0)
        steps.append(f"{total}{n:+d}={result};")
        total = result
    return "".join(steps) + rf"\boxed{{{total}}}"


def answer_by(habit: str, problem: str, rng: random.Random) -> str:
    """An answer to ``problem`` written in one of the ``HABITS``."""
    numbers = numbers_of(problem)
    if habit == "careful":
        return careful(numbers)
    off = rng.choice((-1, 1)) * rng.randint(1, 5)
    if habit == "slip":
        return careful(numbers, slip_at=rng.randrange(len(numbers) - 1), slip=off)
    if habit == "guess":
        return rf"\boxed{{{sum(numbers) + (0 if rng.random() < LUCKY else off)}}}"
    return careful(numbers).split(";")[0] + ";?"


def corpus(seed: int, count: int, **ranges: object) -> list[tuple[str, str]]:
    """``count`` (problem, answer) texts in the proportions of ``HABITS``, on training problems only."""
    rng = random.Random(f"abacus/corpus/{seed}")
    asked = problems("train", min(count, 20_000), seed=seed, **ranges)  # type: ignore[arg-type]
    habits = rng.choices(list(HABITS), weights=list(HABITS.values()), k=count)
    return [(p.problem, answer_by(h, p.problem, rng)) for p, h in zip(rng.choices(asked, k=count), habits, strict=True)]


def tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with one token a character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *dict.fromkeys(CHARACTERS)])}
    tok = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tok.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tok.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN)
