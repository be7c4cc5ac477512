"""What ``ContrastiveTrainer`` is given, checked: each error names the setting and the mend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from trl import GRPOConfig

from contrapose.objectives.objective import Objective
from contrapose.objectives.zoo import ZOO, hyperparameters_of
from contrapose.objectives.zoo import objective as objective_by_name
from contrapose.types import ContraposeError, nearest

THEIR_LOSS = (
    *("beta", "loss_type", "scale_rewards", "multi_objective_aggregation", "importance_sampling_level"),
    *("epsilon", "epsilon_high", "delta", "sapo_temperature_neg", "sapo_temperature_pos", "use_bias_correction_kl"),
    *("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg", "off_policy_mask_threshold"),
    *("top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max"),
    *("entropy_coef_delta", "entropy_target"),
)
"""Settings of TRL's loss and its advantages, which the objective replaces."""


def objective_of(
    objective: str | Objective, hyperparameters: Mapping[str, Any], length: int | None, theirs: Sequence[str]
) -> Objective:
    """The objective, a constant ``length`` filled in. ``theirs`` are what else may be passed to the trainer."""
    if isinstance(objective, str) and objective not in ZOO:
        raise ContraposeError(f"objective: {objective!r} is unknown{nearest(objective, list(ZOO))}")
    known = hyperparameters_of(objective) if isinstance(objective, str) else []
    for key in hyperparameters:
        if key not in known:
            raise ContraposeError(
                f"{key}: neither an argument of GRPOTrainer nor a hyper-parameter of the objective"
                + nearest(key, [*known, *theirs])
            )
    if isinstance(objective, Objective):
        return objective
    filled = {"length": length} if "length" in known else {}
    try:
        return objective_by_name(objective, **{**filled, **hyperparameters})
    except (TypeError, ValueError) as error:
        raise ContraposeError(str(error)) from None


def check_settings(args: GRPOConfig) -> None:
    """Refuse what would be of no effect, or would make the credit another objective's."""
    defaults = {field.name: field.default for field in fields(GRPOConfig)}
    for name in THEIR_LOSS:
        if getattr(args, name) != defaults[name]:
            raise ContraposeError(
                f"GRPOConfig.{name}: {getattr(args, name)!r} would be of no effect, because the objective is the whole "
                f"loss: leave it at {defaults[name]!r}"
            )
    if args.neftune_noise_alpha:
        raise ContraposeError(
            "GRPOConfig.neftune_noise_alpha: noise makes the pass that knows the credit and the one that uses it "
            "differ: leave it out"
        )
    window, generation, k = args.gradient_accumulation_steps, args.steps_per_generation, args.num_generations
    if generation % window:
        raise ContraposeError(
            f"GRPOConfig.steps_per_generation: {generation} is no multiple of gradient_accumulation_steps ({window}), "
            "so that an optimizer step would hold parts of two generations"
        )
    if generation > window and (window * args.per_device_train_batch_size) % k:
        raise ContraposeError(
            f"GRPOConfig.per_device_train_batch_size: an optimizer step has {window} x "
            f"{args.per_device_train_batch_size} rollouts on each process, no multiple of num_generations ({k}); "
            "groups may lie over processes only where steps_per_generation is gradient_accumulation_steps"
        )


def check_model(trainer: Any) -> None:
    """Refuse a model whose two passes would differ, or whose loss has parts of its own."""
    if trainer._is_vlm:
        raise ContraposeError("processing_class: models that see images are not supported; give a tokenizer")
    if trainer.aux_loss_enabled:
        raise ContraposeError(
            "GRPOConfig.router_aux_loss_coef: a mixture of experts would be trained without its auxiliary loss: set 0"
        )
    for name, module in trainer.model.named_modules():
        if any(_drops(module, key) and isinstance(rate, float) and rate > 0 for key, rate in vars(module).items()):
            raise ContraposeError(
                f"model: dropout is active in {name or type(module).__name__}, so that the pass that knows the credit "
                "and the one that uses it differ: set GRPOConfig(disable_dropout=True), or the rate to 0 in the "
                "model's configuration"
            )


def _drops(module: nn.Module, key: str) -> bool:
    """Whether an attribute is a rate of dropout: a layer's own, or one that a model passes to a function."""
    return "drop" in key or (key == "p" and isinstance(module, _DropoutNd))


def reward_index(correct: str | int | None, names: Sequence[str]) -> int:
    """Which of the reward functions says what is right."""
    if correct is None and len(names) == 1:
        return 0
    if isinstance(correct, int) and 0 <= correct < len(names):
        return correct
    if isinstance(correct, str) and names.count(correct) == 1:
        return names.index(correct)
    found = "several reward functions" if correct is None else f"{correct!r} is none of the reward functions"
    raise ContraposeError(
        f"correct: {found}: name the one whose 1 says that an answer is right, by name or index: {', '.join(names)}"
    )
