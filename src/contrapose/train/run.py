"""A run: its parts, built from a config, and the folder it writes. What changes while training lives here."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import contrapose
from contrapose.evaluate.evaluate import evaluate
from contrapose.objectives.objective import Objective
from contrapose.objectives.zoo import ZOO, hyperparameters_of
from contrapose.objectives.zoo import objective as objective_by_name
from contrapose.policy.logprobs import LogProbs
from contrapose.policy.model import eos_ids, load_model, load_tokenizer, save_model
from contrapose.prompts.abacus import model_folder
from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.prompts.sources import load_prompts
from contrapose.prompts.template import render_all, wraps_in_chat
from contrapose.report.log import JsonLines
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.sampler import Sampling, seed_of
from contrapose.settings import Config
from contrapose.train import checkpoint
from contrapose.train.stop import StopRequest
from contrapose.types import ContraposeError, Group, Now, Prompt
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


def make_verifier(config: Config) -> Verifier:
    """The configured verifier. Its workers start, to be ready when the model is loaded."""
    verifier = Verifier.configured(
        config.verify.model_dump(),
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
        on_group: Callable[[Group], None] = lambda group: None,
        on_eval: Callable[[dict[str, Any]], None] = lambda row: None,
        on_trained: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.config, self.folder = config, folder
        self.on_group, self.on_eval, self.on_trained = on_group, on_eval, on_trained
        self._left_out = {"train": 0, "test": 0}
        self.objective = make_objective(config)
        self.verifier = make_verifier(config)
        self.others = {name: make_objective(config, name) for name in ZOO if name != config.objective.name}
        self.now = self.objective.start()
        self.step = 0
        self.evaluations: list[dict[str, Any]] = []
        self.stop = StopRequest()
        source = model_folder(config.model.path)
        found = checkpoint.newest(folder) if resume else None
        self.tokenizer = load_tokenizer(source)
        self.pool = PromptPool(self._prompts(config.data.path), _thresholds(config), config.seed, config.filter.cache)
        if len(self.pool) < config.batch.prompts:
            holds = f"{config.data.path} holds only {len(self.pool)} prompts"
            raise ContraposeError(f"batch.prompts: {config.batch.prompts}, but {holds}")
        self.eval_prompts = self._prompts(config.eval.data, "test") if config.eval.data else []
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
            f"data       {config.data.path}: {len(self.pool):,} prompts, template {config.data.template}{chat}",
            f"a step     {config.batch.prompts} groups of {config.rollout.k} rollouts, {config.batch.updates} updates",
            *([] if config.eval.data else ["note       no evaluation: eval.data is not set"]),
            *(
                f"note       {path}: {self._left_out[split]} prompts longer than data.max_prompt_tokens are left out"
                for path, split in ((config.data.path, "train"), (config.eval.data, "test"))
                if self._left_out[split]
            ),
            *([BF16_NOTE] if config.model.dtype == "bfloat16" else []),
        ]

    def warm_up(self) -> None:
        """Set the rate of the next optimizer step: linear over ``optim.warmup`` steps, then constant."""
        self.updates += 1
        rate = self.config.optim.lr * min(1.0, self.updates / max(1, self.config.optim.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def evaluate_if_due(self) -> None:
        """Evaluate before the first step, every ``eval.every`` steps, and after the last one."""
        every, steps = self.config.eval.every, self.config.steps
        due = self.step in (0, steps) or (every and self.step % every == 0)
        if not self.eval_prompts or not due or any(row["step"] == self.step for row in self.evaluations):
            return

        def each(group: Group) -> None:
            self.stop.check()
            self.on_group(group)

        settings = self.config.eval
        result = evaluate(
            self.engine,
            self.verifier,
            self.eval_prompts,
            samples=settings.samples,
            sampling=Sampling(settings.temperature, settings.top_p, self.config.rollout.max_tokens),
            seed=seed_of(self.config.seed, "evaluation"),
            each=each,
        )
        left_out = self._left_out["test"]
        self.evaluations.append({"step": self.step, "data": settings.data, **result.to_dict(), "left_out": left_out})
        write_json(self.folder / "eval.json", self.evaluations)
        self.on_eval(self.evaluations[-1])

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
            "evaluations": self.evaluations,
            "sizes": {file.path.name: file.size() for file in self._files()},
        }
        keep = self.config.checkpoint.keep
        return checkpoint.save(self.folder, self.step, self.model, self.tokenizer, self.optimizer, state, keep)

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
        self.step, self.updates, self.evaluations = state["step"], state["updates"], state["evaluations"]
        self.now = Now(**state["now"])
        self.pool.load_state_dict(state["pool"])
        for file in self._files():
            file.cut(state["sizes"][file.path.name])

    def _prompts(self, path: str, split: str = "train") -> list[Prompt]:
        data = self.config.data
        loaded = load_prompts(path, problem_key=data.problem_key, answer_key=data.answer_key, default_split=split)
        prompts, left_out = render_all(loaded, data.template, self.tokenizer, data.max_prompt_tokens)
        self._left_out[split] = left_out
        return prompts

    def _check_context(self) -> None:
        room, asked = self.engine.room_after([*self.eval_prompts, *self.pool.prompts()]), self.config.rollout.max_tokens
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


def facts() -> dict[str, Any]:
    """What a result depends on beside its settings: versions, revision, threads."""
    import transformers

    return {
        "contrapose": contrapose.__version__,
        "revision": _revision(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def _revision() -> str:
    """The commit of the checkout that this code runs from, or ``"installed"`` where it does not."""
    here = Path(__file__)
    tracked, commit = ["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty", "--abbrev=40"]
    try:
        for question in (tracked, commit):
            answer = subprocess.run(["git", *question], cwd=here.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "installed"
    return answer.stdout.strip()


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` whole, or leave it as it was."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(beside, path)
