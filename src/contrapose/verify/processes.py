"""This side of the grader's processes: the nursery that forks workers, and a worker that is asked and can be killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from contrapose.types import ContraposeError
from contrapose.verify.grading import Finding, Grading


class GraderError(ContraposeError):
    """The grader cannot grade: it does not start, or fails its self-test. No verdict of it may be believed."""

    exit_code = 4


class NoGrader(GraderError):
    """What ``verify.domain`` names cannot be imported: a setting to mend."""

    exit_code = 2


@dataclass(frozen=True)
class Limits:
    """What one answer may cost. ``cpu_seconds`` of processor time decide, so that a busy machine changes no verdict;
    ``seconds`` of wall time are the deadline for what waits instead of working. ``memory_gib`` bounds the address space
    of a worker. ``workers`` 0: one for each processor that this process has for itself, at most 8.
    """

    seconds: float = 5.0
    cpu_seconds: float = 2.0
    memory_gib: float = 1.0
    workers: int = 0

    @property
    def count(self) -> int:
        """How many workers there are."""
        processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes on this machine
        return self.workers or max(1, min(8, processors // ranks))


NESTED = "CONTRAPOSE_NURSERY"
"""Set where graders are imported: a module that starts graders when it is imported would do so for ever."""

READY = 60.0
"""Seconds within which a grader must be imported."""


class Nursery:
    """The process that forks workers. It is started at once and gets ready in the background."""

    def __init__(self, grading: Grading, limits: Limits) -> None:
        if NESTED in os.environ:
            raise GraderError("a module that is imported as a grader starts graders: put that under __main__")
        ours, theirs = socket.socketpair()
        order = json.dumps({"grading": asdict(grading), **asdict(limits)})
        command = [sys.executable, "-P", "-W", "ignore", "-m", "contrapose.verify.nursery", str(theirs.fileno()), order]
        # hashes and threads are fixed, so that verdicts are
        fixed = {NESTED: "1", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            importable = os.pathsep.join([*filter(None, sys.path), os.getcwd()])  # there what is so here
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, **fixed, "PYTHONPATH": importable},
                start_new_session=True,  # Ctrl-C is for us alone
            )
        except OSError as error:
            ours.close()
            raise GraderError(f"the grader's process cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
        ours.settimeout(READY)
        self._control = ours
        self._turn = threading.Lock()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def bear(self) -> Worker:
        """A fresh worker. Raises GraderError when the grader cannot be imported, OSError when the machine fails."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                reply = self._ask({"bear": 1}, [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        if "pid" in reply:
            return Worker(self, reply["pid"], ours)
        ours.close()
        if "no worker" in reply["error"]:
            raise OSError(reply["error"])
        kind = NoGrader if reply["error"].startswith("verify.domain: ") else GraderError
        raise kind(f"the grader cannot start: {reply['error']}")

    def reap(self, pid: int) -> int | None:
        """How the dead worker ended: its exit code, or minus the signal; None where nobody can say any more."""
        try:
            return int(self._ask({"reap": pid}, [])["code"])
        except OSError:
            return None

    def close(self) -> None:
        """End it, and with it every worker."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # whoever waits for an answer wakes up
        with self._turn:  # and only then may the descriptor be another's
            self._control.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:  # it is still importing
            self._process.kill()
            self._process.wait()

    def _ask(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        with self._turn:
            socket.send_fds(self._control, [json.dumps(request).encode()], fds)
            reply = b""
            while not reply.endswith(b"\n"):
                part = self._control.recv(4096)
                if not part:
                    raise OSError("the grader's process died")
                reply += part
        return json.loads(reply)  # type: ignore[no-any-return]


class Worker:
    """One process that grades. ``fresh`` until it has answered; ``killed`` once somebody else has ended it."""

    def __init__(self, nursery: Nursery, pid: int, connection: socket.socket) -> None:
        self.nursery, self.pid, self.fresh, self.killed = nursery, pid, True, False
        self._connection, self._read = connection, b""
        self._asked = self._answered = 0

    def send(self, jobs: list[bytes], seconds: float) -> None:
        """Ask for findings on jobs, ``[gold, text]`` as JSON, in this order. A worker that has died or does not read is
        noticed when it is listened to."""
        lines = [b"[%d,%s]\n" % (self._asked + n, job) for n, job in enumerate(jobs)]
        self._asked += len(jobs)
        self._connection.settimeout(seconds)
        with suppress(OSError):
            self._connection.sendall(b"".join(lines))

    def receive(self, seconds: float) -> tuple[Finding | None, bool]:
        """The next finding, and whether the worker goes on; None where it died for no fault of the answer's.

        A worker that is silent for ``seconds`` is killed; so is, by the kernel, one that has used up its processor
        time. Either is a ``timeout``.
        """
        start = time.monotonic()
        line = self._line(start + seconds)
        with suppress(ValueError, TypeError):  # what no worker of ours would say is as good as its death
            number, last, *finding = json.loads(line or b"")
            if number == self._answered:
                self.fresh, self._answered = False, self._answered + 1
                if last:
                    self.kill()
                return Finding(*finding), not last
        overdue = line is None
        code = self.kill()
        self.killed = not overdue and code == -signal.SIGKILL
        if overdue or code == -signal.SIGPROF:
            return Finding("timeout", seconds=time.monotonic() - start), False
        return None, False

    def kill(self) -> int | None:
        """End it at once, whatever it is doing; returns how it ended, the first time."""
        if self._connection.fileno() < 0:
            return None  # its number may be another's by now
        for kill in (os.killpg, os.kill):  # with its children, if it has any; itself, should it have left its group
            with suppress(OSError):
                kill(self.pid, signal.SIGKILL)
        self._connection.close()
        return self.nursery.reap(self.pid)

    def _line(self, deadline: float) -> bytes | None:
        """The next line, empty where the worker is gone, None after the deadline."""
        while b"\n" not in self._read:
            self._connection.settimeout(max(1e-3, deadline - time.monotonic()))
            try:
                part = self._connection.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                part = b""
            if not part:
                return b""
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line
