"""The tree of settings: what there is to set, and within which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Beta = Annotated[float, Field(ge=0, lt=1)]
Address = Annotated[str, Field(pattern=r"^http://[\w.-]+:\d{1,5}$")]


def _sources(value: Any) -> Any:
    """So that a mistake is told once, and not once for each of the two types."""
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(spec, str) for spec in value)):
        raise PydanticCustomError("sources", "Input should be a source or a list of sources")
    return value


def _listed(sources: str | list[str]) -> list[str]:
    return sources if isinstance(sources, list) else [sources] if sources else []


Sources = Annotated[str | list[str], BeforeValidator(_sources)]
"""One source of problems, or several."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ObjectiveConfig(BaseModel):
    """``name`` and that objective's own hyper-parameters, checked against its signature."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str = "rence"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What is set beside the name; ``"none"`` stands for None, which TOML lacks."""
        return {key: None if value == "none" else value for key, value in (self.model_extra or {}).items()}


class ModelConfig(Section):
    path: str = ""  # folder, hub name, or "abacus"
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    compute: Literal["", "float32", "bfloat16"] = ""  # of activations and products; empty: as dtype
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them: less memory, more time
    reference: str = ""  # for a KL to a reference; empty: the model as it was before training

    @property
    def computes(self) -> str:
        """The type that it computes in."""
        return self.compute or self.dtype


class LoraConfig(Section):
    """An adapter that is trained in place of the model's own weights (peft)."""

    rank: int = Field(0, ge=0)  # 0: none
    alpha: float = Field(32.0, gt=0, lt=1e6)
    targets: str | list[str] = "all-linear"  # which linear maps


class ParallelConfig(Section):
    """Of a run in several processes (torchrun)."""

    shard: int = Field(0, ge=0)  # ranks that hold one copy of weights, gradients and moments together; 0: all of them
    offload: bool = False  # what is split lies in the host's memory while nobody needs it


class DataConfig(Section):
    path: Sources = ""  # "abacus", a named data set, a file, hub:ORG/NAME, gym:TASK; or several of them
    weights: list[float] = []  # how often each of several sources is drawn from; empty: every prompt alike
    dir: str = ""  # folder with the files of named data sets; empty: from the hub
    problem_key: str = ""  # column of the problem in files and hub: sets; empty: "problem". Named sets have their own
    answer_key: str = ""
    exclude: list[str] = []  # what must not be trained on, beside the run's own evaluation; as path
    max_broken: float = Field(0.01, ge=0, lt=1)  # share of a source's rows that may be broken and are left out
    template: str = "rence"
    thinking: bool = False  # whether a chat template lets the model think
    max_prompt_tokens: int = Field(1536, gt=0)

    @property
    def sources(self) -> list[str]:
        """What ``path`` names."""
        return _listed(self.path)


class RolloutConfig(Section):
    k: int = Field(8, ge=1)  # 1 only where an objective compares no rollouts
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, ge=1, le=1)  # below 1 the log-probs trained on would not be those of the samples
    max_tokens: int = Field(6656, gt=0)
    cache_gib: float = Field(
        8.0, gt=0, lt=1e6
    )  # memory for the key-value cache; bounds how many rollouts go side by side
    is_cap: float = Field(0.0, ge=0)  # truncated importance sampling against the engine's log-probs; 0: off
    max_drift: float = Field(
        0.0, ge=0
    )  # nats a token from the engine's log-probs to ours; 0: what model.dtype explains
    engine: Literal["embedded", "vllm"] = "embedded"
    servers: list[Address] = []  # vLLM's, as http://host:port; empty: vLLM in this process
    weights: str = ""  # folder in which servers find new weights, under the same path; empty: a temporary one
    timeout: float = Field(1800.0, gt=0, lt=1e6)  # seconds that a server may take for one answer
    gpu_share: float = Field(0.4, gt=0, lt=1)  # of a GPU's memory, for vLLM in this process


class BatchConfig(Section):
    prompts: int = Field(512, gt=0)
    updates: int = Field(16, gt=0)
    max_tokens: int = Field(16384, gt=0)  # padded tokens of one micro-batch


class FilterConfig(Section):
    mode: Literal["band", "variance", "none"] = "band"
    t_hard: float = 0.0
    t_easy: float = 0.5
    t_master: float = 0.8
    rho: Literal["correct", "argmax_literal"] = "correct"
    require_correct: bool = False
    patience: int = Field(1, gt=0)
    refill: bool = True
    cache: bool = True
    max_rounds: int = Field(20, gt=0)
    early_stop: bool = False  # cancel the rest of a group that will not be trained on


class RewardConfig(Section):
    scheme: Literal["format", "binary", "sign"] = "format"
    truncated: Literal["verifier", "wrong", "mask"] = "verifier"
    overlong: float = Field(0.0, ge=0, le=1)  # the last so much of rollout.max_tokens costs up to 1 (DAPO); 0: off


class VerifyConfig(Section):
    """What is right; ``verify/grading.py`` and ``verify/conventions.py`` explain."""

    domain: str = "math"  # or exact, regex, reasoning_gym, package.module:function
    answer: Literal["boxed", "stated", "text"] = "boxed"
    conventions: dict[str, bool | float | str] = {}
    cpu_seconds: float = Field(2.0, ge=0.01, lt=1e6)  # processor time one answer may cost
    seconds: float = Field(5.0, ge=0.01, lt=1e6)  # wall time one answer may cost
    memory_gib: float = Field(1.0, gt=0, lt=1e6)  # of a worker
    workers: int = Field(0, ge=0)  # 0: one for each processor, at most 8
    alarm: float = Field(0.01, ge=0, le=1)  # share of a step's answers beyond these limits


class OptimConfig(Section):
    lr: float = Field(1e-6, gt=0, lt=1e6)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), strict=False)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    moments: Literal["full", "8bit"] = "full"  # AdamW's running means: as the weights, or in 8 bits (torchao)
    warmup: int = Field(0, ge=0)  # optimizer steps of linear warm-up


class EvalConfig(Section):
    every: int = Field(0, ge=0)  # steps between evaluations; 0: before and after only
    data: Sources = ""  # test problems, as data.path; empty: none
    validation: str = ""  # problems that choose the best policy; asked every so often in place of the test problems
    samples: int = Field(4, gt=0)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)

    @property
    def sources(self) -> list[str]:
        """What ``data`` names."""
        return _listed(self.data)


class DiagnoseConfig(Section):
    every: int = Field(10, ge=0)  # steps between measurements after each update, a forward pass more each; 0: never


class CheckpointConfig(Section):
    every: int = Field(10, ge=0)  # steps between checkpoints; 0: only when stopped
    keep: int = Field(2, gt=0)


class Config(Section):
    """All settings of a run. The defaults are ReNCE's published ones (``recipes/rence.toml`` cites them)."""

    seed: int = Field(0, ge=-(2**63), lt=2**63)
    steps: int = Field(50, gt=0)
    tracking: Literal["none", "wandb", "tensorboard", "trackio"] = "none"  # who is sent the metrics too
    objective: ObjectiveConfig = ObjectiveConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    batch: BatchConfig = BatchConfig()
    filter: FilterConfig = FilterConfig()
    reward: RewardConfig = RewardConfig()
    verify: VerifyConfig = VerifyConfig()
    optim: OptimConfig = OptimConfig()
    eval: EvalConfig = EvalConfig()
    diagnose: DiagnoseConfig = DiagnoseConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def shard(self, ranks: int) -> int:
        """How many of so many ranks hold one copy of the weights together."""
        return self.parallel.shard or ranks

    def splits(self, ranks: int) -> bool:
        """Whether the weights that are computed with are made for the time, of parts or of another type."""
        other = self.model.computes != self.model.dtype
        return (ranks > 1 and self.parallel.shard != 1) or other or self.parallel.offload

    def to_toml(self, run: Mapping[str, Any]) -> str:
        """The resolved settings, with the facts of the run (versions, revision) in a table of their own."""
        import tomli_w

        return tomli_w.dumps({**self.model_dump(mode="json"), "run": dict(run)})
