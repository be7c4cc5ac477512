"""vLLM on servers of its own: an answer is a request, and weights travel through a folder that all of them see."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from contrapose.policy.model import weights_of
from contrapose.rollout.answers import Answer
from contrapose.rollout.client import Server
from contrapose.rollout.engine import EngineFailed
from contrapose.rollout.sampler import Sampling
from contrapose.rollout.vllm import Ask
from contrapose.types import ContraposeError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

AT_ONCE = 256
"""Requests that a server has at a time: as many as vLLM by default answers side by side."""

FILE_BYTES = 4 << 30
"""Weights are copied and written so much at a time."""


class Servers:
    """A ``Place`` of OpenAI-compatible vLLM servers, each with the whole model: ``docs/vllm.md`` has their command.

    ``addresses`` are ``http://host:port``. ``folder`` is where weights are left for them, and seen by them under the
    same path; empty: a temporary one of this machine. ``seconds`` bound one request. Raises ContraposeError for a
    server that gives no answer, or takes no weights.
    """

    def __init__(self, addresses: Sequence[str], folder: str = "", seconds: float = 1800.0) -> None:
        if folder and not Path(folder).is_dir():
            raise ContraposeError(f"rollout.weights: {folder} is not a folder")
        self.names: Sequence[str] = addresses
        self.folder = folder or None
        self.servers = [Server(address, seconds) for address in addresses]
        self.side_by_side = AT_ONCE * len(addresses)
        self.context = min((size for server in self.servers if (size := server.context())), default=None)
        self._name, self._count = secrets.token_hex(4), count()

    def hand_over(self, model: PreTrainedModel, label: str) -> None:
        """See ``Place.hand_over``. All servers read at the same time."""
        with _written(model, self.folder) as folder, ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(lambda server: server.take(folder, label), self.servers))

    def answers(
        self,
        asks: Sequence[Ask],
        sampling: Sampling,
        eos: tuple[int, ...],
        label: str | None,
        dropped: Collection[int] = (),
    ) -> Iterator[list[Answer]]:
        """See ``Place.answers``. What was not yet sent when it was dropped has no tokens."""
        names = [f"{self._name}-{next(self._count)}" for _ in asks]
        ended: SimpleQueue[Future[Answer]] = SimpleQueue()
        asked: dict[Future[Answer], int] = {}
        told: set[int] = set()  # that they are aborted
        pools = [ThreadPoolExecutor(AT_ONCE) for _ in self.servers]
        try:
            for number, (name, ask) in enumerate(zip(names, asks, strict=True)):
                part, body = ask.prompt % len(pools), _body(name, ask, sampling, eos)
                future = pools[part].submit(self.servers[part].answer, body, number, label)
                asked[future] = number
                future.add_done_callback(ended.put)
            while asked:
                done = [ended.get(), *(ended.get_nowait() for _ in range(ended.qsize()))]
                yield sorted(_of(future, number, number in told) for future in done for number in [asked.pop(future)])
                gone = {f: n for f, n in asked.items() if n in dropped and n not in told} if dropped else {}
                told.update(gone.values())
                self._cancel(gone, asks, names)
        finally:
            self._cancel(asked, asks, names)
            for pool in pools:
                pool.shutdown(wait=False)

    def awake(self) -> AbstractContextManager[None]:
        """See ``Place.awake``. Its memory is its own."""
        return nullcontext()

    def _cancel(self, asked: Mapping[Future[Answer], int], asks: Sequence[Ask], names: Sequence[str]) -> None:
        """What was not yet sent is not sent, the rest is aborted."""
        sent: dict[int, list[str]] = {}
        for future, number in asked.items():
            if not future.cancel():
                sent.setdefault(asks[number].prompt % len(self.servers), []).append(f"cmpl-{names[number]}-0")
        for part, running in sent.items():
            self.servers[part].abort(running)


def _of(future: Future[Answer], number: int, told: bool) -> Answer:
    try:
        answer = future.result()
    except CancelledError:
        return Answer(number, [], [], True)
    if answer.cancelled and not told:
        raise EngineFailed("rollout.servers: somebody else aborts requests: give each run servers of its own")
    return answer


def _body(name: str, ask: Ask, sampling: Sampling, eos: tuple[int, ...]) -> dict[str, Any]:
    """A request for one answer. What a server would take from the model's generation config is named."""
    return {
        "request_id": name,
        "prompt": ask.tokens,
        "seed": ask.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,
        "stop_token_ids": eos,
        "logprobs": 0,  # those of the chosen tokens
        "return_token_ids": True,
    }


@contextmanager
def _written(model: PreTrainedModel, folder: str | None) -> Iterator[Path]:
    """The weights as safetensors, in a folder that anyone may read, as long as it is needed."""
    with TemporaryDirectory(prefix="contrapose-weights-", dir=folder) as made:
        place = Path(made)
        place.chmod(0o755)
        try:
            for number, part in enumerate(_parts(weights_of(model))):
                save_file(part, place / f"model-{number:05d}.safetensors")
        except (OSError, SafetensorError) as error:
            mend = "give rollout.weights a folder with room for them"
            raise ContraposeError(
                f"rollout.weights: the weights cannot be written to {place} ({error}): {mend}"
            ) from None
        yield place


def _parts(weights: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Copies on the host, as many at a time as a file takes."""
    part: dict[str, Tensor] = {}
    for name, weight in weights:
        if part and sum(x.nbytes for x in part.values()) + weight.nbytes > FILE_BYTES:
            yield part
            part = {}
        part[name] = weight.to("cpu", copy=True).contiguous()
    yield part
