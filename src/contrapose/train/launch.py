"""How the processes of a run meet and part: where one fails all end, and the first to fail says why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contrapose.rollout.ranks import ALONE, Elsewhere, Ranks
from contrapose.types import ContraposeError

__all__ = ["ALONE", "Ranks", "together"]

LOST = ("connection closed", "connection reset", "broken pipe", "nccl", "timed out waiting")
"""What the library says, in some case, when another process is gone or hangs."""


class LostRank(ContraposeError):
    """Another process of the run ended, or hangs, and said nothing."""

    exit_code = 71


@contextmanager
def together() -> Iterator[Ranks]:
    """The processes that torchrun started. What fails in one of them is raised there as one line with its rank; the
    others end without a word."""
    ranks = Ranks.join()
    try:
        yield ranks
    except Elsewhere as error:  # rank 0 says it
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        if not ranks.tell():
            raise SystemExit(getattr(error, "exit_code", 1)) from None
        if isinstance(error, ContraposeError) and not ranks.leads:
            error.args = (f"rank {ranks.rank} of {ranks.world}: {error}",)
        if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in LOST):
            raise LostRank(
                f"rank {ranks.rank} of {ranks.world}: another rank ended without a word, or hangs (was it killed, for "
                "memory perhaps? torchrun says which); the last checkpoint is whole, go on with --resume"
            ) from error
        raise
    ranks.leave()
