"""TRL's ``GRPOTrainer`` with any objective in place of its loss.

TRL samples, scores, shuffles and splits as it always does. At the start of each accumulation window (the micro-batches
of one optimizer step, on all ranks) the log-probs of its rows are gathered and their credit is computed; the loss of a
micro-batch is ``-(credit * logp).sum()``. So a group may lie over micro-batches and ranks in any way.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import split_tensor_dict

from contrapose.integrations.groups import Credited, Rows, credit_rows
from contrapose.integrations.trl_settings import check_model, check_settings, objective_of, reward_index
from contrapose.integrations.verified import verified
from contrapose.objectives.contrast import partition
from contrapose.objectives.diagnose import auc, gap, mean_logp
from contrapose.objectives.objective import Objective
from contrapose.objectives.trust import kl_seen
from contrapose.types import SAME_REWARD, ContraposeError, Now

__all__ = ["ContrastiveTrainer", "verified"]

KEPT = "contrapose"
"""Under this name the trainer's state, which TRL saves and restores, keeps the trust region's coefficient."""

MicroBatch = dict[str, Tensor]


class ContrastiveTrainer(GRPOTrainer):  # type: ignore[misc]
    """``GRPOTrainer`` that maximises an objective: its name, with its hyper-parameters as keyword arguments, or an
    ``Objective``.

    ``correct`` names the reward function, by name or index, whose 1 says that an answer is right; it may have weight 0.
    It may be left out where there is only one, whose 1 it is then. Everything else is as in ``GRPOTrainer``. Raises
    ContraposeError at settings of TRL's own loss, which would be of no effect, and at those under which the credit
    would not be exact.
    """

    _name = "ContrastiveTrainer"
    _tag_names = ("trl", "contrapose")
    _paper: ClassVar[dict[str, str]] = {}
    _buffered_inputs: list[MicroBatch] | None

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: GRPOConfig,
        *,
        objective: str | Objective,
        correct: str | int | None = None,
        **rest: Any,
    ) -> None:
        theirs = inspect.signature(GRPOTrainer).parameters
        own = {key: rest.pop(key) for key in list(rest) if key not in theirs}
        self.objective = objective_of(objective, own, args.max_completion_length, list(theirs))
        check_settings(args)
        if self.objective.reads_reference:
            args = copy(args)
            args.beta = 1.0  # makes TRL load the reference, and is of no other effect
        super().__init__(model, reward_funcs, args, **rest)
        self.correct = reward_index(correct, self.reward_func_names)
        check_model(self)
        self._worth_NF = torch.empty(0)
        self._fresh = False  # whether nothing was learned since the rollouts were sampled

    @property
    def now(self) -> Now:
        """Where training stands; read off the trainer's state, so that it is saved and restored with it."""
        start = self.objective.start()
        kept = self.state.stateful_callbacks.get(KEPT, {"attributes": {"kl_coef": start.kl_coef}})
        progress = min(1.0, self.state.global_step / max(1, self.state.max_steps))
        return replace(start, progress=progress, kl_coef=kept["attributes"]["kl_coef"])

    def _keep(self, now: Now) -> None:
        self.state.stateful_callbacks[KEPT] = {"args": {}, "attributes": {"kl_coef": now.kl_coef}}

    def _calculate_rewards(self, *given: Any) -> Tensor:
        """Each reward function's reward of the rollouts of all ranks, ``[N, F]``; NaN where it has none to give."""
        self._worth_NF = super()._calculate_rewards(*given)
        return self._worth_NF

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> MicroBatch:
        batch: MicroBatch = super()._generate_and_score_completions(inputs)
        training = self.model.training
        worth_NF, count = self._worth_NF, len(batch["completion_ids"])
        if bool(worth_NF.isinf().any()):
            name = self.reward_func_names[int(worth_NF.isinf().any(0).nonzero()[0])]
            raise ContraposeError(f"reward function {name!r}: a reward is infinite, where a number is needed or None")
        weight_F = self.reward_weights.to(worth_NF.device)
        right_N = worth_NF[:, self.correct]
        at_N = torch.arange(len(worth_NF), device=worth_NF.device)
        k = self.num_generations if training else self.num_generations_eval
        rows = {
            "group": at_N // k,
            "reward": (worth_NF * weight_F).nansum(1),
            "correct": right_N >= 1 - SAME_REWARD,
            "present": ~(right_N.isnan() | worth_NF.isnan().all(1)),
        }
        self._fresh = training
        return batch | {key: x[self._own(count)] for key, x in rows.items()}

    def _prepare_inputs(self, generation_batch: Any) -> MicroBatch:
        inputs: MicroBatch = super()._prepare_inputs(generation_batch)
        if not self.model.training:
            return inputs
        at: int = self._step % self.args.steps_per_generation
        window: int = self.args.gradient_accumulation_steps
        batches = self._buffered_inputs or []
        if self._fresh and window < len(batches):
            self._buffered_inputs = batches = in_groups(batches)
        if self._step % window == 0:
            self._credit(batches[at : at + window])
        return batches[at]

    def _credit(self, window: Sequence[MicroBatch]) -> None:
        """Store in each micro-batch of an optimizer step the credit of its rows, and its share of J."""
        fresh, self._fresh = self._fresh, False
        known = fresh and "old_per_token_logps" in window[0]
        logps = [batch["old_per_token_logps"] if known else self._first_pass(batch) for batch in window]
        for batch, logp_NT in zip(window, logps, strict=True):
            batch.setdefault("old_per_token_logps", logp_NT)  # TRL leaves it out where a generation is one step
        now = self.now
        found, credit_NT = self._credited(window, logps, now, self.num_generations)
        if not fresh:  # at pi_old the KL is 0 by construction and says nothing
            self._keep(found.adapted(self.objective, now))
        for batch, part_NT in zip(window, credit_NT.split([len(x) for x in logps]), strict=True):
            ratio = batch.get("importance_sampling_ratio")  # of our log-probs to vLLM's
            batch["credit"] = part_NT if ratio is None else part_NT * ratio
            batch["J"] = part_NT.new_tensor(found.J / len(window))

    def _credited(
        self, batches: Sequence[MicroBatch], logps: Sequence[Tensor], now: Now, k: int
    ) -> tuple[Credited, Tensor]:
        """The credit of the rows of all ranks, and that of this rank's alone, ``[N, T]``."""

        def gathered(parts: Sequence[Tensor]) -> Tensor:
            x = torch.cat(list(parts))
            x = x if x.dim() == 1 else self.accelerator.pad_across_processes(x, dim=1)
            return self.accelerator.gather(x)  # type: ignore[no-any-return]

        def every(key: str) -> Tensor:
            return gathered([batch[key] for batch in batches])

        rows = Rows(
            group_N=every("group"),
            logp_NT=gathered(logps),
            old_NT=every("old_per_token_logps"),
            mask_NT=gathered([response_mask(batch) for batch in batches]),
            reward_N=every("reward"),
            correct_N=every("correct"),
            reference_NT=every("ref_per_token_logps") if self.objective.reads_reference else None,
            present_N=every("present"),
        )
        pairs = torch.Generator().manual_seed(self.args.seed + self.state.global_step)
        found = credit_rows(self.objective, rows, k, now, pairs)
        self._note(found, now)
        return found, found.credit_NT[self._own(sum(map(len, logps))), : logps[0].shape[1]]

    def _own(self, count: int) -> slice:
        """Where this rank's ``count`` rows are among those of all."""
        return slice(self.accelerator.process_index * count, (self.accelerator.process_index + 1) * count)

    def _note(self, found: Credited, now: Now) -> None:
        """What TRL logs of an update."""
        plan, logp_QKT = found.plan, found.logp_QKT
        side_QK = partition(plan.batch, "correct")
        numbers = {
            "J": found.J,
            "kl": kl_seen(logp_QKT, plan)["token_mean"],
            "kl_coef": now.kl_coef,
            "progress": now.progress,
            "accuracy": float(plan.batch.correct_QK[plan.batch.present_QK].double().mean()),
            "mixed_groups": float(side_QK.any(1).double().mean()),
            "score_gap": float(gap(self.objective.scores(logp_QKT, plan), side_QK).mean()),
            "likelihood_auc": float(auc(mean_logp(logp_QKT, plan.batch), side_QK).mean()),
            "pull": float(found.credit_NT.clamp(min=0).sum()),
            "push": -float(found.credit_NT.clamp(max=0).sum()),
        }
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, number in numbers.items():
            metrics[f"contrast/{name}"].append(number)  # those that are NaN are left out of TRL's means

    @torch.no_grad()
    def _first_pass(self, batch: MicroBatch) -> Tensor:
        """The log-probs of a micro-batch under the policy as it is."""
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            return self._log_probs(self.model, batch)[0]

    def _log_probs(self, model: Any, batch: MicroBatch, entropy: bool = False) -> tuple[Tensor, Any]:
        """``[N, T]`` each (nats), of logits divided by the temperature; 0 where nothing was chosen."""
        ids, attended = (
            torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], dim=1) for what in ("ids", "mask")
        )
        width = batch["completion_ids"].shape[1]
        found = self._get_per_token_logps_and_entropies(model, ids, attended, width, compute_entropy=entropy)
        return found[0], found[1]

    def _compute_loss(self, model: Any, inputs: MicroBatch) -> Tensor:
        """A loss whose gradient, over a window and all ranks, is that of -J; so is its value."""
        logp_NT, entropy_NT = self._log_probs(model, inputs, entropy=True)
        self._note_entropy(entropy_NT, response_mask(inputs))
        if not self.model.training:
            sampled = {**inputs, "old_per_token_logps": logp_NT}
            found, _ = self._credited([sampled], [logp_NT], self.now, self.num_generations_eval)
            return logp_NT.new_tensor(-found.J)
        pushed: Tensor = (
            inputs["credit"] * logp_NT
        ).sum() * self.accelerator.num_processes  # of which DDP takes the mean
        return pushed.detach() - pushed - inputs["J"]

    def _note_entropy(self, entropy_NT: Tensor, mask_NT: Tensor) -> None:
        sums = torch.stack([(entropy_NT * mask_NT).sum(), mask_NT.sum().to(entropy_NT)]).detach()
        total, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        self._metrics["train" if self.model.training else "eval"]["entropy"].append(total / max(1, tokens))


def response_mask(batch: MicroBatch) -> Tensor:
    """1 on tokens that the policy chose itself, ``[N, T]``."""
    mask_NT = batch["completion_mask"]
    return mask_NT * batch["tool_mask"] if "tool_mask" in batch else mask_NT


def in_groups(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """The same rows, dealt anew so that those of a group follow one another: a window then holds whole groups."""
    order_N = torch.cat([batch["group"] for batch in batches]).argsort(stable=True)
    dealt = {
        key: x if x.dim() == 0 else torch.cat([batch[key] for batch in batches])[order_N]
        for key, x in batches[0].items()
    }
    return split_tensor_dict(dealt, len(batches))  # type: ignore[no-any-return]
