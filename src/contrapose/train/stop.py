"""Ctrl-C and SIGTERM ask a run to stop; it answers at the next safe point. A second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from contrapose.rollout.ranks import ALONE, Ranks
from contrapose.types import Stopped


class StopRequest:
    """A context in which SIGINT and SIGTERM set ``requested`` instead of ending the process."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.requested = False
        self._ranks = ranks
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Stopped if any rank was asked to stop. Called where nothing is half done."""
        if self._ranks.any(self.requested):
            raise Stopped

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._ranks.world == 1 or number == signal.SIGINT:
            self._restore()  # of several processes each may be told twice to end, by a scheduler and by torchrun

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
