"""The tree of settings. Every mistake is one line that names the key and the nearest valid one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from contrapose.types import ContraposeError, nearest

Places = Mapping[str, str]
"""Where settings come from: dotted key -> file and line, empty where that is no file."""

NOWHERE: Places = {}
SHOWN = 200
"""Characters of a wrong value that are shown."""

Beta = Annotated[float, Field(ge=0, lt=1)]


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


S = TypeVar("S", bound=Section)


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
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them: less memory, more time
    reference: str = ""  # for a KL to a reference; empty: the model as it was before training


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

    def to_toml(self, run: Mapping[str, Any]) -> str:
        """The resolved settings, with the facts of the run (versions, revision) in a table of their own."""
        import tomli_w

        return tomli_w.dumps({**self.model_dump(mode="json"), "run": dict(run)})


def checked(model: type[S], tree: Mapping[str, Any], places: Places = NOWHERE) -> S:
    """``tree`` as a ``model``. Raises ContraposeError that names every culprit, and its place, on one line."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ContraposeError("; ".join(_explain(e, places) for e in error.errors())) from None


def validate(tree: Mapping[str, Any], places: Places = NOWHERE) -> Config:
    """Check types, ranges and combinations. Raises ContraposeError that names every culprit on one line."""
    config = checked(Config, tree, places)
    if fault := _impossible(config):
        keys, line = fault
        written = next(filter(places.get, keys), keys[0])
        raise ContraposeError(f"{_place(written, places)}{line}")
    return config


def _impossible(config: Config) -> tuple[tuple[str, ...], str] | None:
    """The first combination that cannot be: the keys that have to do with it, and what to say."""
    for key in ("model", "data"):
        if not getattr(config, key).path:
            mend = f"add --set {key}.path=..., or run without it for the built-in abacus"
            return (f"{key}.path",), f"{key}.path is not set: {mend}"
    prompts, updates = config.batch.prompts, config.batch.updates
    if prompts % updates:
        below = prompts - prompts % updates
        mend = f"take {below} or {below + updates}" if below else f"take {updates}"
        line = f"batch.prompts: {prompts} is not divisible by batch.updates = {updates}: {mend}"
        return ("batch.prompts", "batch.updates"), line
    own_scorers = config.verify.domain == "reasoning_gym" or ":" in config.verify.domain
    if not own_scorers and any(spec.startswith("gym:") for spec in config.data.sources):
        mend = "add --set verify.domain=reasoning_gym"
        return ("data.path",), f"data.path: only the tasks' own scorers can judge gym: problems: {mend}"
    sources, weights = config.data.sources, config.data.weights
    if weights and (len(weights) != len(sources) or min(weights) <= 0):
        expected = f"expected a number above 0 for each of the {len(sources)} sources of data.path"
        return ("data.weights",), f"data.weights: {expected}, found {weights}"
    return None


def _explain(error: Any, places: Places) -> str:
    key, found = ".".join(str(part) for part in error["loc"]), error["input"]
    place = _place(key, places)
    if error["type"] == "extra_forbidden":
        return f"{place}{key}: no such key{_near(key, found)}"
    expected = "expected a table of settings" if error["type"] in ("model_type", "dict_type") else error["msg"]
    value = repr(found)
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    return f"{place}{key}: {expected[0].lower()}{expected[1:]}, found {shown}"


def _place(key: str, places: Places) -> str:
    """Where ``key``, or what it is a part of, is set, as the beginning of a line."""
    while key and key not in places:
        key = key.rpartition(".")[0]
    place = places.get(key)
    return f"{place}: " if place else ""


def _near(key: str, found: Any) -> str:
    """The key that was meant: the same one in another section, or the one that is spelled most alike."""
    keys = _keys()
    namesakes = [known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]]
    if len(namesakes) == 1:
        return f" (did you mean {namesakes[0]!r}?)"
    if namesakes and key.partition(".")[0] in Config.model_fields:
        return f" (one of: {', '.join(namesakes)})"
    whole = f"{key}.{next(iter(found))}" if isinstance(found, Mapping) and found else key
    return nearest(whole, namesakes or keys)


def _keys() -> list[str]:
    keys: list[str] = []
    for name, field in Config.model_fields.items():
        section = field.annotation
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        keys += [f"{name}.{k}" for k in section.model_fields] if is_section else [name]  # type: ignore[union-attr]
    return keys
