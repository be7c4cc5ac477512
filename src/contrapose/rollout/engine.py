"""What the loop asks of anything that samples: groups of rollouts, one group as soon as it is finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from contrapose.rollout.sampler import Sampling
from contrapose.types import Prompt, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RolloutEngine(Protocol):
    """Samples K answers to each prompt under the present policy.

    What it returns is a function of ``(policy, prompts, k, seed, sampling)``; neither time nor the number of
    workers may show in it.
    """

    def sync(self, model: PreTrainedModel) -> None:
        """Sample from ``model``'s present weights from now on (pi_old <- pi_theta)."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Rollout, ...]]]:
        """Yield each prompt with its ``k`` rollouts as the group finishes. Prompts carry their tokens."""
        ...
