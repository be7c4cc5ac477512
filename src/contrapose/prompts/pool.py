"""Which question now: draw, judge, put back. The only file that knows reward thresholds and mastery."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from contrapose.types import FAULTS, SAME_REWARD, ContraposeError, Fate, Group, PoolExhausted, Prompt, Verdict, nearest

ACCEPTANCE_MEMORY = 0.7
"""Weight of the past in the running estimate of the share of drawn groups that are accepted."""


@dataclass(frozen=True)
class Thresholds:
    """ReNCE Eq. 3: train on a group when ``t_hard < rho <= t_easy``; remove its prompt when ``rho > t_master``.

    ``rho`` is the fraction of correct rollouts, so that a group that failed throughout is never mastered and one
    of boxed but wrong answers is never trained as if it were right. ``"argmax_literal"`` is the paper's letter:
    the fraction with the highest reward. Then ``require_correct`` keeps groups without any correct rollout out of
    training and mastery. ``patience`` is how many visits in a row must be mastered. Mastery is tested first, as in
    Algorithm 1; ``t_master = 1`` switches it off. A group with an answer that could not be graded within limits is
    never mastered.

    ``mode`` ``"none"`` trains every drawn group. ``"variance"`` puts in place of the band whether the rewards differ:
    with mastery off, DAPO's dynamic sampling by its metric ``seq_reward``. By its default, ``acc``, that is the band
    with ``t_easy`` 0.99 (up to K = 100) and mastery off.

    What the finished rollouts decide (``decided``) is the group's fate whatever the others would have been, but for one
    thing: an answer that is never sampled cannot turn out to be ungradable.
    """

    mode: Literal["band", "variance", "none"] = "band"
    t_hard: float = 0.0
    t_easy: float = 0.5
    t_master: float = 0.8
    rho: Literal["correct", "argmax_literal"] = "correct"
    require_correct: bool = False
    patience: int = 1

    def __post_init__(self) -> None:
        if not self.t_hard < self.t_easy:
            raise ContraposeError(f"filter.t_hard: {self.t_hard} must be below filter.t_easy = {self.t_easy}")
        if not 0 < self.t_master <= 1:
            raise ContraposeError(
                f"filter.t_master: {self.t_master} must be above 0 and at most 1 (1 switches mastery off)"
            )

    def rho_of(self, group: Group) -> float:
        """The fraction of the group's rollouts that counts as solved."""
        if self.rho == "correct":
            return group.correct / len(group.verdicts)
        best = max(v.reward for v in group.verdicts)
        return sum(v.reward >= best - SAME_REWARD for v in group.verdicts) / len(group.verdicts)

    def fate(self, group: Group) -> Fate:
        """What becomes of a drawn group, patience aside. Raises ValueError if it was cut short while undecided."""
        if group.cancelled:
            decided = self.decided(group.verdicts, len(group.verdicts) + len(group.cancelled))
            if decided is None:
                raise ValueError(f"the group of {group.prompt.id} was cut short before its fate was decided")
            return decided
        if self.mode == "none":
            return "train"
        rho = self.rho_of(group)
        if excluded := self._excluded(rho, group.correct, group.faults):
            return excluded
        if self.mode == "variance":
            return "train" if group.mixed else "too_easy" if group.correct else "too_hard"
        return self._in_band(rho)

    def decided(self, verdicts: Sequence[Verdict], k: int) -> Fate | None:
        """The fate, other than training, that ``verdicts`` on a part of a group of ``k`` decide already; else None.

        Only counts of right answers decide early: ``mode`` ``"band"`` with ``rho`` ``"correct"``.
        """
        if self.mode != "band" or self.rho != "correct":
            return None
        least = sum(v.correct for v in verdicts)
        possible = range(least, least + k - len(verdicts) + 1)
        faults = sum(v.status in FAULTS for v in verdicts)
        fate, *others = {self._excluded(c / k, c, faults) or self._in_band(c / k) for c in possible}
        return None if others or fate == "train" else fate

    def _excluded(self, rho: float, correct: int, faults: int) -> Fate | None:
        """What keeps a group out of training whatever the mode."""
        if self.require_correct and correct == 0:
            return "too_hard"
        return "mastered" if rho > self.t_master and not faults else None

    def _in_band(self, rho: float) -> Fate:
        return "too_hard" if rho <= self.t_hard else "train" if rho <= self.t_easy else "too_easy"


EVERY = ""
"""The one source of a pool without weights."""


@dataclass
class _Order:
    """How one source is drawn from: its ids, what is left of its present epoch (drawn from the end), and how many turns
    it has had."""

    weight: float
    prompts: list[str] = field(default_factory=list)
    epoch: int = -1
    left: list[str] = field(default_factory=list)
    turns: float = 0


class PromptPool:
    """Draws prompts in a seeded order, judges their groups and remembers who is mastered. Resumable.

    Each epoch is a fresh permutation of the prompts not yet mastered; cached prompts come first. Prompts are
    known by id, never by position, so that a changed file cannot shift them. With ``weights`` (by ``Prompt.source``)
    every source has epochs of its own, and they are drawn from in proportion to their weights. No prompt comes twice in
    a draw: what a source cannot give, because it is small or mastered, the others give, and of that it owes one epoch
    at most.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        thresholds: Thresholds,
        seed: int = 0,
        cache: bool = True,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._prompts = {p.id: p for p in prompts}
        if len(self._prompts) != len(prompts):
            raise ContraposeError("data: two prompts share an id")
        self.thresholds = thresholds
        self._seed = seed
        self._keeps_cache = cache
        self._orders = {source: _Order(weight) for source, weight in (weights or {EVERY: 1.0}).items()}
        self._order_of = {p.id: p.source if weights else EVERY for p in prompts}
        for prompt, source in self._order_of.items():
            self._orders[source].prompts.append(prompt)
        for source, order in self._orders.items():
            if weights and not order.prompts:
                raise ContraposeError(
                    f"data.weights: {source} has no prompt left to train on: take it out of data.path"
                )
        self._cache: list[str] = []
        self._mastered: set[str] = set()
        self._mastered_visits: dict[str, int] = {}
        self._acceptance = 1.0 if thresholds.mode == "none" else 0.5

    @property
    def mastered(self) -> int:
        """How many prompts were removed for good."""
        return len(self._mastered)

    def __len__(self) -> int:
        """How many prompts, mastered ones included."""
        return len(self._prompts)

    def prompts(self) -> Iterable[Prompt]:
        """All prompts, mastered ones included."""
        return self._prompts.values()

    def needed(self, missing: int) -> int:
        """How many prompts should yield ``missing`` accepted groups at the recent rate of acceptance."""
        return math.ceil(missing / max(self._acceptance, 0.05))

    def draw(self, count: int) -> list[Prompt]:
        """At most ``count`` distinct prompts, cached ones first; fewer at the end of an epoch.

        Raises PoolExhausted when every prompt is mastered.
        """
        drawn, self._cache = self._cache[:count], self._cache[count:]
        cached, tapped = set(drawn), {self._order_of[i] for i in drawn}
        giving = dict(self._orders)
        while len(drawn) < count and giving:
            source = min(giving, key=lambda s: (giving[s].turns + 1) / giving[s].weight)
            order = giving[source]
            if not order.left and (source in tapped or not self._start_epoch(source)):
                del giving[source]  # so that no prompt comes twice in one draw
                continue
            candidate = order.left.pop()
            if candidate not in self._mastered and candidate not in cached:
                drawn.append(candidate)
                order.turns += 1
                tapped.add(source)
        if not giving and not drawn:
            raise PoolExhausted(
                f"data: all {len(self._prompts)} prompts are mastered: take some back (contrapose train --resume --out "
                "RUN --readmit all), or start from RUN/model with more prompts or a higher filter.t_master"
            )
        level = max(order.turns / order.weight for order in self._orders.values())
        for order in (order for source, order in self._orders.items() if source not in giving):
            order.turns = max(order.turns, level * order.weight - len(order.prompts))
        return [self._prompts[i] for i in drawn]

    def judge(self, group: Group) -> Fate:
        """The group's fate; a mastered prompt is never drawn again."""
        fate, prompt = self.thresholds.fate(group), group.prompt.id
        if fate == "mastered":
            self._mastered_visits[prompt] = self._mastered_visits.get(prompt, 0) + 1
            if self._mastered_visits[prompt] >= self.thresholds.patience:
                self._mastered.add(prompt)
                self._cache = [i for i in self._cache if i != prompt]
                return "mastered"
            return "too_easy"
        self._mastered_visits.pop(prompt, None)
        return fate

    def observe(self, accepted: int, drawn: int) -> None:
        """Learn from one round how many groups were accepted of those drawn."""
        self._acceptance = ACCEPTANCE_MEMORY * self._acceptance + (1 - ACCEPTANCE_MEMORY) * accepted / drawn

    def put_back(self, prompts: Iterable[Prompt]) -> None:
        """Take back the prompts of surplus groups. They are drawn first next time, and rolled out anew."""
        if self._keeps_cache:
            returned = [p.id for p in prompts if p.id not in self._mastered]
            self._cache = list(dict.fromkeys([*self._cache, *returned]))

    def readmit(self, prompts: Iterable[str]) -> list[str]:
        """Undo the mastery of these ids, or of all with ``"all"``; they are drawn again from their next epoch on.

        Returns who came back. Raises ContraposeError for an id that is not mastered.
        """
        asked = set(prompts)
        back = sorted(self._mastered if asked == {"all"} else asked)
        if strangers := [i for i in back if i not in self._mastered]:
            raise ContraposeError(
                f"--readmit: {strangers[0]!r} is not mastered{nearest(strangers[0], sorted(self._mastered))}"
            )
        self._mastered.difference_update(back)
        for prompt in back:
            self._mastered_visits.pop(prompt, None)
        return back

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """A context: whatever is raised inside, the pool is then as it was before."""
        before = self.state_dict()
        try:
            yield
        except BaseException:
            self.load_state_dict(before)
            raise

    def _start_epoch(self, source: str) -> bool:
        """A fresh permutation of what is left of a source; False when nothing is."""
        order = self._orders[source]
        order.left = [i for i in order.prompts if i not in self._mastered]
        if order.left:
            order.epoch += 1
            random.Random(f"{self._seed}/{order.epoch}/{source}".rstrip("/")).shuffle(order.left)
        return bool(order.left)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is not in the constructor's arguments, as plain values."""
        return {
            "orders": {
                source: {"epoch": order.epoch, "left": list(order.left), "turns": order.turns}
                for source, order in self._orders.items()
            },
            "cache": list(self._cache),
            "mastered": sorted(self._mastered),
            "mastered_visits": dict(sorted(self._mastered_visits.items())),
            "acceptance": self._acceptance,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises ContraposeError when it names prompts this pool does not hold."""
        left = [prompt for order in state["orders"].values() for prompt in order["left"]]
        named = [*left, *state["cache"], *state["mastered"], *state["mastered_visits"]]
        missing = [i for i in named if i not in self._prompts]
        if missing:
            raise ContraposeError(
                f"data: {len(missing)} prompts of the checkpoint are gone ({missing[0]}): resume with the same data"
            )
        for source, order in self._orders.items():
            if saved := state["orders"].get(source):  # a source that is new begins its first epoch
                order.epoch, order.left, order.turns = saved["epoch"], list(saved["left"]), saved["turns"]
        self._cache = list(state["cache"])
        self._mastered, self._mastered_visits = set(state["mastered"]), dict(state["mastered_visits"])
        self._acceptance = state["acceptance"]
