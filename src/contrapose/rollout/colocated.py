"""vLLM in the trainer's own process, on the same device. While nobody samples it sleeps, and its memory is free."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from contrapose.policy.model import weights_of
from contrapose.rollout.answers import Answer
from contrapose.rollout.engine import EngineFailed, StaleEngine
from contrapose.rollout.sampler import Sampling
from contrapose.rollout.vllm import Ask
from contrapose.types import ContraposeError, told

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over as they lie in memory
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

NAME, SHOWN = "vllm in this process", 300


class Colocated:
    """A ``Place`` in this process. ``share`` is what it may take of a GPU's memory.

    Raises ContraposeError where vLLM is not installed, or cannot run the model in ``folder``.
    """

    def __init__(self, folder: str, dtype: str, share: float) -> None:
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        self._naps = torch.cuda.is_available()
        settings: dict[str, Any] = {
            "dtype": dtype,
            "load_format": "dummy",  # what is not handed over is noise, and the canary hears it
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # not what the model's authors like to sample with
            "logprobs_mode": "processed_logprobs",
            "max_model_len": -1,  # as much of the model's context as there is memory for
            "gpu_memory_utilization": share,
            "enable_sleep_mode": self._naps,
            "enforce_eager": not self._naps,
            "disable_log_stats": True,
        }
        self._llm = _started(folder, **settings)
        config = self._llm.llm_engine.vllm_config
        self.names: Sequence[str] = (NAME,)
        self.context: int | None = config.model_config.max_model_len
        self.side_by_side: int = config.scheduler_config.max_num_seqs
        self._count = count()
        self._sleep()

    def hand_over(self, model: PreTrainedModel, label: str) -> None:
        """See ``Place.hand_over``. Nobody else gives it weights, and they end with the process: they need no label."""
        with _plain_errors("did not take the weights"):
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights_of(model)})
        if not self._llm.reset_prefix_cache():
            raise StaleEngine(f"{NAME} did not reset its prefix cache, which holds what other weights say")

    def answers(
        self,
        asks: Sequence[Ask],
        sampling: Sampling,
        eos: tuple[int, ...],
        label: str | None,
        dropped: Collection[int] = (),
    ) -> Iterator[list[Answer]]:
        """See ``Place.answers``. What ends and what is dropped follows from the steps, not from time."""
        engine = self._llm.llm_engine
        numbers = {str(next(self._count)): number for number in range(len(asks))}
        grown: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in numbers}
        try:
            with _plain_errors("did not take a prompt"):
                for name, ask in zip(numbers, asks, strict=True):
                    (prompt,) = engine.renderer.render_cmpl([{"prompt_token_ids": list(ask.tokens)}])
                    engine.add_request(name, prompt, _params(ask, sampling, eos))
            while grown:
                with _plain_errors("failed while sampling"):
                    outs = engine.step()
                ended = [out.request_id for out in outs if _grow(out, grown[out.request_id])]
                if ended:
                    yield [Answer(numbers[name], *grown.pop(name), False) for name in ended]
                gone = [name for name in grown if numbers[name] in dropped] if dropped else []
                if gone:
                    engine.abort_request(gone)
                    yield [Answer(numbers[name], *grown.pop(name), True) for name in gone]
        finally:
            engine.abort_request(list(grown))

    @contextmanager
    def awake(self) -> Iterator[None]:
        """See ``Place.awake``."""
        if self._naps:
            self._llm.wake_up()
        try:
            yield
        finally:
            self._sleep()

    def _sleep(self) -> None:
        if self._naps:
            self._llm.sleep(level=1)  # weights go to the host's memory, and come back without being handed over


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EngineFailed(f"{NAME} {what}: {told(error)[:SHOWN]}") from error


def _started(folder: str, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its libraries will no longer have
        try:
            from vllm import LLM
        except ImportError as error:
            mend = "pip install 'contrapose[vllm]', or name servers in rollout.servers"
            raise ContraposeError(f"rollout.engine: vllm cannot be imported ({error}): {mend}") from None
        try:
            return LLM(folder, **settings)
        except Exception as error:
            raise ContraposeError(f"rollout.engine: vllm cannot run {folder}: {told(error)[:SHOWN]}") from error


def _params(ask: Ask, sampling: Sampling, eos: tuple[int, ...]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=ask.seed,
        logprobs=0,  # those of the chosen tokens
        ignore_eos=True,  # its own, as far as it knows any
        stop_token_ids=list(eos),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _grow(out: Any, answer: tuple[list[int], list[float]]) -> bool:
    """Take in what a step added to an answer; whether it ends there."""
    (new,) = out.outputs
    tokens, logp = answer
    tokens.extend(new.token_ids)
    logp.extend(at[token].logprob for token, at in zip(new.token_ids, new.logprobs or (), strict=True))
    return bool(out.finished)
