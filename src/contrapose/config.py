"""Where settings come from: recipes in layers and overrides, TOML in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from contrapose.settings import Config, Section, VerifyConfig
from contrapose.types import ContraposeError, nearest
from contrapose.validation import Places, checked, validate

LARGEST = 1 << 20
"""Bytes of a file of settings; whatever has more is something else."""


def resolve(recipe: str | None, overrides: Sequence[str] = (), **given: Any) -> tuple[Config, str]:
    """The settings of ``recipe`` (a name or a TOML file) under ``--set`` overrides, and the recipe's name.

    Layers, weakest first: the defaults, the objective's own recipe (its published filter, reward and batch), the
    recipe's ``base`` (another recipe, or several), the recipe, the overrides. Where a layer names another objective
    than those below it, their hyper-parameters, filter and reward are left behind: they belong to a method. No recipe
    means abacus, or, once ``data.path`` is set, the objective's own. The ``config.toml`` of a run is a recipe too.
    """
    given = {key: value for key, value in given.items() if value is not None}
    layer = {**_overrides(overrides), **given}
    if recipe is None:
        recipe = "abacus" if _of(layer, "data", "path") in (None, "abacus") else _objective_name(layer) or "rence"
    below, places = _read_recipe(recipe)
    tree = _over(below, layer)
    typed = [pair.partition("=")[0].strip() for pair in overrides] + list(given)
    replaced = tuple(f"{key}." for key in typed)
    places = {key: place for key, place in places.items() if not key.startswith(replaced)} | dict.fromkeys(typed, "")
    return validate(merge(_own_recipe(_objective_name(tree) or "rence"), tree), places), recipe


def saved(run: Path, *sections: str) -> Config:
    """These sections of the settings of a run folder, from its ``config.toml``; the rest are defaults."""
    file = run / "config.toml"
    tree = {key: value for key, value in read_toml(file).items() if key in sections}
    return checked(Config, tree, places_in(file))


class _Grading(Section):
    verify: VerifyConfig = VerifyConfig()


def verify_settings(below: Mapping[str, Any], overrides: Sequence[str] = (), **given: Any) -> VerifyConfig:
    """The settings of ``[verify]`` for a command that has no run: ``below``, then ``given``, then the overrides."""
    return checked(_Grading, merge({"verify": {**below, **given}}, _overrides(overrides, "verify"))).verify


def data_settings(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The settings of a run on ``data`` under overrides of ``[data]`` and ``[verify]``, for a command without a run."""
    return validate(merge({"model": {"path": "abacus"}, "data": data}, _overrides(overrides, "data", "verify")))


def _own_recipe(objective: str) -> dict[str, Any]:
    """The recipe that bears an objective's name, and is of that objective."""
    named = [name for name in shipped() if "/" not in name]
    tree = _read_recipe(objective)[0] if objective in named else {}
    if _objective_name(tree) != objective:
        own = sorted(name for name in named if _objective_name(_read_recipe(name)[0]) == name)
        raise ContraposeError(f"objective.name: {objective!r} is unknown{nearest(objective, own)}")
    return tree


def _read_recipe(recipe: str) -> tuple[dict[str, Any], Places]:
    """A recipe over its ``base``, or several, each over those before; and where a person's own files set what."""
    places: dict[str, str] = {}
    return _layered(recipe_path(recipe), (), places), places


def _layered(path: Path, above: Sequence[Path], places: dict[str, str]) -> dict[str, Any]:
    """The file over its bases, those over their own, and so on; ``above`` are the files that this is a base of."""
    tree = read_toml(path)
    tree.pop("run", None)
    named = tree.pop("base", [])
    above = [*above, path.resolve()]
    bases = [_base(path, base, above) for base in (named if isinstance(named, list) else [named])]
    below = [_layered(base, above, places) for base in bases]
    if path not in shipped().values():
        places |= places_in(path)
    return reduce(_over, [*below, tree])


def _base(path: Path, base: Any, above: Sequence[Path]) -> Path:
    """The file of what ``path`` calls its ``base``, none of those ``above`` it."""
    if isinstance(base, str) and base.endswith(".toml"):
        base = str(path.parent / base)
    if not isinstance(base, str) or recipe_path(base).resolve() in above:
        raise ContraposeError(f"{path}: base: expected the name of another recipe, found {base!r}")
    return recipe_path(base)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` merged over ``below``; what belongs to a method stays behind when the method changes."""
    names = _objective_name(below), _objective_name(above)
    if None not in names and names[0] != names[1]:
        below = {key: value for key, value in below.items() if key not in ("objective", "filter", "reward")}
    return merge(below, above)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a tree. Raises ContraposeError with the file, the line and the fault."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ContraposeError(f"{path} does not exist: paths are taken from {Path.cwd()}") from None
    except (OSError, ValueError) as error:  # the latter: a NUL in its name
        raise ContraposeError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(text) > LARGEST:
        raise ContraposeError(f"{path}: settings are at most {LARGEST:,} bytes: this is some other file")
    try:
        return _parsed(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ContraposeError(f"{path}: not TOML: {error}: save it as UTF-8 text") from None
    except ValueError as error:
        raise ContraposeError(f"{path}: not TOML: {error}") from None


def _parsed(text: str) -> dict[str, Any]:
    """TOML as a tree. Raises ValueError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_SETS = re.compile(rf"[ \t]*(?:(\[\[?)[ \t]*)?({_KEY})[ \t]*(?(1)\]|=)", re.ASCII)


def places_in(path: Path) -> Places:
    """Where a TOML file sets what, or opens a table: dotted key -> ``FILE:LINE``.

    A key that is found twice has no place: one of the two stands in a text of several lines.
    """
    places: dict[str, list[str]] = {}
    table = ""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if found := _SETS.match(line):
            key = ".".join(part.strip("\"'") for part in re.findall(_PART, found[2]))
            table = f"{key}." if found[1] else table
            places.setdefault(key if found[1] else table + key, []).append(f"{path}:{number}")
    return {key: found[0] for key, found in places.items() if len(found) == 1}


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


def _overrides(pairs: Sequence[str], *sections: str) -> dict[str, Any]:
    """``--set`` as a tree. Where ``sections`` are named, it may have no others."""
    tree: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise ContraposeError(f"--set {pair}: write it as key=value, for example --set optim.lr=2e-6")
        try:
            parsed = _parsed(f"value = {text}")
        except ValueError:
            parsed = {"value": text}  # bare words are texts
        if len(parsed) > 1:
            raise ContraposeError(f"--set {pair}: one key and one value at a time")
        value = parsed["value"]
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        tree = merge(tree, value)
    if sections and (others := sorted(tree.keys() - set(sections))):
        raise ContraposeError(f"--set {others[0]}: only the keys of {' and '.join(sections)} can be set here")
    return tree


def _objective_name(tree: Mapping[str, Any]) -> str | None:
    name = _of(tree, "objective", "name")
    if name is not None and not isinstance(name, str):
        raise ContraposeError(f"objective.name: expected the name of an objective, found {name!r}")
    return name


def _of(tree: Mapping[str, Any], section: str, key: str) -> Any:
    part = tree.get(section)
    return part.get(key) if isinstance(part, Mapping) else None
