"""Draw, roll out, verify and judge until a batch of groups is accepted (ReNCE Algorithm 1, lines 3-16 and 18)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from contrapose.prompts.pool import PromptPool
from contrapose.rollout.engine import RolloutEngine, StaleEngine
from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.rollout.sampler import Sampling, seed_of
from contrapose.types import UNVERSIONED, Fate, Group, PoolExhausted, Prompt, Sampled, Verdict
from contrapose.verify.verifier import Verifier


class Judged(NamedTuple):
    """A drawn group, its fate, and whether it is trained on in this step (surplus groups pass but are not)."""

    group: Group
    fate: Fate
    kept: bool


@dataclass
class Collected:
    """What one step drew, in the order of drawing. The first ``wanted`` groups that pass are kept."""

    wanted: int
    judged: list[Judged] = field(default_factory=list)
    rounds: int = 0
    accepted: list[Group] = field(default_factory=list)

    def add(self, group: Group, fate: Fate) -> None:
        """Take in the next group."""
        kept = fate == "train" and len(self.accepted) < self.wanted
        self.judged.append(Judged(group, fate, kept))
        if kept:
            self.accepted.append(group)

    @property
    def surplus(self) -> list[Group]:
        """Groups that passed after the batch was full; their prompts go back, their rollouts are dropped."""
        return [group for group, fate, kept in self.judged if fate == "train" and not kept]


def collect(
    pool: PromptPool,
    engine: RolloutEngine,
    verifier: Verifier,
    *,
    wanted: int,
    k: int,
    seed: int,
    version: int,
    sampling: Sampling,
    refill: bool,
    max_rounds: int,
    early_stop: bool = False,
    each: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> Collected:
    """Rounds of drawing until ``wanted`` groups are accepted (without ``refill``: drawn).

    Each round draws what is still needed at the recent rate of acceptance, at most twice the batch; ``ranks`` share the
    prompts. With ``early_stop`` the rest of a group is cancelled once what has finished decides that it will not be
    trained on. ``each`` is called after every finished group and may raise Stopped. Raises PoolExhausted after
    ``max_rounds`` rounds, and StaleEngine, before it is judged, at a rollout that was not sampled from the weights of
    ``version``.
    """
    out = Collected(wanted)
    cancelled: set[str] = set()

    def watch(prompt: Prompt, verdicts: list[Verdict]) -> None:
        if pool.thresholds.decided(verdicts, k):
            cancelled.add(prompt.id)

    with pool.all_or_nothing():  # a batch that was not filled was never drawn
        while len(out.accepted if refill else out.judged) < wanted:
            if out.rounds == max_rounds:
                raise PoolExhausted(
                    f"filter.max_rounds: only {len(out.accepted)} of {wanted} groups were accepted in {max_rounds} "
                    f"rounds ({len(out.judged)} drawn): raise it, widen filter.t_hard to filter.t_easy, or lower "
                    "batch.prompts"
                )
            missing = wanted - len(out.accepted)
            prompts = pool.draw(min(pool.needed(missing), 2 * wanted) if refill else wanted - len(out.judged))
            cancelled.clear()
            seed_of_round = seed_of(seed, out.rounds)

            def sampled(own: Sequence[Prompt], seed: int = seed_of_round) -> Iterator[Group]:
                rollouts = engine.generate(own, k, seed, sampling, cancelled)
                return verifier.groups(_only(version, rollouts), k, watch if early_stop else None)

            found = {group.prompt.id: group for group in ranks.share(prompts, sampled, lambda group: each())}
            fates = [pool.judge(found[p.id]) for p in prompts]  # in the order of drawing, not of finishing
            pool.observe(fates.count("train"), len(fates))
            for prompt, fate in zip(prompts, fates, strict=True):
                out.add(found[prompt.id], fate)
            out.rounds += 1
        pool.put_back(group.prompt for group in out.surplus)
    return out


def _only(version: int, steps: Iterable[Sequence[Sampled]]) -> Iterator[Sequence[Sampled]]:
    """What was sampled, as long as it is of ``version``."""
    for step in steps:
        for prompt, index, rollout in ((s.prompt, s.index, s.rollout) for s in step):
            if rollout.version != version:
                stamp = "no version" if rollout.version == UNVERSIONED else f"version {rollout.version}"
                raise StaleEngine(
                    f"rollout {index} of {prompt.id!r} was sampled from weights of {stamp}, the policy is at version "
                    f"{version} (optimizer steps): the engine missed a sync; nothing was learned from it, go on with "
                    "--resume"
                )
        yield step
