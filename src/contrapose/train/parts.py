"""What a run is made of, from its settings. Every refusal is here or earlier: before a folder is written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from contrapose.evaluate.protocols import verify_of
from contrapose.objectives.objective import Objective
from contrapose.objectives.zoo import check_group_size, hyperparameters_of
from contrapose.objectives.zoo import objective as objective_by_name
from contrapose.policy.model import load_model
from contrapose.prompts.abacus import model_folder
from contrapose.prompts.contamination import HeldOut
from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.ranks import Ranks
from contrapose.rollout.vllm import Place, VllmEngine
from contrapose.settings import Config
from contrapose.train.data import evaluation_prompts, trained_on
from contrapose.train.evaluations import EvalSet, Split, is_for_testing
from contrapose.types import ContraposeError, Prompt
from contrapose.verify.verifier import Verifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def make_objective(config: Config, name: str | None = None) -> Objective:
    """The configured objective, or that of another name at its defaults.

    What a run knows of itself is filled in where it is asked for: a constant ``length`` is the response limit.
    Raises ContraposeError that names the hyper-parameter and the nearest valid one.
    """
    own = name is None
    settings = config.objective.hyperparameters if own else {}
    try:
        name = name or config.objective.name
        known = {"length": config.rollout.max_tokens}
        filled = {key: value for key, value in known.items() if key in hyperparameters_of(name)}
        made = objective_by_name(name, **{**filled, **settings})
        if own:
            check_group_size(made, name, config.rollout.k)
        return made
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


def make_thresholds(config: Config) -> Thresholds:
    """The configured ones. Raises ContraposeError where they leave nothing to train on."""
    names = ("mode", "t_hard", "t_easy", "t_master", "rho", "require_correct", "patience")
    return Thresholds(**{name: getattr(config.filter, name) for name in names})


def make_pool(config: Config, prompts: list[Prompt], thresholds: Thresholds) -> PromptPool:
    """The pool of ``prompts``. Raises ContraposeError where they do not fill a batch."""
    weights = dict(zip(config.data.sources, config.data.weights, strict=False))
    pool = PromptPool(prompts, thresholds, config.seed, config.filter.cache, weights)
    if len(pool) < config.batch.prompts:
        holds = f"only {len(pool)} prompts are left to train on: lower it, or add to data.path"
        raise ContraposeError(f"batch.prompts: {config.batch.prompts}, but {holds}")
    return pool


def make_optimizer(config: Config, model: PreTrainedModel) -> torch.optim.Optimizer:
    """AdamW over what of the model is trained. Raises ContraposeError where torchao is asked for, and is not there."""
    settings = config.optim
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    how: dict[str, Any] = {"betas": settings.betas, "eps": settings.eps, "weight_decay": settings.weight_decay}
    if settings.moments == "full":
        return torch.optim.AdamW(trained, lr=settings.lr, fused=True, **how)
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise ContraposeError("optim.moments: torchao is not installed: pip install 'contrapose[lowbit]'") from None
    made: torch.optim.Optimizer = AdamW8bit(trained, lr=settings.lr, **how)
    return made


def make_reference(config: Config, objective: Objective, policy: PreTrainedModel) -> PreTrainedModel | None:
    """The frozen policy that the objective compares with, if it does: ``model.reference`` or the start."""
    if not objective.reads_reference:
        return None
    path = config.model.reference or config.model.path
    try:
        model = load_model(model_folder(path), config.model.dtype)
    except ContraposeError as error:
        raise ContraposeError(str(error).replace("model.path", "model.reference", 1)) from None
    rows, own = (m.config.get_text_config().vocab_size for m in (model, policy))
    if rows != own:
        raise ContraposeError(f"model.reference: {path} has {rows} tokens, the policy {own}: give one of its family")
    return model.requires_grad_(False)


def refuse_other_adapter(config: Config, before: Mapping[str, Any]) -> None:
    """Raise ContraposeError where an adapter of another shape, or none, was trained ``before``."""
    was, now = before.get("lora", {}), config.lora.model_dump(mode="json")
    for key in ("rank", "targets"):
        if key in was and was[key] != now[key]:
            raise ContraposeError(
                f"lora.{key}: {was[key]!r} at the checkpoint, {now[key]!r} now: what was learned is lost; set it back"
            )


def eval_sets(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[EvalSet]:
    """The problems to ask. Raises ContraposeError where one that chooses a policy is a test problem."""

    def eval_set(data: str, split: Split) -> EvalSet:
        prompts, left_out = evaluation_prompts(config.data, data, split, tokenizer)
        return EvalSet(data, split, prompts, left_out, make_verifier(config, data))

    tests = [eval_set(data, "train" if trained_on(config.data, data) else "test") for data in config.eval.sources]
    if not config.eval.validation:
        return tests
    if is_for_testing(config.eval.validation):
        raise ContraposeError(f"eval.validation: {config.eval.validation} is for testing, and must not choose a policy")
    choosing = eval_set(config.eval.validation, "validation")
    tested = HeldOut([prompt for asked in tests for prompt in asked.prompts])
    known = sum(any(match.whole for match in tested.matches(p.problem)) for p in choosing.prompts)
    if known:
        raise ContraposeError(
            f"eval.validation: {known} of its {len(choosing.prompts)} problems are test problems (eval.data), and "
            "must not choose a policy"
        )
    return [*tests, choosing]


def make_engine(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos: tuple[int, ...], ranks: Ranks
) -> EmbeddedEngine | VllmEngine:
    """What samples on this rank. Where there are more ranks than servers, the first ranks alone sample.

    Raises ContraposeError where vLLM is not installed, or a server of it does not answer.
    """
    asked = config.rollout
    if asked.engine == "embedded":
        return EmbeddedEngine(model, tokenizer, eos, cache_gib=asked.cache_gib)
    from contrapose.rollout.colocated import Colocated
    from contrapose.rollout.servers import Servers

    place: Place
    if asked.servers:
        ranks.samplers = min(ranks.world, len(asked.servers))
        place = Servers(asked.servers[ranks.rank % ranks.samplers :: ranks.samplers], asked.weights, asked.timeout)
    elif ranks.world > 1:
        mend = "name servers in rollout.servers, one or more"
        raise ContraposeError(f"rollout.engine: vllm in the trainer's process is for one process: {mend}")
    else:
        place = Colocated(model_folder(config.model.path), config.model.computes, asked.gpu_share)
    return VllmEngine(place, model, tokenizer, eos, asked.temperature, asked.max_drift)


def refuse_long(config: Config, engine: EmbeddedEngine | VllmEngine, prompts: Iterable[Prompt]) -> None:
    """Raise ContraposeError where an answer of ``rollout.max_tokens`` to one of ``prompts`` outgrows the context."""
    asked, room = config.rollout.max_tokens, engine.room_after(prompts)
    if room is not None and asked > room:
        raise ContraposeError(
            f"rollout.max_tokens: {asked}, but the longest prompt leaves {room} of the model's context"
        )
