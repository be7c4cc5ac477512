"""Tasks of reasoning-gym as problems: graded by their own scorers, in splits that never overlap."""

import json
import sys

import pytest

from contrapose.prompts.sources import ABACUS_COUNT
from contrapose.types import ContraposeError
from user import load_prompts

gym = pytest.importorskip("reasoning_gym")


def refusal(spec):
    with pytest.raises(ContraposeError) as error:
        load_prompts(spec, limit=3)
    line = str(error.value)
    assert "\n" not in line and spec.split(":")[1] in line
    return line


@pytest.mark.parametrize("task", ["chain_sum", "leg_counting", "propositional_logic"])
def test_the_gold_answer_is_the_entry_and_worth_what_it_says(task):
    for prompt in load_prompts(f"gym:{task}", limit=5):
        entry = json.loads(prompt.answer)
        assert (prompt.problem, prompt.source) == (entry["question"], f"gym/{task}")
        assert prompt.id.startswith(f"gym/{task}/")
        assert entry["metadata"]["source_dataset"] == task
        if entry["answer"] is not None:
            assert gym.get_score_answer_fn(task)(entry["answer"], entry) == 1


def test_splits_never_overlap_and_a_longer_one_begins_with_a_shorter():
    splits = {split: load_prompts(f"gym:leg_counting:{split}", limit=60) for split in ("train", "validation", "test")}
    problems = [p.problem for prompts in splits.values() for p in prompts]
    assert len(set(problems)) == len(problems) == 180
    assert load_prompts("gym:leg_counting", limit=20, default_split="test") == splits["test"][:20]
    assert load_prompts("gym:leg_counting", limit=20) == splits["train"][:20]


def test_counts_are_those_of_abacus():
    assert len(load_prompts("gym:chain_sum:validation")) == ABACUS_COUNT["validation"]


def test_a_task_with_few_problems_gives_all_it_has():
    everything = [load_prompts(f"gym:tower_of_hanoi:{split}") for split in ("train", "validation", "test")]
    assert 0 < sum(map(len, everything)) < ABACUS_COUNT["validation"]


def test_what_cannot_be_had_is_refused():
    assert "did you mean 'chain_sum'" in refusal("gym:chain_sums")
    assert "no such split" in refusal("gym:chain_sum:tets")
    assert "settings of its own" in refusal("gym:composite")
    assert "what JSON cannot hold" in refusal("gym:rearc")


def test_it_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    assert "pip install 'contrapose[gym]'" in refusal("gym:chain_sum")
