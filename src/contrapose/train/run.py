"""A run: its parts, and the folder it writes. What changes while training lives here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from contrapose.evaluate.report import report_of
from contrapose.objectives.zoo import ZOO
from contrapose.policy.model import load_model, load_tokenizer, pieces
from contrapose.policy.native import keep_freed_memory
from contrapose.prompts.abacus import model_folder
from contrapose.prompts.template import wraps_in_chat
from contrapose.report.log import make_folder, on_disk, read_rows, replace_text, write_json
from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.rollout.sampler import Sampling
from contrapose.settings import Config
from contrapose.train import checkpoint
from contrapose.train.data import training_prompts
from contrapose.train.evaluations import Evaluations
from contrapose.train.facts import changes, facts, fingerprint
from contrapose.train.files import Files
from contrapose.train.folders import recover, refuse_used, whole_by_all
from contrapose.train.parts import (
    eval_sets,
    make_engine,
    make_objective,
    make_pool,
    make_thresholds,
    make_verifier,
    refuse_long,
    refuse_other_adapter,
)
from contrapose.train.shards import load_optimizer
from contrapose.train.stop import StopRequest
from contrapose.train.tracking import Tracking
from contrapose.train.trainee import Trainee
from contrapose.train.work import Work
from contrapose.types import UNVERSIONED, ContraposeError, Now

BF16_NOTE = (
    "model.dtype = bfloat16 holds the weights themselves in 8 bits of precision: small updates round to nothing "
    "(float32 trains exactly)"
)


class Run:
    """Everything a loop needs: policy, engine, verifier, pool, optimizer, schedules, and the files of the run.

    A context: inside it Ctrl-C and SIGTERM ask for a stop, and the tracker is open. ``step`` counts finished steps,
    ``updates`` optimizer steps; ``work`` is a step that was begun; ``history`` has the rows of ``metrics.jsonl``. With
    ``resume`` it goes on from the newest whole checkpoint in ``folder``, from the beginning where there is none yet,
    and the jsonl files are cut back to it, so that no row stands twice. No two runs have one folder. Each of ``ranks``
    has a run, and all of them one folder, which rank 0 writes to.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        ranks: Ranks = ALONE,
        resume: bool = False,
        on_group: Callable[[int], None] = lambda problems: None,
        on_eval: Callable[[dict[str, Any]], None] = lambda row: None,
        on_trained: Callable[[dict[str, Any]], None] = lambda row: None,
        on_note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config, self.folder, self.ranks = config, folder, ranks
        self.on_group, self.on_eval, self.on_trained, self.on_note = on_group, on_eval, on_trained, on_note
        self.notes = [BF16_NOTE] if config.model.dtype == "bfloat16" and not config.lora.rank else []
        self.stop = StopRequest(ranks)
        self._tracking = Tracking(config.tracking if ranks.leads else "none", self._note)
        self.files = Files()
        try:
            self._build(resume)
        except BaseException:
            self.files.close()
            raise

    def _build(self, resume: bool) -> None:
        keep_freed_memory()
        config, folder, ranks = self.config, self.folder, self.ranks
        found = None
        if resume:
            ranks.first(lambda: self.files.open(folder))
            found, notes = ranks.first(lambda: checkpoint.newest(folder))
            self.notes += notes
        self.objective, thresholds = make_objective(config), make_thresholds(config)
        self.verifier = make_verifier(config)
        self.others = {name: make_objective(config, name) for name in ZOO if name != config.objective.name}
        self.now = self.objective.start()
        self.step = self.updates = 0
        self.work: Work | None = None
        self.history: list[dict[str, Any]] = []
        self._saved: tuple[int, int | None] | None = None
        if state := checkpoint.load_state(found) if found else {}:
            refuse_other_adapter(config, state["settings"])
        source = found / "model" if found else model_folder(config.model.path)
        tokenizer = load_tokenizer(source)
        self.spell = partial(pieces, tokenizer)
        self.evaluations = Evaluations(config, folder, eval_sets(config, tokenizer), ranks)
        held_out = self.evaluations.held_out
        prompts, self.data = ranks.first(lambda: training_prompts(config.data, tokenizer, self.verifier, held_out))
        self.pool = make_pool(config, prompts, thresholds)
        self.fingerprint = fingerprint(self.pool.prompts())
        self.policy = Trainee(config, source, tokenizer, self.objective, ranks)
        self.facts = facts(ranks.world) | self.policy.facts()
        self.engine = make_engine(config, self.policy.sampled, tokenizer, self.policy.eos, ranks)
        asked = [prompt for held in self.evaluations.sets for prompt in held.prompts]
        refuse_long(config, self.engine, [*asked, *self.pool.prompts()])
        self.sampling = Sampling(config.rollout.temperature, 1.0, config.rollout.max_tokens)
        if resume:
            self._resume(found, state)
        else:
            ranks.first(self._start)

    def describe(self) -> list[str]:
        """What is about to run, for a person."""
        config, parameters = self.config, self.policy.parameters
        chat = " in the tokenizer's chat template" if wraps_in_chat(config.data.template, self.policy.tokenizer) else ""
        factors = [kind for kind in self.objective.factors(settings=False).values() if kind != "-"]
        return [
            f"model      {config.model.path}, {parameters:,} parameters, {self.policy.place()}",
            f"objective  {config.objective.name}: {', '.join(factors)}",
            f"data       {', '.join(config.data.sources)}: {len(self.pool):,} prompts, template "
            f"{config.data.template}{chat}",
            *(f"           {line}" for line in self.data.lines()),
            f"a step     {config.batch.prompts} groups of {config.rollout.k} rollouts, {config.batch.updates} updates",
            *([] if self.evaluations.sets else ["note       no evaluation: eval.data is not set"]),
            *(f"note       {note}" for asked in self.evaluations.sets for note in asked.notes()),
            *(f"note       {note}" for note in self.notes),
        ]

    def set_rate(self) -> None:
        """Set the rate of the next optimizer step: linear over ``optim.warmup`` steps, then constant."""
        rate = self.config.optim.lr * min(1.0, (self.updates + 1) / max(1, self.config.optim.warmup))
        for group in self.policy.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # so that no step is compiled anew
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def evaluate_if_due(self) -> None:
        """Evaluate what is due after this step, and once all are done the policy that was chosen."""

        def each(problems: int, more: int) -> None:
            self.stop.check()
            for _ in range(more):
                self.on_group(problems)

        def sync(folder: Path) -> None:
            self.engine.sync(load_model(folder, self.config.model.computes))

        def done(row: dict[str, Any]) -> None:
            self._tracking.evaluation(self.evaluations.answers(row["step"], row["data"]).name, row)
            self.on_eval(row)

        if self.evaluations.due(self.step):
            self.sync()
        self.evaluations.run(self.step, self.engine, self.policy.save, each, done)
        if self.step == self.config.steps:
            self.evaluations.run_chosen(self.engine, sync, each, done)
            self.sync()

    def sync(self, version: int = UNVERSIONED) -> None:
        """Let the engine sample from the policy as it is."""
        self.engine.sync(self.policy.whole(), version)

    def write(self, name: str, row: dict[str, Any]) -> None:
        """Add a row to ``metrics``, ``rollouts`` or ``ledger``."""
        self.files.append(name, row)

    def readmit(self, prompts: list[str]) -> list[str]:
        """Undo the mastery of these prompts (``"all"``: of every one), and save that."""
        if self.step == self.config.steps:
            raise ContraposeError("--readmit: the run is finished, and draws no more prompts")
        back = self.pool.readmit(prompts)
        for prompt in back:
            self.write("ledger", {"step": self.step, "prompt": prompt, "fate": "readmitted"})
        self.checkpoint()
        return back

    def write_metrics(self, row: dict[str, Any]) -> None:
        """Add a row to ``metrics.jsonl`` and to the history, and send it to the tracker."""
        self.write("metrics", row)
        self.history.append(row)
        self._tracking.step(row)

    def checkpoint_if_due(self) -> None:
        """Save every ``checkpoint.every`` steps, and after the last one."""
        every = self.config.checkpoint.every
        if (every and self.step % every == 0) or self.step == self.config.steps:
            self.checkpoint()

    def checkpoint_if_new(self) -> None:
        """Save where the run stands, unless that was the last thing it did."""
        if self._saved != self._place():
            self.checkpoint()

    def checkpoint(self) -> Path:
        """Save where the run stands."""
        state = {
            "step": self.step,
            "updates": self.updates,
            "now": {"progress": self.now.progress, "kl_coef": self.now.kl_coef},
            "pool": self.pool.state_dict(),
            "data": self.fingerprint,
            "sizes": self.files.sizes(),
            "settings": self.config.model_dump(mode="json"),
            "run": self.facts,
        }
        policy, keep = self.policy, self.config.checkpoint.keep
        parts = policy.model, policy.tokenizer, policy.optimizer, state, self.work, keep, self.ranks, policy.in_parts
        saved = checkpoint.save(self.folder, self.step, *parts)
        self._saved = self._place()
        self._forget()
        return saved

    def finish(self) -> Path:
        """Write the trained model to ``model/``, and the report; of the others, only what a checkpoint chose stays."""
        self._forget()
        with whole_by_all(self.folder / "model", self.ranks) as beside:
            self.policy.save(beside)
        if self.policy.adapter:
            with whole_by_all(self.folder / "adapter", self.ranks) as beside:
                self.policy.save_adapter(beside)
        if self.ranks.leads and (fault := report_of(self.folder)):
            self._note(fault)
        return self.folder / "model"

    def __enter__(self) -> Run:
        try:
            self._tracking.open(self.folder, {**self.config.model_dump(mode="json"), "run": self.facts}, self.step)
        except BaseException:
            self.files.close()
            raise
        self.stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        self.stop.__exit__()
        self.files.close()
        self._tracking.close(failed=kind is not None)

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.on_note(line)

    def _forget(self) -> None:
        self.evaluations.forget([checkpoint.step_of(folder) for folder in checkpoint.saved(self.folder)])

    def _place(self) -> tuple[int, int | None]:
        """Which step is done, and how many updates of the next."""
        return self.step, len(self.work.updates) if self.work else None

    def _start(self) -> None:
        """Make the folder; with ``config.toml``, written last, it holds a run."""
        refuse_used(self.folder)
        checkpoint.refuse_full_disk(self.folder, self.policy.model)
        with on_disk(self.folder):
            make_folder(self.folder)
        self.files.open(self.folder)
        refuse_used(self.folder)  # another process may just have been here
        write_json(self.folder / "data.json", self.data.to_dict())
        replace_text(
            self.folder / "config.toml", self.config.to_toml(self.facts | {"factors": self.objective.factors()})
        )

    def _resume(self, found: Path | None, state: dict[str, Any]) -> None:
        if self.ranks.leads:
            recover(self.folder, "model", "config.toml", "data.json", "eval.json", "choice.json")
            recover(self.folder / "faults", "step-*")
        if found is None:
            self.notes.append("no checkpoint was written yet: starting from the beginning")
            self.files.cut({})
            self.evaluations.resume(0)
            return
        load_optimizer(found, self.policy.model, self.policy.optimizer)
        self.step, self.updates = state["step"], state["updates"]
        self.evaluations.resume(self.step)
        self.now = Now(**state["now"])
        self.pool.load_state_dict(state["pool"])
        self.work = Work.load(found, self.policy.passes.logprobs.device)
        self._saved = self._place()
        self.notes += changes(state["run"], self.facts)
        settings = self.config.model_dump(mode="json")
        self.notes += changes(state["settings"] | {"tracking": self.config.tracking}, settings)  # it changes no run
        if state["data"] != self.fingerprint:
            self.notes.append(
                "the prompts are not those of the checkpoint: the run goes on with what the data hold now"
            )
            if self.ranks.leads:
                write_json(self.folder / "data.json", self.data.to_dict())
        self.files.cut(state["sizes"])
        self.history = self.ranks.first(lambda: read_rows(self.folder / "metrics.jsonl"))
