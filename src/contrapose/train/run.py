"""A run: its parts, built from a config, and the folder it writes. What changes while training lives here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from contrapose.evaluate.protocols import verify_of
from contrapose.objectives.objective import Objective
from contrapose.objectives.zoo import ZOO, hyperparameters_of
from contrapose.objectives.zoo import objective as objective_by_name
from contrapose.policy.logprobs import LogProbs
from contrapose.policy.model import eos_ids, load_model, load_tokenizer, save_model
from contrapose.prompts.abacus import model_folder
from contrapose.prompts.contamination import HeldOut
from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.prompts.template import wraps_in_chat
from contrapose.report.log import JsonLines, write_json
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling
from contrapose.settings import Config
from contrapose.train import checkpoint
from contrapose.train.data import evaluation_prompts, trained_on, training_prompts
from contrapose.train.evaluations import EvalSet, Evaluations, Split, is_for_testing
from contrapose.train.facts import facts, fingerprint
from contrapose.train.stop import StopRequest
from contrapose.types import ContraposeError, Now
from contrapose.verify.verifier import Verifier

BF16_NOTE = (
    "note       model.dtype = bfloat16 holds the weights themselves in 8 bits of precision: small updates round to "
    "nothing (float32 trains exactly)"
)


def make_objective(config: Config, name: str | None = None) -> Objective:
    """The configured objective, or that of another name at its defaults.

    What a run knows of itself is filled in where it is asked for: a constant ``length`` is the response limit.
    Raises ContraposeError that names the hyper-parameter and the nearest valid one.
    """
    settings = {} if name else config.objective.hyperparameters
    try:
        name = name or config.objective.name
        known = {"length": config.rollout.max_tokens}
        filled = {key: value for key, value in known.items() if key in hyperparameters_of(name)}
        return objective_by_name(name, **{**filled, **settings})
    except (TypeError, ValueError) as error:
        raise ContraposeError(str(error)) from None


def make_verifier(config: Config, data: str = "") -> Verifier:
    """The configured verifier, with what is customary for the data set. Its workers start, to be ready in time."""
    verifier = Verifier.configured(
        verify_of(data, config.verify.model_dump()),
        config.reward.scheme,
        truncated_is_wrong=config.reward.truncated == "wrong",
        limit=config.rollout.max_tokens,
        cache=round(config.reward.overlong * config.rollout.max_tokens),
    )
    verifier.start()
    return verifier


class Run:
    """Everything a loop needs: policy, engine, verifier, pool, optimizer, schedules, and the files of the run.

    A context: inside it Ctrl-C and SIGTERM ask for a stop. ``step`` counts finished steps. With ``resume`` it goes
    on from the newest checkpoint in ``folder``, and the jsonl files are cut back to it, so that no row stands twice.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        resume: bool = False,
        on_group: Callable[[int], None] = lambda problems: None,
        on_eval: Callable[[dict[str, Any]], None] = lambda row: None,
        on_trained: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.config, self.folder = config, folder
        self.on_group, self.on_eval, self.on_trained = on_group, on_eval, on_trained
        self.objective = make_objective(config)
        self.verifier = make_verifier(config)
        self.others = {name: make_objective(config, name) for name in ZOO if name != config.objective.name}
        self.now = self.objective.start()
        self.step = 0
        self.notes: list[str] = []
        self.stop = StopRequest()
        source = model_folder(config.model.path)
        found = checkpoint.newest(folder) if resume else None
        self.tokenizer = load_tokenizer(source)
        self.evaluations = Evaluations(config, folder, self._eval_sets())
        prompts, self.data = training_prompts(config.data, self.tokenizer, self.verifier, self.evaluations.held_out)
        weights = dict(zip(config.data.sources, config.data.weights, strict=False))
        self.pool = PromptPool(prompts, _thresholds(config), config.seed, config.filter.cache, weights)
        self.fingerprint = fingerprint(self.pool.prompts())
        if len(self.pool) < config.batch.prompts:
            holds = f"only {len(self.pool)} prompts are left to train on"
            raise ContraposeError(f"batch.prompts: {config.batch.prompts}, but {holds}")
        self.model = load_model(found / "model" if found else source, config.model.dtype)
        self.logprobs = LogProbs(self.model, config.rollout.temperature)
        self.reference = self._reference(source)
        eos = eos_ids(self.model, self.tokenizer)
        self.engine = EmbeddedEngine(self.model, self.tokenizer, eos, cache_gib=config.rollout.cache_gib)
        self._check_context()
        self.sampling = Sampling(config.rollout.temperature, 1.0, config.rollout.max_tokens)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.optim.lr,
            betas=config.optim.betas,
            eps=config.optim.eps,
            weight_decay=config.optim.weight_decay,
        )
        self.updates = 0
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            (folder / "config.toml").write_text(config.to_toml(facts()), encoding="utf-8")
            write_json(folder / "data.json", self.data.to_dict())
        self.metrics, self.rollouts, self.ledger = (
            JsonLines(folder / f"{name}.jsonl") for name in ("metrics", "rollouts", "ledger")
        )
        if found:
            self._resume(found)

    def describe(self) -> list[str]:
        """What is about to run, for a person."""
        config, parameters = self.config, sum(p.numel() for p in self.model.parameters())
        chat = " in the tokenizer's chat template" if wraps_in_chat(config.data.template, self.tokenizer) else ""
        factors = [kind for kind in self.objective.factors(settings=False).values() if kind != "-"]
        return [
            f"model      {config.model.path}, {parameters:,} parameters, {config.model.dtype} on {self.model.device}",
            f"objective  {config.objective.name}: {', '.join(factors)}",
            f"data       {', '.join(config.data.sources)}: {len(self.pool):,} prompts, template "
            f"{config.data.template}{chat}",
            *(f"           {line}" for line in self.data.lines()),
            f"a step     {config.batch.prompts} groups of {config.rollout.k} rollouts, {config.batch.updates} updates",
            *([] if self.evaluations.sets else ["note       no evaluation: eval.data is not set"]),
            *(f"note       {note}" for asked in self.evaluations.sets for note in asked.notes()),
            *(f"note       {note}" for note in self.notes),
            *([BF16_NOTE] if config.model.dtype == "bfloat16" else []),
        ]

    def warm_up(self) -> None:
        """Set the rate of the next optimizer step: linear over ``optim.warmup`` steps, then constant."""
        self.updates += 1
        rate = self.config.optim.lr * min(1.0, self.updates / max(1, self.config.optim.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def evaluate_if_due(self) -> None:
        """Evaluate what is due after this step, and once all are done the policy that was chosen."""

        def each(problems: int) -> None:
            self.stop.check()
            self.on_group(problems)

        def save(folder: Path) -> None:
            save_model(self.model, self.tokenizer, folder)

        def sync(folder: Path) -> None:
            self.engine.sync(load_model(folder, self.config.model.dtype))

        self.engine.sync(self.model)
        self.evaluations.run(self.step, self.engine, save, each, self.on_eval)
        if self.step == self.config.steps:
            try:
                self.evaluations.run_chosen(self.engine, sync, each, self.on_eval)
            finally:
                self.engine.sync(self.model)

    def readmit(self, prompts: list[str]) -> list[str]:
        """Undo the mastery of these prompts (``"all"``: of every one), and save that."""
        if self.step == self.config.steps:
            raise ContraposeError("--readmit: the run is finished, and draws no more prompts")
        back = self.pool.readmit(prompts)
        for prompt in back:
            self.ledger.append({"step": self.step, "prompt": prompt, "fate": "readmitted"})
        self.checkpoint()
        return back

    def checkpoint_if_due(self) -> None:
        """Save every ``checkpoint.every`` steps, and after the last one."""
        every = self.config.checkpoint.every
        if (every and self.step % every == 0) or self.step == self.config.steps:
            self.checkpoint()

    def checkpoint(self) -> Path:
        """Save where the run stands."""
        state = {
            "step": self.step,
            "updates": self.updates,
            "now": {"progress": self.now.progress, "kl_coef": self.now.kl_coef},
            "pool": self.pool.state_dict(),
            "data": self.fingerprint,
            "evaluations": self.evaluations.rows,
            "sizes": {file.path.name: file.size() for file in self._files()},
        }
        keep = self.config.checkpoint.keep
        saved = checkpoint.save(self.folder, self.step, self.model, self.tokenizer, self.optimizer, state, keep)
        self.evaluations.forget_others()
        return saved

    def finish(self) -> Path:
        """Write the trained model to ``model/``."""
        save_model(self.model, self.tokenizer, self.folder / "model")
        return self.folder / "model"

    def __enter__(self) -> Run:
        self.stop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.__exit__()
        for file in self._files():
            file.close()

    def _files(self) -> tuple[JsonLines, ...]:
        return self.metrics, self.rollouts, self.ledger

    def _resume(self, found: Path) -> None:
        state = checkpoint.load_state(found)
        checkpoint.load_optimizer(found, self.model, self.optimizer)
        self.step, self.updates = state["step"], state["updates"]
        self.evaluations.resume(state["evaluations"])
        self.now = Now(**state["now"])
        self.pool.load_state_dict(state["pool"])
        if state["data"] != self.fingerprint:
            self.notes.append(
                "the prompts are not those of the checkpoint: the run goes on with what the data hold now"
            )
            write_json(self.folder / "data.json", self.data.to_dict())
        for file in self._files():
            file.cut(state["sizes"][file.path.name])

    def _eval_sets(self) -> list[EvalSet]:
        """The problems to ask. Raises ContraposeError where one that chooses a policy is a test problem."""
        config = self.config
        tests = [self._eval_set(d, "train" if trained_on(config.data, d) else "test") for d in config.eval.sources]
        if not config.eval.validation:
            return tests
        if is_for_testing(config.eval.validation):
            raise ContraposeError(
                f"eval.validation: {config.eval.validation} is for testing, and must not choose a policy"
            )
        choosing = self._eval_set(config.eval.validation, "validation")
        tested = HeldOut([prompt for asked in tests for prompt in asked.prompts])
        known = sum(any(match.whole for match in tested.matches(p.problem)) for p in choosing.prompts)
        if known:
            raise ContraposeError(
                f"eval.validation: {known} of its {len(choosing.prompts)} problems are test problems (eval.data), and "
                "must not choose a policy"
            )
        return [*tests, choosing]

    def _eval_set(self, data: str, split: Split) -> EvalSet:
        prompts, left_out = evaluation_prompts(self.config.data, data, split, self.tokenizer)
        return EvalSet(data, split, prompts, left_out, make_verifier(self.config, data))

    def _check_context(self) -> None:
        asked = self.config.rollout.max_tokens
        evaluated = [prompt for asked_of in self.evaluations.sets for prompt in asked_of.prompts]
        room = self.engine.room_after([*evaluated, *self.pool.prompts()])
        if room is not None and asked > room:
            raise ContraposeError(
                f"rollout.max_tokens: {asked}, but the longest prompt leaves {room} of the model's context"
            )

    def _reference(self, source: str) -> LogProbs | None:
        """The frozen policy that the objective compares with, if it does: ``model.reference`` or the start."""
        if not self.objective.reads_reference:
            return None
        model = load_model(model_folder(self.config.model.reference) or source, self.config.model.dtype)
        return LogProbs(model.requires_grad_(False), self.config.rollout.temperature)


def _thresholds(config: Config) -> Thresholds:
    names = ("mode", "t_hard", "t_easy", "t_master", "rho", "require_correct", "patience")
    return Thresholds(**{name: getattr(config.filter, name) for name in names})
