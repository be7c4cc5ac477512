"""Whether settings can be: every mistake is one line that names the key and the nearest valid one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from contrapose.settings import Config, Section
from contrapose.types import ContraposeError, nearest

S = TypeVar("S", bound=Section)

Places = Mapping[str, str]
"""Where settings come from: dotted key -> file and line, empty where that is no file."""

NOWHERE: Places = {}
SHOWN = 200
"""Characters of a wrong value that are shown."""


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
    return _impossible_engine(config)


def _impossible_engine(config: Config) -> tuple[tuple[str, ...], str] | None:
    vllm, servers = config.rollout.engine == "vllm", config.rollout.servers
    faults = [
        (servers and not vllm, "rollout.servers: the embedded engine asks none: add --set rollout.engine=vllm"),
        (len(set(servers)) < len(servers), "rollout.servers: one of them is named twice"),
        (config.rollout.weights and not servers, "rollout.weights: only servers read it: name them in rollout.servers"),
        (vllm and config.model.dtype == "float64", "rollout.engine: vllm has no float64: take model.dtype=float32"),
    ]
    line = next((line for wrong, line in faults if wrong), None)
    return ((line.partition(":")[0],), line) if line else None


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
