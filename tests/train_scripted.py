"""Stand-ins with a script: an engine whose answers are written beforehand, and groups without a model."""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from contrapose.rollout.sampler import Sampling
from contrapose.types import Group, Prompt, Rollout, Sampled, Verdict


def rollout(text: str = "", tokens: Sequence[int] = (5, 6, 1), finished: str = "stop", version: int = 0) -> Rollout:
    return Rollout(tuple(tokens), (1,) * len(tokens), (-1.0,) * len(tokens), text, finished, version)


def verdict(correct: bool, reward: float | None = None, status: str = "") -> Verdict:
    reward = float(correct) if reward is None else reward
    return Verdict(reward, correct, "x", status or ("correct" if correct else "wrong"), 0.0)


def group(prompt: str, right: Sequence[bool]) -> Group:
    return Group(Prompt(prompt, prompt, "1", tokens=(3,)), (rollout(),) * len(right), tuple(map(verdict, right)))


def ragged(count: int = 4, k: int = 8, seed: int = 0) -> list[Group]:
    """Ragged groups: mixed, dead, shaped rewards, an empty completion, a hole in a mask."""
    rng = random.Random(seed)
    out = []
    for q in range(count):
        right = [rng.random() < 0.4 for _ in range(k)] if q else [False] * k
        rollouts = []
        for i in range(k):
            tokens = tuple(rng.randrange(2, 20) for _ in range(0 if (q, i) == (1, 3) else rng.randint(1, 9)))
            mask = tuple(int(t != 2 or len(tokens) > 2) for t in range(len(tokens)))
            rollouts.append(Rollout(tokens, mask, (0.0,) * len(tokens), "", "stop"))
        prompt = Prompt(f"p{q}", "", "", tokens=tuple(rng.randrange(2, 20) for _ in range(rng.randint(1, 5))))
        verdicts = tuple(Verdict(1.0 if r else rng.choice((0.0, 0.1)), r, None, "", 0.0) for r in right)
        out.append(Group(prompt, tuple(rollouts), verdicts))
    return out


def at_once(prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Sampled]:
    """A decode step in which a whole group finished."""
    return [Sampled(prompt, i, r) for i, r in enumerate(rollouts)]


def by_prompt(steps: Iterable[Sequence[Sampled]]) -> dict[str, tuple[Rollout, ...]]:
    """What an engine sampled, in the order in which groups were complete; every index stands once."""
    found: dict[str, dict[int, Rollout]] = {}
    for s in (s for step in steps for s in step):
        group = found.pop(s.prompt.id, {})
        assert s.index not in group
        found[s.prompt.id] = group | {s.index: s.rollout}
    assert all(sorted(group) == list(range(len(group))) for group in found.values())
    return {name: tuple(group[i] for i in sorted(group)) for name, group in found.items()}


class ScriptedEngine:
    """Answers ``answers(prompt, round)`` of the ``k`` rollouts right, and finishes prompts in reverse order."""

    trainer_numerics = False

    def __init__(self, answers: Callable[[Prompt, int], int]) -> None:
        self.answers = answers
        self.rounds: list[list[str]] = []
        self.version = 0

    def sync(self, model: object, version: int = 0) -> None:
        self.version = version

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling, cancelled: Collection[str] = ()
    ) -> Iterator[list[Sampled]]:
        self.rounds.append([p.id for p in prompts])
        for prompt in reversed(prompts):
            right = self.answers(prompt, len(self.rounds) - 1)
            texts = [rf"\boxed{{{prompt.answer}}}"] * right + [r"\boxed{-1}"] * (k - right)
            yield at_once(prompt, [rollout(text, version=self.version) for text in texts])
