"""verl's synchronous trainer under our objectives: whole groups in every mini-batch, prompts drawn by the pool.

Loaded by ``VERL_USE_EXTERNAL_MODULES=contrapose.integrations.verl.trainer``; chosen by
``trainer.v1.trainer_mode=contrapose``.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions, log_seqlen_unbalance

from contrapose.integrations.groups import BrokenGroups
from contrapose.integrations.verl.buffer import ContrastBuffer, uid_of
from contrapose.integrations.verl.worker import AT_OLD, ContrastWorker
from contrapose.objectives.zoo import check_group_size, objective
from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.types import ContraposeError, Prompt

PROMPTS = "prompts.json"
MAX_ROUNDS = 20


def whole_minibatches(groups: list[list[int]], lengths: list[int], minibatch: int, ranks: int) -> list[list[int]]:
    """Which rows each rank gets, in order, so that every mini-batch of ``minibatch`` groups is whole over the ranks.

    ``groups`` holds the rows of each group and ``lengths`` the tokens of each row. Within a mini-batch a group may be
    spread over ranks, which levels their work. verl cuts what a rank got into mini-batches of equal size.
    """
    rows_of: list[list[int]] = [[] for _ in range(ranks)]
    for start in range(0, len(groups), minibatch):
        rows = [row for group in groups[start : start + minibatch] for row in group]
        work = calculate_workload(torch.tensor([lengths[row] for row in rows]))
        for own, share in zip(rows_of, get_seqlen_balanced_partitions(work, ranks, equal_size=True), strict=True):
            own += [rows[i] for i in share]
    return rows_of


@register_trainer("contrapose")
class ContrastTrainer(PPOTrainerSync):  # type: ignore[misc]
    """verl's V1 trainer, synchronous; its filter is ``trainer.v1.sampler.sampler_kwargs.filter``."""

    replay_buffer: ContrastBuffer

    def __init__(self, config: DictConfig) -> None:
        check(config)
        config.trainer.v1.trainer_mode = "sync"  # what verl branches on
        super().__init__(config)

    def _build_replay_buffer(self) -> ContrastBuffer:
        sampler = self.config.trainer.v1.sampler
        return ContrastBuffer(
            self.config.actor_rollout_ref.rollout.n,
            sampler.sampler_kwargs.get("max_rounds", MAX_ROUNDS),
            trainer_mode=self.trainer_mode,
            trainer_config=self.config.trainer.v1.sync,
            max_off_policy_threshold=None,
            max_off_policy_strategy=sampler.max_off_policy_strategy,
            sampler_kwargs=sampler.sampler_kwargs,
            refill_fn=self._add_prompts_to_generate,
            train_batch_size=self.config.data.train_batch_size,
        )

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        prompts = [Prompt(str(i), "", "") for i in range(len(self.train_dataset))]
        settings = self.config.trainer.v1.sampler.sampler_kwargs
        thresholds = Thresholds(**settings.get("filter", {}))
        self.replay_buffer.pool = PromptPool(prompts, thresholds, settings.get("seed", 0), settings.get("cache", True))

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping.keys() - {Role.Critic}:
            self.role_worker_mapping[role] = ray.remote(ContrastWorker)

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """The rows of the prompts that the pool draws."""
        uids = [str(uuid.uuid4()) for _ in range(num_prompts or self.config.data.train_batch_size)]
        rows = collate_fn([self.train_dataset[int(prompt.id)] for prompt in self.replay_buffer.draw(uids)])
        rows["uid"] = np.array(uids, dtype=object)
        batch = tu.get_tensordict(rows)
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        return batch

    def _balance_batch(
        self, batch: KVBatchMeta, metrics: dict[str, Any], logging_prefix: str = "global_seqlen", **_: Any
    ) -> KVBatchMeta:
        """verl's levels the ranks and tears groups apart; this levels them mini-batch by mini-batch."""
        k, minibatch = self.config.actor_rollout_ref.rollout.n, self.config.actor_rollout_ref.actor.ppo_mini_batch_size
        workers = self.actor_rollout_wg
        if "actor" not in workers._dispatch_info:
            workers._dispatch_info["actor"] = workers._query_dispatch_info("actor")
        ranks = max(workers._dispatch_info["actor"]) + 1
        groups: dict[str, list[int]] = {}
        for row, key in enumerate(batch.keys):
            groups.setdefault(uid_of(key), []).append(row)
        if torn := [uid for uid, rows in groups.items() if len(rows) != k]:
            raise BrokenGroups(f"group {torn[0]} has {len(groups[torn[0]])} rows in the batch, not rollout.n = {k}")
        if minibatch * k % ranks:
            raise ContraposeError(
                f"actor.ppo_mini_batch_size: {minibatch} groups of {k} cannot be shared by {ranks} data-parallel ranks"
            )
        lengths = [tag["seq_len"] for tag in batch.tags]
        rows_of = whole_minibatches(list(groups.values()), lengths, minibatch, ranks)
        metrics.update(log_seqlen_unbalance(seqlen_list=lengths, partitions=rows_of, prefix=logging_prefix))
        batch.reorder([row for rows in rows_of for row in rows])
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's, which its metrics read, and what the actor asks for."""
        batch = super()._compute_advantage(batch, metrics)
        numbers = {uid: i for i, uid in enumerate(dict.fromkeys(uid_of(key) for key in batch.keys))}
        verdicts = [self.replay_buffer.verdicts[key] for key in batch.keys]
        rows = {
            "group": torch.tensor([numbers[uid_of(key)] for key in batch.keys]),
            "reward": torch.tensor([v.reward for v in verdicts]),
            "correct": torch.tensor([v.correct for v in verdicts]),
        }
        fields = TensorDict(rows, batch_size=len(verdicts))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's. The actor has just computed the old log-probs, unless they are the engine's that sampled."""
        bypassed = OmegaConf.select(self.config, "algorithm.rollout_correction.bypass_mode")
        batch.extra_info[AT_OLD] = not bypassed
        return super()._update_actor(batch, metrics)

    def _save_checkpoint(self) -> None:
        """verl's, which ends by saying that all is there; the pool comes before it."""
        path = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}", PROMPTS)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.replay_buffer.pool.state_dict()))
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if not self.global_steps:
            return
        trainer = self.config.trainer
        latest = Path(trainer.default_local_dir, f"global_step_{self.global_steps}")
        path = Path(trainer.resume_from_path if trainer.resume_mode == "resume_path" else latest, PROMPTS)
        if not path.exists():
            raise ContraposeError(f"{path}: not there, so this trainer did not save the checkpoint: start a new run")
        self.replay_buffer.pool.load_state_dict(json.loads(path.read_text()))


def check(config: DictConfig) -> None:
    """Raise ContraposeError where settings of verl would be ignored, or would tear groups apart."""
    actor, key = config.actor_rollout_ref.actor, "actor_rollout_ref.actor"
    settings = dict(config.actor_rollout_ref.get("objective") or {})
    if "name" not in settings:
        raise ContraposeError("actor_rollout_ref.objective: must name the objective: {name: rence}")
    name = settings.pop("name")
    try:
        built = objective(name, **settings)
        check_group_size(built, name, config.actor_rollout_ref.rollout.n)
    except (TypeError, ValueError) as error:
        raise ContraposeError(f"actor_rollout_ref.{error}") from None
    reads = built.reads_reference
    wrong = {
        f"{key}.shuffle: must be false, it shuffles each rank in its own way": actor.shuffle,
        f"{key}.entropy_coeff: must be 0, these objectives have no entropy term": actor.entropy_coeff,
        f"{key}.use_kl_loss: must be {str(reads).lower()}, since the objective reads "
        f"{'a' if reads else 'no'} reference's log-probs": actor.use_kl_loss != reads,
        "algorithm.use_kl_in_reward: must be false, the KL is the objective's": config.algorithm.use_kl_in_reward,
        f"data.train_batch_size: must be a multiple of {key}.ppo_mini_batch_size": (
            config.data.train_batch_size % actor.ppo_mini_batch_size
        ),
        "reward.reward_model.enable: must be false, groups are judged before it would grade them": (
            OmegaConf.select(config, "reward.reward_model.enable")
        ),
    }
    if found := [text for text, is_so in wrong.items() if is_so]:
        raise ContraposeError(found[0])
