"""The nouns every room shares, and the legend of tensor names.

A tensor's name ends in its logical dimensions, outermost first:

    Q  prompts (a group each)      K  rollouts of one prompt      T  response tokens of one rollout
    N  rows or tokens packed into one list, whatever group they come from
    V  vocabulary

``logp_QKT`` is thus a dense ``[Q, K, T]`` tensor. Log-probabilities are natural (nats) and those of the
logits divided by the rollout temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Fate = Literal["train", "too_hard", "too_easy", "mastered"]

Status = Literal["correct", "wrong", "no_answer", "unparsed", "too_long", "timeout", "memory", "crashed"]

FAULTS = ("too_long", "timeout", "memory", "crashed")
"""Statuses that an answer brought about by what it costs to grade, not by its value. They are worth a wrong answer,
so that nobody escapes being a negative by writing hostile text; a group that holds one is not mastered."""

UNVERSIONED = -1
"""The version of rollouts whose weights nobody counted: they can be looked at, but not trained on."""

SAME_REWARD = 1e-6
"""Rewards closer than this are ties: rounding noise must not become an advantage, or a fate."""


class ContraposeError(Exception):
    """An error that a user can mend. Its text is one line: the culprit and what to change."""

    exit_code = 2

    def __init__(self, line: str) -> None:
        super().__init__(line.replace("\n", "\\n"))


def told(error: Exception) -> str:
    """An error in one line: one that a user can mend as it is, any other with its kind."""
    return str(error if isinstance(error, ContraposeError) else ContraposeError(f"{type(error).__name__}: {error}"))


class PoolExhausted(ContraposeError):
    """No prompt is left to draw, or the round limit was reached before the batch was full."""

    exit_code = 3


class Stopped(Exception):
    """A person or the machine asked the run to stop; what follows is a checkpoint, not a failure."""


LISTED = 20
"""A longer list of valid names is no help in one line."""


def nearest(name: str, valid: list[str]) -> str:
    """``" (did you mean 'x'?)"`` for the valid name closest to ``name``, or all if none is close and they are few."""
    import difflib

    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (one of: {', '.join(valid)})" if 0 < len(valid) <= LISTED else ""


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of a tree by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return leaves


@dataclass(frozen=True)
class Prompt:
    """A question with a verifiable answer. ``tokens`` is the rendered question, empty until a template did it."""

    id: str
    problem: str
    answer: str
    source: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """One sampled answer. ``mask`` is 1 on tokens the policy chose itself (its EOS included) and 0 on inserted ones.

    ``logp`` holds the engine's log-probs; the trainer recomputes its own. ``finished`` is ``"stop"`` after an
    EOS, ``"length"`` when the response limit cut it off, and ``"cancelled"`` when nobody waited for its end.
    ``version`` says which weights it was sampled from: the optimizer steps that they had seen.
    """

    tokens: tuple[int, ...]
    mask: tuple[int, ...]
    logp: tuple[float, ...]
    text: str
    finished: Literal["stop", "length", "cancelled"]
    version: int = UNVERSIONED


@dataclass(frozen=True)
class Sampled:
    """Rollout ``index`` of a prompt, as an engine hands it over."""

    prompt: Prompt
    index: int
    rollout: Rollout


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one rollout. ``correct`` is the truth, ``reward`` what the loss is fed.

    ``status`` tells how the verdict came about: ``correct``, ``wrong``, ``no_answer`` (nothing boxed), ``unparsed``
    (boxed, but not mathematics that could be read), or one of ``FAULTS``: ``too_long``, ``timeout``, ``memory``,
    ``crashed`` (it kills its grader). A status is never a reward by itself. ``seconds`` is the wall time of grading.
    """

    reward: float
    correct: bool
    boxed: str | None
    status: Status
    seconds: float


@dataclass(frozen=True)
class Group:
    """One prompt with its K rollouts and their verdicts, in sampling order.

    Rollouts that were cancelled, because those that had finished already decided the group's fate, stand apart: they
    have no verdict.
    """

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]
    cancelled: tuple[Rollout, ...] = ()

    @property
    def correct(self) -> int:
        return sum(v.correct for v in self.verdicts)

    @property
    def mixed(self) -> bool:
        """Whether its rewards differ."""
        rewards = [v.reward for v in self.verdicts]
        return max(rewards) - min(rewards) > SAME_REWARD

    @property
    def tokens(self) -> int:
        """What the group cost, cancelled rollouts included."""
        return sum(len(r.tokens) for r in (*self.rollouts, *self.cancelled))

    @property
    def faults(self) -> int:
        return sum(v.status in FAULTS for v in self.verdicts)


@dataclass(frozen=True)
class Batch:
    """What an objective may see of the rollouts of one optimizer step (or of a part of it).

    ``present_QK`` is False where a group has fewer than K rollouts. An empty completion is present with an
    all-zero mask: it counts in reward statistics, but has no score and receives no credit.
    """

    old_logp_QKT: Tensor
    mask_QKT: Tensor
    reward_QK: Tensor
    correct_QK: Tensor
    present_QK: Tensor
    reference_logp_QKT: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with ``f`` applied to each of its tensors."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: f(x) for name, x in tensors.items() if x is not None})


@dataclass(frozen=True)
class Now:
    """Where training stands, as far as an objective depends on it.

    ``progress`` is the fraction of training done (0 to 1); ``kl_coef`` the trust region's present coefficient.
    """

    progress: float = 0.0
    kl_coef: float = 0.0
