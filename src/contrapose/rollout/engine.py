"""What the loop asks of anything that samples: rollouts, each as soon as it is finished."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from contrapose.rollout.sampler import Sampling
from contrapose.types import UNVERSIONED, ContraposeError, Prompt, Sampled

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAX_DRIFT = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.3}
"""Mean gap between an engine's and the trainer's log-probs of the same tokens, nats a token, by the type of the
weights. Honest is what rounding explains: at most 6e-6 in float32 and 0.1 in bfloat16, in models of 2 to 24 layers;
``rollout.max_drift`` sets another bound."""


class EngineFailed(ContraposeError):
    """An engine gives no answer, or none that can be read: it is gone, hangs, or has no weights to sample from."""

    exit_code = 69


class StaleEngine(ContraposeError):
    """An engine samples from other weights than those it was told to take."""

    exit_code = 69


class RolloutEngine(Protocol):
    """Samples K answers to each prompt under the present policy.

    What it returns is a function of ``(policy, prompts, k, seed, sampling)`` and of what is cancelled after which
    yield; neither time nor the number of workers may show in it. Only the last bits of log-probs may depend on what is
    sampled side by side.
    """

    @property
    def trainer_numerics(self) -> bool:
        """Whether the log-probs it states are what the trainer would compute, but for the last bits.

        They are old log-probs then, and no pass of the trainer's is needed for these.
        """
        ...

    def sync(self, model: PreTrainedModel, version: int = UNVERSIONED) -> None:
        """Sample from ``model``'s present weights from now on (pi_old <- pi_theta).

        ``version`` is how many optimizer steps they have seen. Every rollout is stamped with that of the weights it was
        really sampled from; training takes no rollout of another version than the policy's.
        """
        ...

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling, cancelled: Collection[str] = ()
    ) -> Iterator[list[Sampled]]:
        """Yield the rollouts that finished at each decode step, until every prompt has ``k`` of them.

        Prompts carry their tokens. ``cancelled`` holds ids of prompts, and the caller may add to it at every yield:
        before the next decode step what these prompts have not finished is handed over as it is, ``"cancelled"``.
        """
        ...
