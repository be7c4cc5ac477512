"""One tree of settings: TOML in, TOML out. Every mistake is one line that names the key and the nearest valid one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contrapose.types import ContraposeError, nearest

Beta = Annotated[float, Field(ge=0, lt=1)]


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
    reference: str = ""  # for a KL to a reference; empty: the model as it was before training


class DataConfig(Section):
    path: str = ""  # .jsonl, .parquet, or "abacus"
    problem_key: str = "problem"
    answer_key: str = "answer"
    template: str = "rence"
    max_prompt_tokens: int = Field(1536, gt=0)


class RolloutConfig(Section):
    k: int = Field(8, ge=2)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, ge=1, le=1)  # below 1 the log-probs trained on would not be those of the samples
    max_tokens: int = Field(6656, gt=0)
    cache_gib: float = Field(8.0, gt=0)  # memory for the key-value cache; bounds how many rollouts go side by side
    is_cap: float = Field(0.0, ge=0)  # truncated importance sampling against the engine's log-probs; 0: off


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


class RewardConfig(Section):
    scheme: Literal["format", "binary", "sign"] = "format"
    truncated: Literal["verifier", "wrong", "mask"] = "verifier"
    overlong: float = Field(0.0, ge=0, le=1)  # the last so much of rollout.max_tokens costs up to 1 (DAPO); 0: off


class OptimConfig(Section):
    lr: float = Field(1e-6, gt=0)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), strict=False)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    warmup: int = Field(0, ge=0)  # optimizer steps of linear warm-up


class EvalConfig(Section):
    every: int = Field(0, ge=0)  # steps between evaluations; 0: before and after only
    data: str = ""  # as data.path; empty: no evaluation
    samples: int = Field(4, gt=0)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)


class DiagnoseConfig(Section):
    every: int = Field(1, ge=0)  # steps between measurements after each update, a forward pass more each; 0: never


class CheckpointConfig(Section):
    every: int = Field(10, ge=0)  # steps between checkpoints; 0: only when stopped
    keep: int = Field(2, gt=0)


class Config(Section):
    """All settings of a run. The defaults are ReNCE's published ones (``recipes/rence.toml`` cites them)."""

    seed: int = 0
    steps: int = Field(50, gt=0)
    objective: ObjectiveConfig = ObjectiveConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    batch: BatchConfig = BatchConfig()
    filter: FilterConfig = FilterConfig()
    reward: RewardConfig = RewardConfig()
    optim: OptimConfig = OptimConfig()
    eval: EvalConfig = EvalConfig()
    diagnose: DiagnoseConfig = DiagnoseConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def to_toml(self, run: Mapping[str, Any]) -> str:
        """The resolved settings, with the facts of the run (versions, revision) in a table of their own."""
        import tomli_w

        return tomli_w.dumps({**self.model_dump(mode="json"), "run": dict(run)})


def resolve(recipe: str | None, overrides: Sequence[str] = (), **given: Any) -> tuple[Config, str]:
    """The settings of ``recipe`` (a name or a TOML file) under ``--set`` overrides, and the recipe's name.

    Layers, weakest first: the defaults, the objective's own recipe (its published filter, reward and batch), the
    recipe's ``base`` (another recipe), the recipe, the overrides. Where a layer names another objective than those
    below it, their hyper-parameters, filter and reward are left behind: they belong to a method. No recipe means
    abacus, or, once ``data.path`` is set, the objective's own. The ``config.toml`` of a run is a recipe too.
    """
    layer = _overrides(overrides)
    for key, value in given.items():
        if value is not None:
            layer[key] = value
    if recipe is None:
        recipe = "abacus" if _of(layer, "data", "path") in (None, "abacus") else _objective_name(layer) or "rence"
    tree = _over(_read_recipe(recipe), layer)
    return validate(merge(_own_recipe(_objective_name(tree) or "rence"), tree)), recipe


def _own_recipe(objective: str) -> dict[str, Any]:
    """The recipe that bears an objective's name, and is of that objective."""
    named = [name for name in shipped() if "/" not in name]
    tree = _read_recipe(objective) if objective in named else {}
    if _objective_name(tree) != objective:
        own = sorted(name for name in named if _objective_name(_read_recipe(name)) == name)
        raise ContraposeError(f"objective.name: {objective!r} is unknown{nearest(objective, own)}")
    return tree


def _read_recipe(recipe: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe over its ``base``, that over its own, and so on."""
    path = recipe_path(recipe)
    tree = read_toml(path)
    tree.pop("run", None)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if isinstance(base, str) and base.endswith(".toml"):
        base = str(path.parent / base)
    above = (*above, path.resolve())
    if not isinstance(base, str) or recipe_path(base).resolve() in above:
        raise ContraposeError(f"{path}: base: expected the name of another recipe, found {base!r}")
    return _over(_read_recipe(base, above), tree)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` merged over ``below``; what belongs to a method stays behind when the method changes."""
    names = _objective_name(below), _objective_name(above)
    if None not in names and names[0] != names[1]:
        below = {key: value for key, value in below.items() if key not in ("objective", "filter", "reward")}
    return merge(below, above)


def validate(tree: Mapping[str, Any]) -> Config:
    """Check types, ranges and combinations. Raises ContraposeError that names every culprit on one line."""
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ContraposeError("; ".join(_explain(e) for e in error.errors())) from None
    for key in ("model", "data"):
        if not getattr(config, key).path:
            raise ContraposeError(
                f"{key}.path is not set: add --set {key}.path=..., or run without it for the built-in abacus"
            )
    if config.batch.prompts % config.batch.updates:
        raise ContraposeError(
            f"batch.prompts: {config.batch.prompts} is not divisible by batch.updates = {config.batch.updates}"
        )
    return config


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a tree. Raises ContraposeError with the file, the line and the fault."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ContraposeError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContraposeError(f"{path}: not TOML: {error}") from None


def recipe_path(recipe: str) -> Path:
    """The file of a recipe: a path to a ``.toml``, or the name of one that ships."""
    if recipe.endswith(".toml"):
        return Path(recipe)
    known = shipped()
    if recipe not in known:
        near = nearest(recipe, sorted(known)) or nearest(recipe, sorted(name for name in known if "/" not in name))
        raise ContraposeError(f"recipe {recipe!r} is unknown{near}")
    return known[recipe]


def shipped() -> dict[str, Path]:
    """The file of every recipe that ships, by name."""
    installed = Path(__file__).parent / "recipes"
    folder = installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*.toml")}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with the leaves of ``above`` put over it."""
    out = dict(below)
    for key, value in above.items():
        known = out.get(key)
        out[key] = merge(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return out


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ContraposeError(f"--set {pair}: write it as key=value, for example --set optim.lr=2e-6")
        try:
            parsed = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            parsed = {"value": text}  # bare words are texts
        if len(parsed) > 1:
            raise ContraposeError(f"--set {pair}: one key and one value at a time")
        value = parsed["value"]
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def _objective_name(tree: Mapping[str, Any]) -> str | None:
    name = _of(tree, "objective", "name")
    if name is not None and not isinstance(name, str):
        raise ContraposeError(f"objective.name: expected the name of an objective, found {name!r}")
    return name


def _of(tree: Mapping[str, Any], section: str, key: str) -> Any:
    part = tree.get(section)
    return part.get(key) if isinstance(part, Mapping) else None


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: no such key{nearest(key, _keys())}"
    found = error["input"]
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}, found {found!r}"


def _keys() -> list[str]:
    keys: list[str] = []
    for name, field in Config.model_fields.items():
        section = field.annotation
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        keys += [f"{name}.{k}" for k in section.model_fields] if is_section else [name]  # type: ignore[union-attr]
    return keys
