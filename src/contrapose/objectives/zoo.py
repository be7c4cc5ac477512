"""The objectives by name: build one, or read what there is. Nothing is said here that its function does not say."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from contrapose.objectives.methods.contrastive import conspo, disco, disco_b, dpo, rence
from contrapose.objectives.methods.policy_gradient import (
    cispo,
    dapo,
    dr_grpo,
    gmpo,
    grpo,
    gspo,
    reinforce,
    rloo,
    sapo,
)
from contrapose.objectives.objective import Objective
from contrapose.types import nearest

_ALL = (rence, conspo, grpo, dapo, dr_grpo, gspo, gmpo, cispo, sapo, disco, disco_b, dpo, rloo, reinforce)
ZOO: Mapping[str, Callable[..., Objective]] = {f.__name__: f for f in _ALL}


@dataclass(frozen=True)
class ObjectiveInfo:
    """A catalogue entry, read off an objective's function.

    ``paper`` says what it is and where it comes from, ``equation`` and ``credit`` are lines of mathematics (letters:
    ``contrapose.objectives.methods``), ``disagreement`` tells where paper and code differ. ``factors`` are those at
    the ``defaults``, ``kinds`` their names alone; ``required`` are the hyper-parameters without a default.
    """

    name: str
    paper: str
    equation: str
    credit: str
    disagreement: str
    factors: Mapping[str, str]
    kinds: Mapping[str, str]
    defaults: Mapping[str, Any]
    required: tuple[str, ...]


def objective(name: str, **hyperparameters: Any) -> Objective:
    """The objective called ``name``. Raises ValueError or TypeError, naming the nearest valid name or argument."""
    valid = hyperparameters_of(name)
    for key in hyperparameters:
        if key not in valid:
            raise TypeError(f"objective.{key}: not a hyper-parameter of {name}{nearest(key, valid)}")
    for key in _required(name):
        if key not in hyperparameters:
            raise TypeError(f"objective.{key}: {name} needs it and has no default; pass {key}=...")
    hints = get_type_hints(ZOO[name])
    for key, value in hyperparameters.items():
        _check(key, value, hints[key])
    try:
        return ZOO[name](**hyperparameters)
    except ValueError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in hyperparameters.items())
        raise ValueError(f"objective {name}({given}): {error}") from None


def check_group_size(objective: Objective, name: str, k: int) -> None:
    """Raise ValueError where groups of ``k`` rollouts would teach nothing, because this objective compares them."""
    if k < 2 and objective.compares:
        raise ValueError(f"rollout.k: {k}, but {name} compares the rollouts of a group: take 2 or more")


def hyperparameters_of(name: str) -> list[str]:
    """The names of an objective's hyper-parameters. Raises ValueError, naming the nearest objective."""
    if name not in ZOO:
        raise ValueError(f"objective: {name!r} is unknown{nearest(name, list(ZOO))}")
    return list(inspect.signature(ZOO[name]).parameters)


def catalogue() -> dict[str, ObjectiveInfo]:
    """Every objective by name, read off its signature, docstring and factors."""
    return {name: _describe(name) for name in ZOO}


def _required(name: str) -> tuple[str, ...]:
    parameters = inspect.signature(ZOO[name]).parameters.values()
    return tuple(p.name for p in parameters if p.default is inspect.Parameter.empty)


def _describe(name: str) -> ObjectiveInfo:
    make, required = ZOO[name], _required(name)
    paper, equation, credit, disagreement = (inspect.getdoc(make) or "").split("\n\n")
    built = make(**dict.fromkeys(required, math.inf))  # to read its factors, not to be used
    parameters = inspect.signature(make).parameters.values()
    return ObjectiveInfo(
        name=name,
        paper=" ".join(paper.split()),
        equation=equation,
        credit=" ".join(credit.split()).removeprefix("Credit: "),
        disagreement=" ".join(disagreement.split()).removeprefix("Disagreement: "),
        factors={key: text.replace("=inf", "") for key, text in built.factors().items()},
        kinds=built.factors(settings=False),
        defaults={p.name: p.default for p in parameters if p.name not in required},
        required=required,
    )


def _check(key: str, value: Any, hint: Any) -> None:
    """Raise unless ``value`` may stand for a hyper-parameter of this annotation: a choice of names, or a number."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices: list[Any] = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    if NoneType in kinds:
        choices.append(None)
    number = (int, float) if float in kinds else int if int in kinds else ()
    if value in choices or (isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value)):
        return
    if number:
        raise TypeError(f"objective.{key}: expected a {'' if float in kinds else 'whole '}number, found {value!r}")
    names = ["none" if c is None else c for c in choices]
    raise ValueError(f"objective.{key}: {value!r} is not a choice{nearest(str(value), names)}")
