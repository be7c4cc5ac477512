"""The process beside ours in which graders live: it imports them once and forks a worker whenever it is asked to.

Run as ``python -m contrapose.verify.nursery CONTROL ORDER``. It never sees a model's text; its workers see nothing
else. A fork costs milliseconds where a fresh interpreter would import for a second, and nothing of the trainer (its
threads, its main module, its memory) is inherited. Both ends speak lines of JSON: what comes from a worker is read as
data, never unpickled.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from contrapose.types import ContraposeError
from contrapose.verify.conventions import Conventions
from contrapose.verify.grading import Finding, Grade, Grading, grader, probes

SWOLLEN = 0.25
"""Share of its memory by which a worker may grow before it is replaced; one answer that costs so much and is not right
counts as a memory bomb, since symbolic code swallows MemoryError and calls the answer wrong."""

OUT_OF_MEMORY = Finding("memory")

REFUSED = ("socket.", "subprocess.", "shutil.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")
REFUSED_FILES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Serve requests on the control socket until the other end is gone; then kill every worker."""
    os.dup2(2, 1)  # what a module says when imported is no output of ours
    control, order = socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2])
    grade, failure = None, ""
    try:
        grade = _ready(order["grading"])
    except ContraposeError as error:
        failure = str(error)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    children: set[int] = set()
    with suppress(OSError):
        while _answer(control, grade, failure, order, children):
            pass
    for pid in children:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _answer(
    control: socket.socket, grade: Grade | None, failure: str, order: dict[str, Any], children: set[int]
) -> bool:
    """Serve one request: a worker to be forked, or the exit code of one that is dead. False when nobody asks."""
    message, fds, _, _ = socket.recv_fds(control, 1024, 1)
    if not message:
        return False
    request = json.loads(message)
    if "reap" in request:
        reply: dict[str, Any] = {"code": os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])}
        children.discard(request["reap"])
    else:
        reply = _bear(control, fds[0], grade, order, children) if grade else {"error": failure}
    for fd in fds:
        os.close(fd)
    control.sendall(json.dumps(reply).encode() + b"\n")
    return True


def _ready(settings: dict[str, Any]) -> Grade:
    """The grader, warm: parsers build their tables at first use, and a fork inherits them."""
    for library in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # what they say of an answer, its verdict says
    grading = Grading(**{**settings, "conventions": Conventions(**settings["conventions"])})
    grade = grader(grading)
    for gold, text, status in probes(grading):
        if status:
            grade(gold, text)
    gc.collect()
    gc.freeze()
    return grade


def _bear(control: socket.socket, fd: int, grade: Grade, order: dict[str, Any], children: set[int]) -> dict[str, Any]:
    try:
        pid = os.fork()
    except OSError as error:
        return {"error": f"no worker could be started: {error.strerror}"}
    if pid == 0:
        try:
            control.close()
            _work(socket.socket(fileno=fd), grade, order["cpu_seconds"], int(order["memory_gib"] * 2**30))
        finally:
            os._exit(0)
    with suppress(OSError):
        os.setpgid(pid, pid)
    children.add(pid)
    return {"pid": pid}


def _work(jobs: socket.socket, grade: Grade, cpu_seconds: float, memory: int) -> None:
    """Grade one job after the other until there are no more, or one has cost too much memory."""
    _confine(memory)
    inherited = _peak()
    for line in jobs.makefile("rb"):
        number, (gold, text) = json.loads(line)
        start, before = time.perf_counter(), _peak()
        # the kernel ends a process that has used up its processor time, whatever it is doing
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            finding = grade(gold, text)
        except MemoryError:
            finding = OUT_OF_MEMORY  # made beforehand: here there may be none left to make anything of
        except Exception as error:
            finding = Finding("crashed", note=f"{type(error).__name__}: {error}"[:300])
        signal.setitimer(signal.ITIMER_PROF, 0)
        swollen = _peak() - inherited > SWOLLEN * memory
        if _peak() - before > SWOLLEN * memory and finding.status != "correct":
            finding = finding._replace(status="memory", score=0.0)
        finding = finding._replace(seconds=time.perf_counter() - start)
        jobs.sendall(json.dumps([number, swollen, *finding]).encode() + b"\n")
        if swollen:
            return


_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _confine(memory: int) -> None:
    """Bound memory, send what is printed to stderr, and refuse what no grader needs.

    The refusals are a second wall, for a grader that could be talked into running what it reads; they are no sandbox
    for hostile native code.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(2, 1)
    sys.dont_write_bytecode = True
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED) or event in REFUSED_FILES or (event == "open" and args[2] & WRITES):
        raise PermissionError(f"a grader may not do this: {event}")


if __name__ == "__main__":
    main()
