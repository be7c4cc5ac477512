"""verl's actor under our objectives: every rollout of a mini-batch gets its credit, whichever rank holds it.

A mini-batch carries, beside what verl's own loss reads, ``group`` (``[N]`` integers: which rollouts answer one prompt),
``reward`` and ``correct`` (``[N]``). Its groups must be whole across the ranks; which rank holds which rollout, and how
a rank cuts its own into micro-batches, is of no matter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.padding import no_padding_2_padding

from contrapose.integrations.groups import Credited, Rows, credit_rows
from contrapose.objectives.objective import Objective
from contrapose.objectives.trust import kl_seen
from contrapose.objectives.zoo import check_group_size
from contrapose.objectives.zoo import objective as objective_by_name
from contrapose.types import ContraposeError, Now

AT_OLD = "theta_is_theta_old"
"""Said by whoever had ``old_log_probs`` computed by this actor since its last optimizer step."""

SCHEDULE = "contrapose.json"

_per_rank = make_nd_compute_dataproto_dispatch_fn(mesh_name="train")


def credit_loss(model_output: Mapping[str, Tensor], data: TensorDict, **_: Any) -> tuple[Tensor, dict[str, Any]]:
    """``-(credit * logp).sum()`` of a micro-batch. The engine averages over ranks; the factor makes it a sum."""
    logp_NT = no_padding_2_padding(model_output["log_probs"], data)
    credit_NT = data["credit"][:, : logp_NT.shape[1]].to(logp_NT)
    return -(credit_NT * logp_NT).sum() * data["dp_size"], {}


class Ranks:
    """The rows of all data-parallel ranks, of which this one holds ``rows`` of ``length`` tokens at most."""

    def __init__(self, group: Any, rows: int, length: int) -> None:
        self._group, self._size = group, torch.distributed.get_world_size(group)
        shapes = self._all(torch.tensor([rows, length], device=get_device_id()))
        self._rows = [int(shape[0]) for shape in shapes]
        self._most, self._longest = (int(n) for n in torch.stack(shapes).amax(0))
        start = sum(self._rows[: torch.distributed.get_rank(group)])
        self.own = slice(start, start + rows)

    def gather(self, x: Tensor) -> Tensor:
        """``[n]`` or ``[n, t]`` of this rank to ``[N]`` or ``[N, T]`` of all, in the order of ranks."""
        shape = (self._most, self._longest)[: x.dim()]
        padded = x.new_zeros(shape, device=get_device_id())
        padded[tuple(slice(n) for n in x.shape)] = x.to(padded.device)
        return torch.cat([part[:n] for part, n in zip(self._all(padded), self._rows, strict=True)])

    def _all(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self._size)]
        torch.distributed.all_gather(parts, x, group=self._group)
        return parts


class CreditWorker(TrainingWorker):  # type: ignore[misc]
    """verl's training worker under an objective of ours; ``set_objective`` comes before the first update.

    ``progress`` counts calls of ``train_mini_batch``, as the learning rate's schedule does, against the optimizer's
    ``total_training_steps``. It and the trust region's coefficient are saved beside verl's own checkpoint.
    """

    def __init__(self, config: TrainingWorkerConfig) -> None:
        super().__init__(config)
        self.objective: Objective | None = None
        self.k, self.kl_coef = 0, 0.0
        self.steps = self.updates = 0
        self._at_old = False

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_objective(self, name: str, k: int, hyperparameters: dict[str, Any] | None = None) -> None:
        """Train by the objective ``name`` on groups of ``k`` rollouts. Raises ValueError or TypeError for a bad one."""
        self.objective, self.k = objective_by_name(name, **(hyperparameters or {})), k
        check_group_size(self.objective, name, k)
        if self.optimizer_config.total_training_steps < 1:
            raise ContraposeError("actor.optim.total_training_steps: must be set, schedules go by it")
        if getattr(self.engine_config, "pipeline_model_parallel_size", 1) > 1:
            raise ContraposeError(
                "actor.megatron.pipeline_model_parallel_size: must be 1, a stage without the head has no log-probs"
            )
        self.kl_coef = self.objective.start().kl_coef
        self.set_loss_fn(credit_loss)

    @property
    def now(self) -> Now:
        """Where training stands."""
        progress = min(1.0, self.steps / self.optimizer_config.total_training_steps)
        return Now(progress=progress, kl_coef=self.kl_coef)

    @register(dispatch_mode=_per_rank, blocking=False)
    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        """verl's, and one step of the schedule."""
        self._at_old = tu.pop(data, key=AT_OLD, default=False)
        output = super().train_mini_batch(data)
        self.steps += 1
        return output

    @register(dispatch_mode=_per_rank, blocking=False)
    def train_batch(self, data: TensorDict) -> TensorDict:
        """One optimizer step. Raises BrokenGroups, on every rank, where the ranks together hold a part of a group."""
        if self.objective is None:
            raise ContraposeError("set_objective: the worker was not told what to train by")
        at_old, self._at_old = self._at_old, False
        now = self.now
        credited = self._credit(self.objective, data, at_old, now)
        output = super().train_batch(data)
        self.updates += 1
        if not at_old:  # there the KL is 0 by construction and says nothing
            self.kl_coef = credited.adapted(self.objective, now).kl_coef
        if output is not None:
            kl = kl_seen(credited.logp_QKT, credited.plan)["token_mean"]
            seen = {"J": credited.J, "kl": kl, "kl_coef": now.kl_coef, "progress": now.progress}
            tu.get(output, "metrics").update(seen)
        return output

    def _credit(self, objective: Objective, data: TensorDict, at_old: bool, now: Now) -> Credited:
        """Put ``credit`` into ``data``."""
        mask_NT, old_NT = _dense(data["response_mask"]), _dense(data["old_log_probs"])
        ranks = Ranks(self.engine.get_data_parallel_group(), *mask_NT.shape)
        logp_NT = old_NT if at_old else self._logp(data)
        rows = Rows(
            group_N=ranks.gather(data["group"]),
            logp_NT=ranks.gather(logp_NT),
            old_NT=ranks.gather(old_NT),
            mask_NT=ranks.gather(mask_NT),
            reward_N=ranks.gather(data["reward"]),
            correct_N=ranks.gather(data["correct"]),
            reference_NT=ranks.gather(_dense(data["ref_log_prob"])) if objective.reads_reference else None,
        )
        lots = torch.Generator().manual_seed(self.engine_config.seed * 1_000_003 + self.updates)
        credited = credit_rows(objective, rows, self.k, now, lots)
        credit_NT = credited.credit_NT[ranks.own, : mask_NT.shape[1]].to(mask_NT.device)
        if "rollout_is_weights" in data:
            credit_NT = credit_NT * _dense(data["rollout_is_weights"])
        data["credit"] = credit_NT
        return credited

    def _logp(self, data: TensorDict) -> Tensor:
        """This rank's log-probs under the policy as it is, ``[n, t]``."""
        settings = {
            "use_remove_padding": self.model_config.get("use_remove_padding", False),
            "use_dynamic_bsz": self.engine_config.use_dynamic_bsz,
            "max_token_len_per_gpu": self.engine_config.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": self.engine_config.micro_batch_size_per_gpu,
            "use_fused_kernels": self.engine_config.use_fused_kernels,
        }
        tu.assign_non_tensor(data, **{key: value for key, value in settings.items() if key not in data})
        stay = tu.get(data, key="disable_auto_offload", default=False)
        with self.engine.eval_mode(disable_auto_offload=stay):
            found = self.engine.infer_batch(data, loss_function=None)["model_output"]["log_probs"]
        logp_NT: Tensor = no_padding_2_padding(found, data)
        return logp_NT

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_checkpoint(
        self, local_path: str, hdfs_path: str | None = None, global_step: int = 0, max_ckpt_to_keep: int | None = None
    ) -> None:
        """verl's, and where the schedules stand. Every rank writes the same: a node may have a disk of its own."""
        super().save_checkpoint(local_path, hdfs_path, global_step, max_ckpt_to_keep)
        state = {"steps": self.steps, "updates": self.updates, "kl_coef": self.kl_coef}
        written = Path(local_path, f"{SCHEDULE}.{torch.distributed.get_rank()}")
        written.write_text(json.dumps(state))
        os.replace(written, Path(local_path, SCHEDULE))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def load_checkpoint(
        self, local_path: str, hdfs_path: str | None = None, del_local_after_load: bool = False
    ) -> None:
        """verl's, and where the schedules stood. Raises ContraposeError where another worker saved it."""
        path = Path(local_path, SCHEDULE)
        if not path.exists():
            raise ContraposeError(
                f"{path}: not there, so this worker did not save the checkpoint: start from its weights instead "
                "(actor_rollout_ref.model.path)"
            )
        state = json.loads(path.read_text())
        super().load_checkpoint(local_path, hdfs_path, del_local_after_load)
        self.steps, self.updates, self.kl_coef = state["steps"], state["updates"], state["kl_coef"]


class ContrastWorker(ActorRolloutRefWorker):  # type: ignore[misc]
    """verl's hybrid worker with such an actor, under ``actor_rollout_ref.objective``."""

    actor_worker_cls = CreditWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """verl's, and the objective."""
        super().init_model()
        if self.actor is not None:
            settings = dict(self.config.objective)
            self.actor.set_objective(settings.pop("name"), self.config.rollout.n, settings)


def _dense(x: Tensor) -> Tensor:
    """``[n, t]`` in float32, jagged or not."""
    return (x.to_padded_tensor(0.0) if x.is_nested else x).float()
