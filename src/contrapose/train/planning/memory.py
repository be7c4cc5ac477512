"""How much memory a run takes on each device, part by part, from what lives when. Bytes throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contrapose.rollout.cached import KEPT_BYTES, LEAST, PREFILL_TOKENS
from contrapose.rollout.captured import KEPT_SHARE
from contrapose.train.planning.activations import activations
from contrapose.train.planning.job import GIB, Job

Parts = Mapping[str, float]
"""What takes memory, by name."""

PACKED = 1 + 4 / 256
"""Bytes of a moment of 8 bits: there is a scale for each 256."""

HOST_TOKEN = 80
"""Bytes of Python's lists for a sampled token: its id (32 and a pointer), its log-prob (24 and a pointer), its mask."""

CONTEXT = 1.5 * GIB
"""Of a GPU, for its context, libraries and exchange with others: assumed."""

FRAGMENTS = 0.05
"""Of what torch allocates on a GPU, lost between allocations: assumed."""

FREED = 0.2
"""Of what is in use on a CPU, idle beside it: the C library keeps what was freed (``policy/native.py``), which does not
always fit what is asked for next. ``benchmarks/memory.py`` measured 12 to 45 %."""


@dataclass(frozen=True)
class Memory:
    """What one rank holds at the peak of each phase, and what the host holds for it."""

    phases: Mapping[str, Parts]
    host: Parts

    @property
    def peak_phase(self) -> str:
        """The phase that takes the most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        """The most."""
        return sum(self.phases[self.peak_phase].values())


def memory_of(job: Job) -> Memory:
    """The memory that ``job`` takes."""
    held = _held(job)
    sampling = {name: size for name, size in held.items() if name != "gradients"} | _sampling(job)
    pushed = activations(job)
    update = {**held, **_gathered(job), **_kept_past(job), **_dense(job), **pushed}
    if job.at_once and "gradients" in held:  # they come as what was kept goes
        update["gradients"] = max(0.0, held["gradients"] - next(iter(pushed.values())))
    phases = {"sampling": sampling, "update": update}
    host = _host(job)
    for parts in phases.values():
        if job.devices.gpu:
            parts["context and fragments (assumed)"] = CONTEXT + FRAGMENTS * sum(parts.values())
        else:
            parts.update(host)
            parts["freed but kept (assumed)"] = FREED * sum(parts.values())
    return Memory(phases, host if job.devices.gpu else {})


def _held(job: Job) -> dict[str, float]:
    """What is there all the time, from the second update on; gradients are there in updates."""
    shape, split, parallel = job.shape, job.split, job.config.parallel
    frozen = shape.weights if job.config.lora.rank else 0
    own = {
        "weights": (job.trained * job.learned + frozen * job.wide) / split,
        "gradients": job.trained * job.learned / split,
        "moments": 2 * job.trained * _moment(job) / split,
    }
    held = {} if parallel.offload else own
    if job.objective.reads_reference:
        held["reference"] = shape.weights * job.wide / split
    if not job.embedded and not job.config.rollout.servers:
        held["vLLM"] = job.config.rollout.gpu_share * job.devices.memory
    if job.gathered or job.config.lora.rank:
        held["copy to sample from"] = shape.weights * job.narrow
    return held


def _moment(job: Job) -> float:
    return PACKED if job.config.optim.moments == "8bit" else job.learned


def _gathered(job: Job) -> dict[str, float]:
    """Two layers and what is outside of them, as they are computed with; the gradients of one and of that, and the
    larger of the two once more in float32, as gradients are added up."""
    shape = job.shape
    if not job.gathered:
        return {}
    gradients = (shape.layer + shape.ends) * job.narrow + max(shape.layer, shape.ends) * 4
    weights = (2 * shape.layer + shape.ends) * job.narrow
    return {"gathered weights, their gradients": float(weights + (0 if job.config.lora.rank else gradients))}


def _host(job: Job) -> dict[str, float]:
    """What a rank has in the host's memory."""
    config, shape = job.config, job.shape
    rollouts = -(-config.batch.prompts // job.devices.count) * config.rollout.k
    found = {"rollouts as lists": float(rollouts * job.length * HOST_TOKEN)}
    if config.parallel.offload and job.devices.gpu:
        bytes_each = 2 * job.learned + 2 * _moment(job)
        frozen = shape.weights * job.wide if config.lora.rank else 0
        found["weights, gradients, moments"] = (job.trained * bytes_each + frozen) / job.split
    return found


def _past(job: Job) -> float:
    """The cache of keys and values for all rows that are sampled side by side."""
    rows = job.side_by_side if job.devices.gpu else max(job.side_by_side, LEAST)
    return float(rows * (job.prompt + job.length) * job.shape.past * job.narrow)


def _kept_past(job: Job) -> dict[str, float]:
    """What sampling leaves: a cache that is small, and on a GPU the matrices that it joined and the last logits."""
    if not job.embedded:
        return {}
    past, most = _past(job), job.devices.memory * KEPT_SHARE if job.devices.gpu else KEPT_BYTES
    kept = {"keys and values": past} if past <= most else {}
    return {**kept, **_decoder(job)}


def _decoder(job: Job) -> dict[str, float]:
    """What decoding has beside the cache: on a GPU copies of what a layer multiplies one input by."""
    shape = job.shape
    logits = job.side_by_side * shape.vocabulary * job.narrow
    if not job.devices.gpu:
        states = job.side_by_side * (4 * shape.hidden + 2 * shape.inner) * job.narrow
        return {"logits, states of decoding": float(logits + states)}
    matrices = {name: a * b for name, (a, b) in shape.matrices.items()}
    joined = shape.layers * sum(matrices[name] for name in ("q_proj", "k_proj", "v_proj"))
    wide = shape.layers * (matrices["gate_proj"] + matrices["up_proj"])
    if wide * job.narrow <= job.devices.memory * KEPT_SHARE:
        joined += wide
    return {"matrices joined to decode": float(joined * job.narrow), "logits, states of decoding": float(logits)}


def _sampling(job: Job) -> dict[str, float]:
    if not job.embedded:
        return {}
    shape, rows = job.shape, job.side_by_side
    read = min(PREFILL_TOKENS, rows // job.config.rollout.k * job.prompt)
    layer = 3 * shape.hidden + 3 * shape.inner
    return {
        "keys and values": _past(job),
        **_decoder(job),
        "reading prompts": float((read * layer + 2 * rows * shape.vocabulary) * job.narrow),
        "chosen tokens": float(rows * job.length * 12),
    }


def _dense(job: Job) -> dict[str, float]:
    """Of the step, on every rank: old log-probs, mask, and what is given; of an update: weights, log-probs twice,
    credit."""
    config = job.config
    step = 2 + job.objective.reads_reference + (config.rollout.is_cap > 0)
    values = config.batch.prompts * config.rollout.k * job.length
    return {"step's [Q, K, T]": float(values * max(4, job.wide) * (step + 4 / config.batch.updates))}
