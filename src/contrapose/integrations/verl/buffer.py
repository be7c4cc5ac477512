"""Which groups verl trains on: a replay buffer that judges each by the prompt pool, and keeps whole groups alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from contrapose.prompts.pool import PromptPool
from contrapose.types import FAULTS, ContraposeError, Fate, Group, PoolExhausted, Prompt, Verdict

FATES: tuple[Fate, ...] = ("train", "too_hard", "too_easy", "mastered")


def uid_of(key: str) -> str:
    """The group of a trajectory, whose key is ``{uid}_{session}_{index}``."""
    return key.rsplit("_", 2)[0]


class ContrastBuffer(ReplayBuffer):  # type: ignore[misc]
    """verl's buffer with ReNCE's filter (Eq. 3) in place of DAPO's; it draws the prompts too, as the pool says.

    A group that is not trained on is evicted and two prompts are drawn for it; one of which rollouts failed, or that
    has not ``k``, is evicted and replaced by one. When enough groups are accepted no more are drawn, those under way
    are waited for, and the batch is filled in the order of drawing, so that a short answer is no advantage. Surplus
    prompts are drawn first next time. The pool is set once the data are known.
    """

    pool: PromptPool

    def __init__(self, k: int, max_rounds: int, **settings: Any) -> None:
        super().__init__(filter_groups_metric="fate", gen_batch_size=1, **settings)
        self._k, self._max_rounds = k, max_rounds
        self.prompt_of: dict[str, Prompt] = {}  # by uid, in the order of drawing
        self.verdicts: dict[str, Verdict] = {}  # by trajectory
        self._fates: dict[str, Fate] = {}

    def draw(self, uids: Iterable[str]) -> list[Prompt]:
        """As many prompts as there are ``uids``, which name their groups.

        Raises PoolExhausted when all are mastered, or ``max_rounds`` batches were drawn and the filter left too few.
        """
        uids, drawn = list(uids), list[Prompt]()
        if len(self.prompt_of) + len(uids) > self._max_rounds * self.train_batch_size:
            raise PoolExhausted(
                f"trainer.v1.sampler.sampler_kwargs.max_rounds: only {Counter(self._fates.values())['train']} of "
                f"{self.train_batch_size} groups were accepted of {len(self.prompt_of)} drawn: raise it, widen "
                "filter.t_hard to filter.t_easy, or lower data.train_batch_size"
            )
        while len(drawn) < len(uids):  # a pool gives fewer at the end of an epoch
            drawn += self.pool.draw(len(uids) - len(drawn))
        self.prompt_of.update(zip(uids, drawn, strict=True))
        return drawn

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """verl's; with what became of the groups that were drawn."""
        if partition_id == "val":
            return super().sample(global_steps, partition_id, batch_size)  # type: ignore[no-any-return]
        self.verdicts.clear()
        self._fates.clear()
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        counts = Counter(self._fates.values())
        metrics |= {f"contrapose/{fate}": counts[fate] for fate in FATES}
        metrics["contrapose/prompts_mastered"] = self.pool.mastered
        metrics["contrapose/accuracy"] = sum(v.correct for v in self.verdicts.values()) / max(1, len(self.verdicts))
        self.prompt_of.clear()
        return batch, metrics

    def _terminal_eviction_reasons(
        self, global_steps: int, partition_id: str
    ) -> tuple[set[str], set[str], set[str], Counter[Any]]:
        """Stale groups (none), those not to be trained on, those that are not whole."""
        if partition_id == "val":
            return set(), set(), set(), Counter()
        keys: dict[str, list[str]] = {uid: [] for uid in self.finished_keys[partition_id]}
        for key in self.partitions[partition_id]:
            if (uid := uid_of(key)) in keys:
                keys[uid].append(key)
        broken = {uid for uid, own in keys.items() if len(own) != self._k}
        new = {uid: own for uid, own in keys.items() if uid not in broken and uid not in self._fates}
        if new:
            self._judge(new, partition_id)
        unwanted = {uid for uid in keys.keys() - broken if self._fates[uid] != "train"}
        return set(), unwanted, broken | self.failure_keys[partition_id], Counter()

    def _judge(self, keys: Mapping[str, list[str]], partition_id: str) -> None:
        every = [key for own in keys.values() for key in own]
        found = tq.kv_batch_get(keys=every, partition_id=partition_id, select_fields=["rm_scores", "extra_fields"])
        for key, score, extra in zip(every, found["rm_scores"], found["extra_fields"], strict=True):
            self.verdicts[key] = _verdict(float(score.sum()), getattr(extra, "data", extra))
        for uid in sorted(keys, key=list(self.prompt_of).index):
            group = Group(self.prompt_of[uid], (), tuple(self.verdicts[key] for key in keys[uid]))
            self._fates[uid] = self.pool.judge(group)

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict[str, Any]], dict[str, int]]:
        """The first that were accepted, and their rows, in the order of drawing: mini-batches follow it."""
        if partition_id == "val":
            return super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)  # type: ignore[no-any-return]
        accepted = [uid for uid in self.prompt_of if uid in sampleable_keys]
        self.pool.put_back(self.prompt_of[uid] for uid in accepted[batch_size:])
        rows: dict[str, list[str]] = {uid: [] for uid in accepted[:batch_size]}
        for key in self.partitions[partition_id]:
            if uid_of(key) in rows:
                rows[uid_of(key)].append(key)
        tags = {key: self.partitions[partition_id][key] for keys in rows.values() for key in keys}
        return list(rows), tags, dict(self.prompt_global_steps[partition_id])


def _verdict(reward: float, extra: Mapping[str, Any]) -> Verdict:
    """What the reward function said. Raises ContraposeError where it does not say what is right."""
    said = extra.get("reward_extra_info", {})
    if "acc" not in said:
        raise ContraposeError("reward.custom_reward_function: must return 'acc' beside 'score': 1 for a right answer")
    correct = bool(said["acc"] == 1)
    status = said.get("status")
    return Verdict(reward, correct, None, status if status in FAULTS else "correct" if correct else "wrong", 0.0)
