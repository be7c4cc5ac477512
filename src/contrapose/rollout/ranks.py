"""The processes of one run. Every rank goes through the same steps and holds the same groups, batch and schedules; only
the work is dealt out: which prompts it samples and grades, which rows pass through the policy. Rank 0 alone writes.

One process does as if it were all of them, at no cost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from contrapose.types import ContraposeError, Stopped, told

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

dist: Any = torch.distributed  # half of what it offers is not in its own list
T = TypeVar("T")
S = TypeVar("S")

FIRST_TO_FAIL = "contrapose/failed"
WAIT = timedelta(hours=3)
"""How long a rank waits for another: the longest answers of a step may all be one rank's."""


class Elsewhere(ContraposeError):
    """Rank 0 failed at what it does for all, and says so itself."""


class Ranks:
    """``rank`` of ``world`` processes, of which the first ``samplers`` have an engine to sample with.

    All methods but ``tell`` are called by all ranks, in the same order.
    """

    def __init__(self, rank: int = 0, world: int = 1, store: Any = None) -> None:
        self.rank, self.world = rank, world
        self.samplers = world
        self._store = store
        self._sharing = False

    @classmethod
    def join(cls) -> Ranks:
        """Meet the processes that torchrun started, or be alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        store, rank, world = next(dist.rendezvous("env://"))
        _meet(store, rank, world)
        return cls(rank, world, store)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes and speaks."""
        return self.rank == 0

    def leave(self) -> None:
        """Part from the others, when the work is done."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def mesh(self, shard: int) -> DeviceMesh:
        """Ranks as they split weights: each ``shard`` of them hold one copy together."""
        from torch.distributed.device_mesh import init_device_mesh

        if self.world % shard:
            raise ContraposeError(f"parallel.shard: {shard} does not divide the {self.world} ranks")
        if not dist.is_initialized():
            _meet(dist.HashStore(), 0, 1)  # the library splits over one as well
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if shard == self.world:
            return init_device_mesh(device, (self.world,), mesh_dim_names=("parts",))
        return init_device_mesh(device, (self.world // shard, shard), mesh_dim_names=("copies", "parts"))

    def share(
        self, items: Sequence[S], work: Callable[[Sequence[S]], Iterable[T]], each: Callable[[T], None] = lambda _: None
    ) -> list[T]:
        """What ``work`` makes of all items, each sampler of its part; ``each`` sees a rank's own as they come.

        Raises Stopped on all where any rank was stopped.
        """
        samples = self.rank < self.samplers
        mine, found, stopped = items[self.rank :: self.samplers] if samples else (), [], False
        self._sharing = True
        try:
            for one in work(mine) if mine else ():
                found.append(one)
                each(one)
        except Stopped:
            if self.world == 1:
                raise
            stopped = True
        finally:
            self._sharing = False
        parts = self.gather(None if stopped else found)
        if None in parts:
            raise Stopped
        return [one for part in parts if part is not None for one in part]

    def gather(self, value: T) -> list[T]:
        """Every rank's ``value``, in their order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def first(self, work: Callable[[], T]) -> T:
        """What rank 0 makes, for all. Where it fails all do, and it alone says why."""
        if self.world == 1:
            return work()
        made: list[Any] = [None, None]
        error: BaseException | None = None
        if self.leads:
            try:
                made = [work(), None]
            except Exception as failure:
                error, made = failure, [None, (told(failure), getattr(failure, "exit_code", 1))]
        dist.broadcast_object_list(made, src=0)
        if error:
            raise error
        if made[1]:
            elsewhere = Elsewhere(made[1][0])
            elsewhere.exit_code = made[1][1]
            raise elsewhere
        value: T = made[0]
        return value

    def any(self, flag: bool) -> bool:
        """Whether any rank says so. In the middle of ``share`` each speaks for itself; the others hear at its end."""
        return flag if self._sharing else any(self.gather(flag))

    def wait(self) -> None:
        """Go on when all are here."""
        self.gather(None)

    def sum_(self, x: Tensor) -> Tensor:
        """``x``, now the sum over the ranks."""
        if self.world > 1:
            dist.all_reduce(x)
        return x

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """The gradient of every weight becomes the sum over ranks. What a rank had no row for counts 0."""
        trained = list(weights) if self.world > 1 else []
        met = self.gather([w.grad is not None for w in trained])
        pending = []
        for number, weight in enumerate(trained):
            if any(of_rank[number] for of_rank in met):
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                pending.append(dist.all_reduce(weight.grad, async_op=True))
        for handle in pending:
            handle.wait()

    def tell(self) -> bool:
        """Whether this rank should say what went wrong: the first that fails, since others fail because of it."""
        if self.world == 1:
            return True
        try:
            return int(self._store.add(FIRST_TO_FAIL, 1)) == 1
        except RuntimeError:  # whoever held the store is gone
            return self.leads


def _meet(store: Any, rank: int, world: int) -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("contrapose", store),
        rank=rank,
        world_size=world,
        timeout=WAIT,
    )


ALONE = Ranks()
