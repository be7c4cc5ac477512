"""A pool of isolated, killable graders: every item gets a finding in bounded time, whatever it or its neighbours do."""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import cache

from contrapose.verify.grading import Finding, Grading, probes
from contrapose.verify.processes import GraderError, Limits, Nursery, Worker

LONGEST_TEXT = 16_000_000
"""Characters. A longer response is not even sent to a worker."""

AT_ONCE, BYTES_AT_ONCE = 32, 65_536
"""How much a worker is sent together, at most: many items, so that short ones cost no waiting, and no more bytes than
a socket holds, so that sending does not wait for a worker that is busy."""

DEATHS, KILLINGS = 2, 20
"""So many fresh workers must die of an item before it is to blame; so many, where somebody or something killed them,
which is hardly ever the item's doing."""


class _Item:
    """One response to grade, the fresh workers that died or were killed over it, and whether any worker was."""

    __slots__ = ("deaths", "future", "job", "killings", "suspect")

    def __init__(self, gold: str, text: str) -> None:
        self.job = json.dumps([gold, text]).encode()
        self.future: Future[Finding] = Future()
        self.future.set_running_or_notify_cancel()  # it cannot be cancelled
        self.deaths, self.killings, self.suspect = 0, 0, False


class Workers:
    """Grades from any thread, in processes of its own that start in the background.

    What an answer does to its worker is its finding (``timeout``, ``memory``); a worker that dies for another reason
    costs nothing but a retry. An item that kills two fresh workers while others still grade is ``crashed``. Where the
    grader itself fails (it cannot be imported, no process can be started, known answers are judged wrongly), every
    future and every later call raises GraderError.
    """

    def __init__(self, grading: Grading = Grading(), limits: Limits = Limits()) -> None:
        self.grading, self.limits = grading, limits
        self._queue: deque[_Item] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._failure: GraderError | None = None
        self.nursery = Nursery(grading, limits)
        self._renewal = threading.Lock()
        self._probes = [(probe, self.submit(*probe[:2])) for probe in probes(grading)]
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(limits.count)]
        for thread in self._threads:
            thread.start()

    def submit(self, gold: str, text: str) -> Future[Finding]:
        """The finding to come. Its ``result()`` raises GraderError if the grader fails first."""
        item = _Item(gold, text if len(text) <= LONGEST_TEXT else "")
        with self._change:
            if self._failure:
                item.future.set_exception(self._failure)
            elif len(text) > LONGEST_TEXT:
                item.future.set_result(Finding("too_long"))
            else:
                self._queue.append(item)
                self._change.notify()
        return item.future

    def map(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Finding]:
        """The findings of ``(gold, text)`` pairs in their order, while later pairs are still being read."""
        waiting: deque[Future[Finding]] = deque()
        for pair in pairs:
            waiting.append(self.submit(*pair))
            if len(waiting) > 4 * AT_ONCE * len(self._threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def check(self) -> None:
        """Wait for the self-test. Raises GraderError, with the cause, if this grader cannot grade."""
        for (gold, text, expected), future in self._probes:
            status = future.result().status
            if expected and status != expected:
                self._fail(_mistaken(gold, text, expected, status))
        if self._failure:
            raise self._failure
        self._probes = []

    def close(self) -> None:
        """End every process. What has not been graded yet raises GraderError."""
        with self._change:
            self._closed = True
        self._fail(GraderError("the grader was closed"))
        self.nursery.close()
        for thread in self._threads:
            thread.join()
        self.nursery.close()  # one of them may just have renewed it

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        """What each thread does: feed a worker, and replace it when it is gone."""
        worker: Worker | None = None
        while items := self._take():
            try:
                if worker and items[0].suspect:
                    worker.kill()
                    worker = None
                worker = self._grade(worker or self._start(), items)
            except Exception as error:  # whatever it is, nobody must wait for ever
                worker = None
                self._fail(error if isinstance(error, GraderError) else GraderError(f"the grader failed: {error!r}"))
                self._give_back([item for item in items if not item.future.done()])
        if worker:
            worker.kill()

    def _take(self) -> list[_Item]:
        """The next items for one worker: a share of the queue, or a suspect alone. Nothing at the end."""
        with self._change:
            while not self._queue and not self._closed:
                self._change.wait()
            if self._closed:
                return []
            share = min(AT_ONCE, -(-len(self._queue) // len(self._threads)))
            items: list[_Item] = []
            size = 0
            while self._queue and (not items or len(items) < share):
                size += len(self._queue[0].job)
                if items and (size > BYTES_AT_ONCE or self._queue[0].suspect):
                    break
                items.append(self._queue.popleft())
                if items[0].suspect:
                    break
            return items

    def _grade(self, worker: Worker, items: list[_Item]) -> Worker | None:
        """Settle ``items`` in order; give back those that were not reached. Returns the worker if it still lives."""
        worker.send([item.job for item in items], self.limits.seconds)
        for number, item in enumerate(items):
            fresh = worker.fresh
            finding, alive = worker.receive(self.limits.seconds)
            if finding:
                item.future.set_result(finding)
            if not alive:
                rest = items[number + 1 :]
                if not finding:
                    rest = [item, *rest] if self._may_live(item, fresh, worker.killed) else rest
                self._give_back(rest)
                return None
        return worker

    def _may_live(self, item: _Item, fresh: bool, killed: bool) -> bool:
        """Whether an item whose worker died is tried again; otherwise it is settled as crashed."""
        if self._closed:
            return True
        item.suspect = True
        item.deaths += fresh and not killed
        item.killings += fresh and killed
        if item.deaths < DEATHS and item.killings < KILLINGS:
            return True
        if not any(self._self_test() for _ in range(KILLINGS)):  # if graders die of anything, it was not the item
            raise GraderError("the grader cannot grade: its workers are killed from outside, whatever they grade")
        item.future.set_result(Finding("crashed", note="its workers died"))
        return False

    def _self_test(self) -> bool:
        """Grade what is known on a fresh worker; False if somebody killed it meanwhile. Raises GraderError."""
        worker = self._start()
        known = probes(self.grading)
        worker.send([json.dumps(probe[:2]).encode() for probe in known], self.limits.seconds)
        try:
            for gold, text, expected in known:
                finding, alive = worker.receive(self.limits.seconds)
                if worker.killed:
                    return self._closed
                if not finding or not alive:
                    raise GraderError(f"the grader cannot grade: its workers die, also of {text!r}")
                if expected and finding.status != expected:
                    raise _mistaken(gold, text, expected, finding.status)
        finally:
            worker.kill()
        return True

    def _start(self) -> Worker:
        """A fresh worker, from a fresh nursery if the old one is gone."""
        for last in (False, True):
            nursery = self.nursery
            try:
                return nursery.bear()
            except OSError as error:
                if last or self._closed:
                    raise GraderError(f"the grader's processes cannot be started: {error}") from None
            with self._renewal:
                if self.nursery is nursery and not self._closed:
                    nursery.close()
                    self.nursery = Nursery(self.grading, self.limits)
        raise AssertionError

    def _give_back(self, items: list[_Item]) -> None:
        """Put what was not graded at the front of the queue; once the grader has failed, let its askers know."""
        with self._change:
            if not self._failure:
                self._queue.extendleft(reversed(items))
                self._change.notify(len(items))
                return
        for item in items:
            item.future.set_exception(self._failure)

    def _fail(self, error: GraderError) -> None:
        """From now on everything raises ``error``, or what came before it."""
        with self._change:
            self._failure = self._failure or error
            left = list(self._queue)
            self._queue.clear()
            self._change.notify_all()
        self._give_back(left)


def _mistaken(gold: str, text: str, expected: str, status: str) -> GraderError:
    return GraderError(
        f"the grader cannot grade: {text!r} for the gold answer {gold!r} should be {expected}, was {status} "
        "(is math-verify whole? contrapose doctor shows its version)"
    )


def shared(grading: Grading, limits: Limits) -> Workers:
    """The pool of these settings, started once in a process and closed at its end. A fork has its own."""
    with _SHARING:
        return _shared(grading, limits)


@cache
def _shared(grading: Grading, limits: Limits) -> Workers:
    workers = Workers(grading, limits)
    atexit.register(_close_in, os.getpid(), workers)
    return workers


def _close_in(process: int, workers: Workers) -> None:
    if os.getpid() == process:
        workers.close()


def _after_fork() -> None:
    """The threads that feed a pool do not survive a fork."""
    _shared.cache_clear()
    _SHARING.release()


_SHARING = threading.RLock()
os.register_at_fork(before=_SHARING.acquire, after_in_parent=_SHARING.release, after_in_child=_after_fork)
