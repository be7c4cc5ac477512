"""Stand-ins with a script: an engine whose answers are written beforehand, and groups without a model."""

from collections.abc import Callable, Iterator, Sequence

from contrapose.rollout.sampler import Sampling
from contrapose.types import Group, Prompt, Rollout, Verdict


def rollout(text: str = "", tokens: Sequence[int] = (5, 6, 1), finished: str = "stop") -> Rollout:
    return Rollout(tuple(tokens), (1,) * len(tokens), (-1.0,) * len(tokens), text, finished)


def verdict(correct: bool, reward: float | None = None) -> Verdict:
    reward = float(correct) if reward is None else reward
    return Verdict(reward, correct, "x", "correct" if correct else "wrong", 0.0)


def group(prompt: str, right: Sequence[bool]) -> Group:
    return Group(Prompt(prompt, prompt, "1", tokens=(3,)), (rollout(),) * len(right), tuple(map(verdict, right)))


class ScriptedEngine:
    """Answers ``answers(prompt, round)`` of the ``k`` rollouts right, and yields groups in reverse order."""

    def __init__(self, answers: Callable[[Prompt, int], int]) -> None:
        self.answers = answers
        self.rounds: list[list[str]] = []

    def sync(self, model: object) -> None:
        pass

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Rollout, ...]]]:
        self.rounds.append([p.id for p in prompts])
        for prompt in reversed(prompts):
            right = self.answers(prompt, len(self.rounds) - 1)
            texts = [rf"\boxed{{{prompt.answer}}}"] * right + [r"\boxed{-1}"] * (k - right)
            yield prompt, tuple(rollout(text) for text in texts)
