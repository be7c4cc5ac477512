"""How many tokens a run samples and trains on, and how many hours that takes: operations over what a device is known to
do of them, and for decoding bytes over what it is known to read.

Every rate is assumed: a device's published peak times a share of it that was measured elsewhere (``docs/results.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contrapose.rollout.decode import MAX_ROWS
from contrapose.train.planning.job import GIB, Job
from contrapose.train.planning.memory import CONTEXT, FRAGMENTS
from contrapose.types import ContraposeError, nearest

TRAIN_SHARE, READ_SHARE = 0.3, 0.35
"""Of the peak of matrix products in an update, and of the peak of reading in decoding: on an H100 0.29 to 0.37 and 0.38
were measured, of what a product and a copy reached there (``docs/results.md``)."""


@dataclass(frozen=True)
class Gpu:
    """Published peaks: ``memory`` in GiB; 1e12 dense operations a second in bfloat16 and in float32 (torch does not
    round to TF32 by itself); 1e12 bytes a second."""

    memory: float
    tflops: float
    tflops_float32: float
    bandwidth: float


GPUS = {
    "h100": Gpu(80, 989, 67, 3.35),
    "h200": Gpu(141, 989, 67, 4.8),
    "a100-80": Gpu(80, 312, 19.5, 2.04),
    "a100-40": Gpu(40, 312, 19.5, 1.56),
    "l40s": Gpu(48, 362, 91.6, 0.86),
    "rtx4090": Gpu(24, 165, 82.6, 1.01),
    "rtx3090": Gpu(24, 71, 35.6, 0.94),
    "l4": Gpu(24, 121, 30.3, 0.30),
}
"""By name, of one memory the usual one first."""


@dataclass(frozen=True)
class Rates:
    """What a device does: operations and bytes a second, shares included."""

    operations: float
    bytes: float


def gpu_named(name: str, memory: float | None) -> str:
    """``name``, or, where there is none, the first of those with ``memory`` GiB, or that come nearest."""
    if name and name not in GPUS:
        raise ContraposeError(f"--gpu: {name!r} is not one of {', '.join(GPUS)}{nearest(name, list(GPUS))}")
    most = memory or GPUS["h100"].memory
    return name or min(GPUS, key=lambda known: abs(GPUS[known].memory - most))


def rates(job: Job, gpu: Gpu, tflops: float | None, bandwidth: float | None) -> Rates:
    """Those of ``gpu``, or given instead of its peaks."""
    products, reading = _peaks(job, gpu, tflops, bandwidth)
    return Rates(products * 1e12 * TRAIN_SHARE, reading * 1e12 * READ_SHARE)


def _peaks(job: Job, gpu: Gpu, tflops: float | None, bandwidth: float | None) -> tuple[float, float]:
    own = gpu.tflops if job.narrow == 2 else gpu.tflops_float32
    return tflops or own, bandwidth or gpu.bandwidth


@dataclass(frozen=True)
class Work:
    """Tokens of a step: ``sampled``, and ``trained`` on; seconds of its ``sampling`` and of its ``updates``, as all
    devices share them."""

    sampled: float
    trained: float
    sampling: float
    updates: float


def work_of(job: Job, rates: Rates, accepted: float) -> Work:
    """A step's. ``accepted`` is the share of drawn groups that are trained on."""
    groups, k = job.config.batch.prompts, job.config.rollout.k
    trained = groups * k * job.length
    sampled = trained / accepted
    sampling = _sampling(job, rates, groups / accepted)
    operations = sum(times * forward for times, forward in zip(_passes(job), _forward(job), strict=True))
    return Work(sampled, trained, sampling, groups * operations / rates.operations / job.devices.count)


def _forward(job: Job) -> tuple[float, float]:
    """Operations of a pass over a group, its prompt once: the layers', and the head's.

    Two for each weight and token. Attention: four for each value of the heads and pair of tokens, half of which see
    each other; rows attend with their prompt, each for itself.
    """
    shape, k, long = job.shape, job.config.rollout.k, job.prompt + job.length
    tokens = job.prompt + k * job.length
    matrices = 2 * tokens * sum(a * b for a, b in shape.matrices.values())
    attention = k * 2 * shape.heads * shape.head_size * long**2
    return shape.layers * (matrices + attention), 2 * k * job.length * shape.table


def _passes(job: Job) -> tuple[float, float]:
    """How often a step's tokens go through the layers, and through the head, counted in passes forward."""
    config, exact = job.config, job.embedded and job.narrow > 2
    looks = 0.0 if exact and not config.rollout.is_cap else 1.0  # old log-probs of the trainer's own
    whole_group = job.objective.coupling in ("group", "step")
    looks += (1 - 1 / config.batch.updates) * whole_group  # scores before the credit
    looks += job.objective.reads_reference
    looks += 1 / config.diagnose.every if config.diagnose.every else 0
    pushed = 2 if config.lora.rank else 3  # forth, and back to the states and to the weights
    return looks + pushed + config.model.gradient_checkpointing, looks + pushed


def _sampling(job: Job, rates: Rates, groups: float) -> float:
    """Seconds: at each step of decoding all weights are read, and the keys and values of all rows; a prompt's once for
    its group. Or, where that takes longer, the operations."""
    shape, k, length = job.shape, job.config.rollout.k, job.length
    devices = job.devices.count
    rollouts = groups * k / devices
    rows = min(rollouts, _rows(job))
    steps = rollouts / rows * length
    weights = (shape.layers * shape.layer + shape.table) * job.narrow
    past = rollouts * length * (length / 2 + job.prompt / k) * shape.past * job.narrow
    read = (steps * weights + past) / rates.bytes
    layers, head = _forward(job)
    return max(read, groups / devices * (layers + head) / rates.operations)


def _rows(job: Job) -> float:
    """Rollouts side by side on a device; of vLLM, as many as its share of the memory holds (its servers: 0.9)."""
    if job.embedded:
        return job.side_by_side
    rollout = job.config.rollout
    share = 0.9 if rollout.servers else rollout.gpu_share
    room = share * job.devices.memory - job.shape.weights * job.narrow
    return max(1.0, min(MAX_ROWS, room / ((job.prompt + job.length) * job.shape.past * job.narrow)))


def assumptions(job: Job, name: str, gpu: Gpu, given: Mapping[str, float | None], accepted: float) -> list[str]:
    """What the estimate takes for granted, line by line."""
    tflops, bandwidth = _peaks(job, gpu, **given)
    return [
        f"{name}: {tflops:g} TFLOP/s (--tflops), {TRAIN_SHARE:.0%} of it in updates; {bandwidth:g} TB/s (--bandwidth), "
        f"{READ_SHARE:.0%} of it in decoding",
        f"prompts of {job.prompt:,} tokens (--prompt), answers of {job.length:,} (--length)",
        f"{accepted:.0%} of the groups drawn are trained on (--accepted)",
        "graders, evaluations, checkpoints, starting and exchange between devices are not in the hours",
        f"{CONTEXT / GIB:g} GiB for context and libraries, and {100 * FRAGMENTS:g} % of the rest lost between "
        "allocations",
    ]
