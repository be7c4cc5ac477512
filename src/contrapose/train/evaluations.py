"""What a run evaluates and when, and which of its checkpoints that chooses: never one that did well on a test set.

eval.json           a row for each evaluation: the step, the data set, whether it is for testing or for validation
best/step-000040/   the policy that was most accurate on the validation problems so far
choice.json         which step that was, and by which rule
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contrapose.evaluate.evaluate import evaluate
from contrapose.prompts.catalogue import find
from contrapose.report.log import write_json
from contrapose.rollout.engine import RolloutEngine
from contrapose.rollout.sampler import Sampling, seed_of
from contrapose.settings import Config
from contrapose.types import Prompt
from contrapose.verify.verifier import Verifier

Split = Literal["test", "validation", "train"]

Asked = Callable[[int], None]
"""Told after every problem how many there are in its data set."""


@dataclass(frozen=True)
class EvalSet:
    """Problems that are asked; ``left_out`` counts those that were too long. Those of the split ``"train"`` are trained
    on too, because the settings name the same file twice; the others are not."""

    data: str
    split: Split
    prompts: list[Prompt]
    left_out: int
    verifier: Verifier

    def notes(self) -> list[str]:
        """What a person should know."""
        trained = f"{self.data}: is trained on too, and says nothing of how well other problems are solved"
        long = f"{self.data}: {self.left_out} prompts longer than data.max_prompt_tokens are left out"
        return [note for note, holds in ((trained, self.split == "train"), (long, self.left_out)) if holds]


def is_for_testing(data: str) -> bool:
    """Whether a data set is known to be for testing: a benchmark, or a split of that name."""
    name, _, split = data.rpartition(":")
    dataset = find(name or data)
    return split == "test" if name else dataset is not None and dataset.split == "test"


class Evaluations:
    """The evaluations of a run: test problems before and after it, and every so often the validation problems.

    Without validation problems the test problems are asked every so often, and nothing is chosen. ``rows`` is what
    ``eval.json`` holds.
    """

    def __init__(self, config: Config, folder: Path, sets: list[EvalSet]) -> None:
        self.rows: list[dict[str, Any]] = []
        self.sets = sets
        self._config, self._folder = config, folder
        self._sampling = Sampling(config.eval.temperature, config.eval.top_p, config.rollout.max_tokens)

    @property
    def held_out(self) -> list[Prompt]:
        """The problems that must not be trained on."""
        return [prompt for asked in self.sets if asked.split != "train" for prompt in asked.prompts]

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The row of the validation that chose a policy: the highest accuracy, the earliest of equals."""
        rows = [row for row in self.rows if row["split"] == "validation"]
        return max(rows, key=lambda row: (row["accuracy"]["value"], -row["step"]), default=None)

    def choice(self) -> dict[str, Any] | None:
        """What was chosen, and by which rule, as ``choice.json`` has it."""
        if not (row := self.chosen):
            return None
        rule = f"highest accuracy on {row['data']}, the earliest of equals"
        return {"step": row["step"], "rule": rule, "accuracy": row["accuracy"]}

    def tests(self) -> Iterator[dict[str, dict[str, Any]]]:
        """For each test set its rows before, after and at the chosen step, under what they are."""
        chosen = (self.chosen or {}).get("step")
        asked = [row for row in self.rows if row["split"] != "validation"]
        for data in dict.fromkeys(row["data"] for row in asked):
            rows = {row["step"]: row for row in asked if row["data"] == data}
            shown = {"before": 0, "last": max(rows), "best": chosen}
            yield {
                f"step {step} ({', '.join(name for name, at in shown.items() if at == step)})": rows[step]
                for step in sorted(rows)
                if step in shown.values()
            }

    def run(
        self,
        step: int,
        engine: RolloutEngine,
        save: Callable[[Path], None],
        each: Asked,
        on_row: Callable[[dict[str, Any]], None],
    ) -> None:
        """Evaluate the engine's policy, of ``step`` finished steps, on what is due and not yet done. ``save`` writes
        the policy to a folder."""
        for held in self._due(step):
            row = self._row(held, step, engine, each)
            self.rows.append(row)
            if held.split == "validation" and self.chosen is row:
                self._keep(row, save)
            self._write()
            on_row(row)

    def run_chosen(
        self,
        engine: RolloutEngine,
        sync: Callable[[Path], None],
        each: Asked,
        on_row: Callable[[dict[str, Any]], None],
    ) -> None:
        """Evaluate the chosen policy on the test problems, where that was not done at its step. ``sync`` gives it to
        the engine."""
        chosen = self.chosen
        left = [s for s in self.sets if s.split != "validation" and chosen and not self._done(s, chosen["step"])]
        if chosen and left:
            sync(self.best(chosen["step"]))
            for held in left:
                self.rows.append(self._row(held, chosen["step"], engine, each))
                self._write()
                on_row(self.rows[-1])

    def resume(self, rows: list[dict[str, Any]]) -> None:
        """Go on from what a checkpoint held; what was evaluated and chosen after it is forgotten."""
        self.rows = rows
        self._write()
        self.forget_others()

    def forget_others(self) -> None:
        """Remove the policies that are not the chosen one. To be called once a checkpoint knows of the choice."""
        kept = self.best(self.chosen["step"]) if self.chosen else None
        for folder in (self._folder / "best").glob("*"):
            if folder != kept:
                shutil.rmtree(folder)

    def best(self, step: int) -> Path:
        """Where the policy of ``step`` is kept, if it is the chosen one."""
        return self._folder / "best" / f"step-{step:06d}"

    def _due(self, step: int) -> Iterator[EvalSet]:
        every, last = self._config.eval.every, self._config.steps
        chooses = any(held.split == "validation" for held in self.sets)
        often = bool(every) and step % every == 0
        for held in self.sets:
            if (step in (0, last) or (often and (held.split == "validation" or not chooses))) and not self._done(
                held, step
            ):
                yield held

    def _done(self, held: EvalSet, step: int) -> bool:
        return any((row["step"], row["data"], row["split"]) == (step, held.data, held.split) for row in self.rows)

    def _row(self, held: EvalSet, step: int, engine: RolloutEngine, each: Asked) -> dict[str, Any]:
        result = evaluate(
            engine,
            held.verifier,
            held.prompts,
            samples=self._config.eval.samples,
            sampling=self._sampling,
            seed=seed_of(self._config.seed, "evaluation"),
            each=lambda group: each(len(held.prompts)),
        )
        return {"step": step, "data": held.data, "split": held.split, **result.to_dict(), "left_out": held.left_out}

    def _keep(self, row: dict[str, Any], save: Callable[[Path], None]) -> None:
        """Save the present policy. The one that was chosen before stays until ``forget_others``."""
        best = self.best(row["step"])
        beside = best.with_name(f".{best.name}.part")
        for folder in (beside, best):
            shutil.rmtree(folder, ignore_errors=True)
        save(beside)
        beside.rename(best)

    def _write(self) -> None:
        write_json(self._folder / "eval.json", self.rows)
        if choice := self.choice():
            write_json(self._folder / "choice.json", choice)
