"""A run as far as memory and time ask: settings, the model's shape, the devices, and how long texts are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from contrapose.objectives.objective import Objective
from contrapose.rollout.decode import MAX_ROWS
from contrapose.settings import Config
from contrapose.train.parts import make_objective
from contrapose.train.planning.shape import Shape
from contrapose.types import ContraposeError

GIB = 2**30
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2}


@dataclass(frozen=True)
class Devices:
    """``count`` alike, each with ``memory``; ``gpu`` or a CPU, whose one memory is also the host's."""

    count: int
    memory: float
    gpu: bool = True


@dataclass(frozen=True)
class Job:
    """A run as far as memory and time ask: settings, the model, where; ``prompt`` and ``length`` are the tokens of a
    prompt and of a response. Raises ContraposeError where settings do not fit the number of devices."""

    config: Config
    shape: Shape
    devices: Devices
    prompt: int
    length: int

    def __post_init__(self) -> None:
        if self.devices.count % self.split:
            raise ContraposeError(f"parallel.shard: {self.split} does not divide the {self.devices.count} devices")

    @cached_property
    def objective(self) -> Objective:
        """The configured one."""
        return make_objective(self.config)

    @property
    def split(self) -> int:
        """Over how many ranks weights are split."""
        return self.config.shard(self.devices.count)

    @property
    def wide(self) -> int:
        """Bytes of a value as it is kept."""
        return BYTES[self.config.model.dtype]

    @property
    def narrow(self) -> int:
        """Bytes of a value as it is computed with."""
        return BYTES[self.config.model.computes]

    @property
    def learned(self) -> int:
        """Bytes of a value that is trained: an adapter's have at least four."""
        return max(4, self.wide) if self.config.lora.rank else self.wide

    @property
    def gathered(self) -> bool:
        """Whether what is computed with is no weight that is kept, but made of it for the time."""
        return self.config.splits(self.devices.count)

    @property
    def trained(self) -> int:
        """Weights that have a gradient."""
        lora = self.config.lora
        return self.shape.adapters(lora.rank, lora.targets) if lora.rank else self.shape.weights

    @property
    def embedded(self) -> bool:
        """Whether the trainer samples by itself."""
        return self.config.rollout.engine == "embedded"

    @property
    def side_by_side(self) -> int:
        """Rollouts that one rank samples together, as ``EmbeddedEngine`` decides."""
        rollout, batch = self.config.rollout, self.config.batch
        fit = int(rollout.cache_gib * GIB / (self.shape.past * self.narrow)) // (self.prompt + self.length)
        drawn = -(-batch.prompts * (1 if self.config.filter.mode == "none" else 2) // self.devices.count)
        return min(drawn, max(1, min(MAX_ROWS, fit) // rollout.k)) * rollout.k

    @property
    def rows(self) -> int:
        """Rows of an update that one rank takes."""
        batch = self.config.batch
        return -(-batch.prompts * self.config.rollout.k // (batch.updates * self.devices.count))

    @property
    def micro(self) -> tuple[int, int]:
        """Rows and tokens of the largest micro-batch, were no two of its rows of one prompt."""
        long, most = self.prompt + self.length, self.config.batch.max_tokens
        return min(self.rows, max(1, most // long)), min(self.rows * long, max(long, most))

    @property
    def at_once(self) -> bool:
        """Whether a rank takes an update in one micro-batch."""
        return self.rows <= self.micro[0]
