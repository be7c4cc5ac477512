"""What a run evaluates and when, and which of its checkpoints that chooses: never one that did well on a test set.

eval.json                        a row for each evaluation: step, data set, whether for testing or for validation
evaluations/step-000040/abacus/  the same with every answer, as ``contrapose eval --out`` writes it and compares it
best/step-000040/                the policy that was most accurate on the validation problems so far
choice.json                      which step that was, and by which rule
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

from contrapose.evaluate.exam import Asked, Exam, Examinee, Request, answered, fingerprints, result, settings
from contrapose.evaluate.records import Records, begun_with, recording
from contrapose.prompts.catalogue import find
from contrapose.report.log import WriteFailed, on_disk, write_json
from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.rollout.sampler import Sampling, seed_of
from contrapose.settings import Config
from contrapose.train.folders import damage, recover, remove, whole_by_all
from contrapose.types import Prompt
from contrapose.verify.verifier import Verifier

Split = Literal["test", "validation", "train"]

Each = Callable[[int, int], None]
"""Told how many problems there are in a data set, and how many more of them are done."""


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


def chosen(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The validation among the rows of ``eval.json`` that chose a policy: the highest accuracy, the earliest of
    equals."""
    validations = [row for row in rows if row["split"] == "validation"]
    return max(validations, key=lambda row: (row["accuracy"]["value"], -row["step"]), default=None)


def is_for_testing(data: str) -> bool:
    """Whether a data set is known to be for testing: a benchmark, or a split of that name."""
    name, _, split = data.rpartition(":")
    dataset = find(name or data)
    return split == "test" if name else dataset is not None and dataset.split == "test"


def folder_names(specs: Iterable[str]) -> dict[str, str]:
    """A folder's name for each data set: what of it is safe anywhere, the end where that is long, and a number where
    another has that name, in whichever case."""
    names: dict[str, str] = {}
    for spec in dict.fromkeys(specs):
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", spec)[-64:].strip("-.") or "data"
        taken = {name.lower() for name in names.values()}
        free = (name for name in chain([safe], (f"{safe}-{i}" for i in count(2))) if name.lower() not in taken)
        names[spec] = next(free)
    return names


class Evaluations:
    """The evaluations of a run: test problems before and after it, and every so often the validation problems.

    Without validation problems the test problems are asked every so often, and nothing is chosen. ``rows`` is what
    ``eval.json`` holds. Stopped or killed in the middle of one, it goes on there: every answer is kept, and taken over
    where the policy and all else that it depends on is the same.
    """

    def __init__(self, config: Config, folder: Path, sets: list[EvalSet], ranks: Ranks = ALONE) -> None:
        self.rows: list[dict[str, Any]] = []
        self.sets = sets
        self._config, self._folder, self._ranks = config, folder, ranks
        self._names = folder_names(held.data for held in sets)
        self._sampling = Sampling(config.eval.temperature, config.eval.top_p, config.rollout.max_tokens)

    @property
    def held_out(self) -> list[Prompt]:
        """The problems that must not be trained on."""
        return [prompt for asked in self.sets if asked.split != "train" for prompt in asked.prompts]

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The row of the validation that chose a policy."""
        return chosen(self.rows)

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
        engine: Examinee,
        save: Callable[[Path], None],
        each: Each,
        on_row: Callable[[dict[str, Any]], None],
    ) -> None:
        """Evaluate the engine's policy, of ``step`` finished steps, on what is due and not yet done. ``save`` writes
        the policy to a folder. Raises WriteFailed where the disk refuses."""
        if due := self.due(step):
            policy = fingerprints(engine)
            for held in due:
                row = self._row(held, step, engine, policy, each)
                self.rows.append(row)
                if held.split == "validation" and self.chosen is row:
                    with whole_by_all(self.best(step), self._ranks) as beside:  # the one before is forgotten later
                        save(beside)
                self._write()
                on_row(row)

    def run_chosen(
        self,
        engine: Examinee,
        sync: Callable[[Path], None],
        each: Each,
        on_row: Callable[[dict[str, Any]], None],
    ) -> None:
        """Evaluate the chosen policy on the test problems, where that was not done at its step. ``sync`` gives it to
        the engine. Raises WriteFailed where it is not as it was saved."""
        chosen = self.chosen
        left = [s for s in self.sets if s.split != "validation" and chosen and not self._done(s, chosen["step"])]
        if chosen and left:
            sync(self._saved(chosen["step"]))
            policy = fingerprints(engine)
            for held in left:
                row = self._row(held, chosen["step"], engine, policy, each)
                self.rows.append(row)
                self._write()
                on_row(row)

    def resume(self, step: int) -> None:
        """Go on from a checkpoint after ``step``: what was evaluated up to there stands, the rest is done again.

        Raises WriteFailed where the chosen policy, or ``eval.json``, is not as it was saved."""
        self.rows = self._ranks.first(lambda: self._rows_until(step))
        if self.sets:
            self._write()

    def forget(self, steps: Collection[int]) -> None:
        """Remove the policies that none of these steps had chosen: those of the kept checkpoints."""
        known = [chosen([row for row in self.rows if row["step"] <= step]) for step in steps]
        kept = [self.best(row["step"]) for row in known if row]
        for folder in (self._folder / "best").glob("step-*") if self._ranks.leads else ():
            if folder not in kept:
                remove(folder)

    def best(self, step: int) -> Path:
        """Where the policy of ``step`` is kept, if it is the chosen one."""
        return self._folder / "best" / f"step-{step:06d}"

    def answers(self, step: int, data: str) -> Path:
        """The folder with all answers to a data set at ``step``."""
        return self._folder / "evaluations" / f"step-{step:06d}" / self._names[data]

    def due(self, step: int) -> list[EvalSet]:
        """What is to be asked after ``step`` finished steps, and not yet done."""
        every, last = self._config.eval.every, self._config.steps
        chooses = any(held.split == "validation" for held in self.sets)
        often = bool(every) and step % every == 0

        def asked(held: EvalSet) -> bool:
            return step in (0, last) or (often and (held.split == "validation" or not chooses))

        return [held for held in self.sets if asked(held) and not self._done(held, step)]

    def _done(self, held: EvalSet, step: int) -> bool:
        return any((row["step"], row["data"], row["split"]) == (step, held.data, held.split) for row in self.rows)

    def _row(self, held: EvalSet, step: int, engine: Examinee, policy: Mapping[str, Any], each: Each) -> dict[str, Any]:
        """Ask what is not yet answered. Answers of another policy are from a past that did not happen, and removed."""
        config = self._config
        exam = Exam(held.data, config.eval.samples, config.data.template, verifier=held.verifier)
        asked = Asked(exam, tuple(held.prompts), self._sampling, {"left_out": held.left_out})
        request = Request(
            f"{config.model.path} at step {step}",
            (exam,),
            temperature=config.eval.temperature,
            top_p=config.eval.top_p,
            max_tokens=config.rollout.max_tokens,
            thinking=config.data.thinking,
            dtype=config.model.dtype,
            seed=seed_of(config.seed, "evaluation"),
        )
        folder, ranks = self.answers(step, held.data), self._ranks
        told = settings(request, [asked], engine, policy, ranks.world)
        with self._recording(folder, told) if ranks.leads else nullcontext() as records:
            ask = partial(each, len(held.prompts))
            row = result(request, asked, answered(asked, engine, request.seed, records, ask, ranks))
            if records:
                records.finish([row])
        same_in_all = ("model", "template", "seed")
        answers = folder.relative_to(self._folder).as_posix()
        about = {"step": step, "data": held.data, "split": held.split, "answers": answers}
        return about | {key: value for key, value in row.items() if key not in same_in_all}

    @contextmanager
    def _recording(self, folder: Path, told: Mapping[str, Any]) -> Iterator[Records]:
        if folder.exists() and not begun_with(folder, told):
            with on_disk(folder):
                shutil.rmtree(folder)
        with recording(folder, told, resume=True) as records:
            yield records

    def _rows_until(self, step: int) -> list[dict[str, Any]]:
        recover(self._folder / "best", "step-*")
        rows = [row for row in self._read() if row["step"] <= step]
        if row := chosen(rows):
            self._saved(row["step"])
        return rows

    def _saved(self, step: int) -> Path:
        """The chosen policy's folder, whole."""
        best = self.best(step)
        if wrong := damage(best) if best.exists() else "it is missing":
            mend = "put it back from a copy, or start anew in another --out"
            raise WriteFailed(f"--resume: the chosen policy {best} is not as it was saved: {wrong}: {mend}")
        return best

    def _read(self) -> list[dict[str, Any]]:
        path = self._folder / "eval.json"
        try:
            rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        except (OSError, ValueError) as error:
            raise WriteFailed(f"{path}: cannot be read: {error}: remove it, and everything is asked anew") from None
        return rows

    def _write(self) -> None:
        sets = [(held.data, held.split) for held in self.sets]
        at = {about: number for number, about in enumerate(sets)}  # the order is no matter of what came when
        self.rows.sort(key=lambda row: (row["step"], at.get((row["data"], row["split"]), len(at))))
        if not self._ranks.leads:
            return
        write_json(self._folder / "eval.json", self.rows)
        if choice := self.choice():
            write_json(self._folder / "choice.json", choice)
