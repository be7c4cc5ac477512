"""Which setting to change where a run does not fit: the cheapest first, and what it saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from contrapose.config import merge
from contrapose.train.planning.job import Job
from contrapose.train.planning.memory import memory_of
from contrapose.validation import validate

Change = tuple[str, Any, str]
"""A key, its value, and what that costs."""


@dataclass(frozen=True)
class Mend:
    """Settings as ``--set`` takes them, what they save, and what they cost."""

    sets: tuple[str, ...]
    saves: float
    costs: tuple[str, ...]


def mends(job: Job, room: float) -> Mend | None:
    """The fewest of the cheapest changes that make ``job`` fit into ``room`` bytes; None where all are not enough.

    Changes are added, the cheapest first, until it fits; then those that it fits without are left out again.
    """
    taken: list[Change] = []
    for change in _changes(job):
        taken.append(change)
        if memory_of(_with(job, taken)).peak <= room:
            break
    else:
        return None
    for change in list(taken):
        without = [other for other in taken if other is not change]
        if memory_of(_with(job, without)).peak <= room:
            taken = without
    saves = memory_of(job).peak - memory_of(_with(job, taken)).peak
    return Mend(tuple(f"{key}={_shown(value)}" for key, value, _ in taken), saves, tuple(cost for *_, cost in taken))


def _changes(job: Job) -> Iterator[Change]:
    """Settings that save memory, the cheapest first."""
    config, gpu = job.config, job.devices.gpu
    longest = job.prompt + job.length
    if config.parallel.shard and job.devices.count > 1:
        yield "parallel.shard", 0, "weights travel between all devices"
    if gpu and config.model.dtype == "float32" and not config.model.compute:
        yield "model.compute", "bfloat16", "products are rounded; faster"
    if config.batch.max_tokens > longest:
        yield "batch.max_tokens", longest, "smaller products"
    if job.embedded and config.rollout.cache_gib > 2:
        yield "rollout.cache_gib", 2.0, "fewer rollouts side by side: slower sampling"
    if not config.model.gradient_checkpointing:
        yield "model.gradient_checkpointing", True, "a third more operations in updates"
    if config.optim.moments == "full" and not config.lora.rank:
        yield "optim.moments", "8bit", "moments are rounded"
    if gpu and not config.parallel.offload:
        yield "parallel.offload", True, "weights and gradients travel to the host and back at each pass"
    if not config.lora.rank:
        yield "lora.rank", 32, "adapters are trained, and not the weights"


def _with(job: Job, changes: Sequence[Change]) -> Job:
    tree: dict[str, Any] = job.config.model_dump()
    for key, value, _ in changes:
        section, _, name = key.partition(".")
        tree = merge(tree, {section: {name: value}})
    return replace(job, config=validate(tree))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
