"""An exam in parts of a size that follows from the settings, so that not a bit hangs on where it was interrupted."""

from dataclasses import replace

import pytest

from contrapose.evaluate.exam import Asked, Exam, answered
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.types import Prompt
from models import tiny, tokenizer
from train_scripted import by_prompt

SAMPLING = Sampling(1.0, 0.9, 12)
PROMPTS = tuple(Prompt(f"p{i}", f"t{i}", "t5", tokens=tuple(range(2, 3 + 2 * i % 7))) for i in range(1, 12))


class Watched(EmbeddedEngine):
    """Remembers what it was asked together, and what it said."""

    def generate(self, prompts, k, seed, sampling, cancelled=()):
        self.asked = [*getattr(self, "asked", []), len(prompts)]
        self.said = getattr(self, "said", [])
        for step in super().generate(prompts, k, seed, sampling, cancelled):
            self.said.append(step)
            yield step


@pytest.mark.parametrize("max_rows", [1, 6, 7, 100])
def test_asked_in_parts_the_answers_are_those_of_asking_all_at_once(max_rows):
    """Token by token. Only the last bits of log-probs hang on who is asked beside whom, and no verdict on these."""
    whole, parts = (Watched(tiny("qwen2"), tokenizer(), (1,), max_rows) for _ in range(2))
    all_at_once = by_prompt(whole.generate(PROMPTS, 2, 3, SAMPLING))
    found = answered(Asked(Exam("x", 2, "plain"), PROMPTS, SAMPLING), parts, 3, None, lambda more: None)
    said = by_prompt(parts.said)
    assert said.keys() == all_at_once.keys()
    for name, group in said.items():
        for rollout, other in zip(group, all_at_once[name], strict=True):
            assert replace(rollout, logp=()) == replace(other, logp=())
            assert rollout.logp == pytest.approx(other.logp, abs=2e-5)
    together = max(1, max_rows // 2)
    assert parts.asked == [min(together, 11 - start) for start in range(0, 11, together)]
    assert [one.prompt for one in found] == [p.id for p in PROMPTS]
    assert [a.tokens for one in found for a in one.answers] == [
        len(r.tokens) for p in PROMPTS for r in all_at_once[p.id]
    ]


def test_each_is_told_of_every_problem_once():
    told = []
    engine = Watched(tiny("qwen2"), tokenizer(), (1,), 6)
    answered(Asked(Exam("x", 2, "plain"), PROMPTS, SAMPLING), engine, 3, None, told.append)
    assert len(told) == len(PROMPTS)
