"""Data sets by name: benchmarks, known by the checksum of their texts, and training sets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contrapose.types import Prompt


def as_it_is(problem: str) -> str:
    return problem


@dataclass(frozen=True)
class DataSet:
    """A data set that has a name.

    ``hub`` is its copy there, ``ORG/NAME[/CONFIG]:SPLIT``, with the columns ``problem_key`` and ``answer_key``; empty
    where no copy is known to be the same. ``clean`` takes from a problem what a copy wrapped around it. A benchmark
    has a number of ``rows`` and the ``checksum`` of their texts, and may need its own ``[verify.conventions]``.
    """

    name: str
    hub: str = ""
    problem_key: str = "problem"
    answer_key: str = "answer"
    clean: Callable[[str], str] = as_it_is
    rows: int = 0
    checksum: str = ""
    conventions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Its file inside a data folder: jsonl with the columns ``problem`` and ``answer``."""
        return f"{self.name}.jsonl"

    @property
    def split(self) -> str:
        """What it is here, whatever the hub's copy calls it: a benchmark is ``test``, a training set ``train``."""
        return "test" if self.rows else "train"


def find(name: str) -> DataSet | None:
    """The data set called ``name``, or so for short; None where there is none."""
    name = ALIASES.get(name, name)
    return BENCHMARKS.get(name) or TRAINING.get(name)


def checksum(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over problems and answers, whatever their order."""
    texts = (json.dumps([p.problem, p.answer]) for p in prompts)
    rows = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def checked(prompts: Sequence[Prompt], dataset: DataSet) -> bool:
    """Whether ``prompts`` are all of the benchmark, character for character.

    Copies on the hub often differ in spaces or in how a number is written, and are no worse for it; but two results are
    of one test only where the texts are.
    """
    return checksum(prompts) == dataset.checksum


def unwrap_dapo(problem: str) -> str:
    """The problem of a DAPO-Math-17k row, without the instructions that its copies put around it."""
    return _DAPO_AFTER.sub("", _DAPO_BEFORE.sub("", problem.strip())).strip()


_DAPO_BEFORE = re.compile(
    r"Solve the following math problem step by step\. The last line of your response should be of the form "
    r"Answer: (?:\$Answer|\\boxed\{\$Answer\}) (?:\(without quotes\) )?where \$Answer is the answer to the problem\."
)
_DAPO_AFTER = re.compile(
    r'(?:Remember to put your answer on its own line after "Answer:"\.'
    r"|Please reason step by step, and put your final answer within \\boxed\{(?:\{\})?\}\.)\Z"
)


def _by_name(*sets: DataSet) -> dict[str, DataSet]:
    return {dataset.name: dataset for dataset in sets}


# Minerva's golds are rounded numbers of physics. Of its 125 decimal golds, half a unit of the last digit is at most
# 1e-4 of the value (the tolerance of Qwen2.5-Math's grader) for 12, and at most 1 % for 89: with less tolerance, a
# right answer that was rounded elsewhere is wrong. OlympiadBench on the hub has 674 rows and lists for answers.
BENCHMARKS = _by_name(
    DataSet(
        "math500",
        "HuggingFaceH4/MATH-500:test",
        rows=500,
        checksum="6b16f6e838676136e333414f3e775bce94e121f3bc1913604114775dcb3c955d",
    ),
    DataSet(
        "aime2024",
        "HuggingFaceH4/aime_2024:train",
        rows=30,
        checksum="6f86511b7000c4c2285c3d24681d1979854ead82fe1c4a4db1c7f264eaf6e752",
    ),
    DataSet(
        "aime2025",
        "MathArena/aime_2025:train",
        rows=30,
        checksum="c57ba3c1df2b6bc28faf3eb04a35747872c9e988ed9a69abe5cbbd5d6dbe58ba",
    ),
    DataSet(
        "aime2026",
        "MathArena/aime_2026:train",
        rows=30,
        checksum="79f8a4e85fa3f822614a9f6b7b00d2fc352f2c9c32453f9a5e966b44d33baab3",
    ),
    DataSet(
        "hmmt_feb_2025",
        "MathArena/hmmt_feb_2025:train",
        rows=30,
        checksum="b52cf9bbf600889e40d9b45898ef0779f1cfdf0fa9941470adbe2cde237321f8",
    ),
    DataSet(
        "amc23",
        "math-ai/amc23:test",
        "question",
        rows=40,
        checksum="7d2e744758509b2c6835e60c59c9a901335daec5fc62f890d2d7ba828b960ff0",
    ),
    DataSet(
        "amc_aimo83",
        "AI-MO/aimo-validation-amc:train",
        rows=83,
        checksum="402d252dcfd123380950db33edc8aae31d7d5fd9922f106c3145106e0d193c0a",
    ),
    DataSet(
        "minerva_math",
        "math-ai/minervamath:test",
        "question",
        rows=272,
        conventions={"tolerance": 0.01},
        checksum="0271523122eceef5c17c0981623dcd16d9d3f0bcbf19f32d7e529a6a40cfd298",
    ),
    DataSet("olympiadbench", rows=675, checksum="b9f5d34258c6a3a1818afcea077431a87b9d5d6479366531e33f887388b828da"),
    DataSet(
        "gsm8k_test",
        "openai/gsm8k/main:test",
        "question",
        rows=1319,
        checksum="02e22e014ca6fba834167985b36e41af72028b75d2d7ab58b2ac375f99047f85",
    ),
)

TRAINING = _by_name(
    DataSet("dapo-math-17k", "open-r1/DAPO-Math-17k-Processed/all:train", "prompt", "solution", unwrap_dapo),
    DataSet("deepscaler", "agentica-org/DeepScaleR-Preview-Dataset:train"),
    DataSet("math", "hiyouga/math12k:train"),
    DataSet("gsm8k", "openai/gsm8k/main:train", "question"),
)

ALIASES = {"hmmt2025": "hmmt_feb_2025", "amc83": "amc_aimo83", "minerva": "minerva_math"}
"""Short names."""
