"""Functions used as graders: what a response says is done, whether a grader should do it or not."""

import ctypes
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

BLOCK = 1 << 22


def act(gold, text):
    """Do what the response says: a verb and its argument."""
    verb, _, argument = text.partition(" ")
    return ACTS[verb](argument)


def echo(gold, text):
    """Whether the whole response is the gold."""
    return text == gold


def die(gold, text):
    """A grader whose every worker dies."""
    os._exit(3)


def killed(gold, text):
    """A grader whose every worker is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def late(gold, text):
    """A grader that takes a millisecond."""
    time.sleep(1e-3)
    return text == gold


class Unprintable(Exception):
    """An error that cannot even be shown."""

    def __str__(self):
        raise ValueError


def _eat(limit=1 << 30):
    """Allocate and touch memory until there is none, or so much is taken; returns what was taken."""
    blocks = []
    while len(blocks) * BLOCK < limit:
        blocks.append(b"x" * BLOCK)
    return blocks


def _swallow(verdict):
    """Use up all memory and call the answer right or wrong all the same, as symbolic code does."""
    try:
        _eat()
    except MemoryError:
        return {"right": True, "half": 0.5}.get(verdict, False)
    raise AssertionError("there is no end to the memory")


def _peak(mebibytes):
    """Take what there is; say the greatest address space and resident size, as a share of ``mebibytes``."""
    with suppress(MemoryError):
        _eat(4 * int(mebibytes) * 2**20)
    peak = int(re.search(r"VmPeak:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    raise ValueError(max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024 / int(mebibytes))


HOARD = []


def _hoard(mebibytes):
    """Keep some memory, and call the answer wrong."""
    HOARD.append(b"x" * (int(mebibytes) << 20))
    return False


def _spin(seconds):
    """Use so much processor time, or all there is."""
    until = time.process_time() + float(seconds or "inf")
    while time.process_time() < until:
        pass
    return True


def _stubborn_spin(_):
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    _spin("")


def _recurse(_):
    return _recurse(_)


def _raise(error):
    raise error


def _leave(_):
    """Leave the process group, then hang."""
    os.setpgid(0, os.getppid())
    time.sleep(60)


def _babble(line):
    """Write to every descriptor there is, among them that of the answers."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, line.encode() + b"\n")
        except OSError:
            continue
    return True


def _write_to_descriptor(text):
    os.write(1, text.encode() + b"\n")
    return True


def _print(text):
    print(text, flush=True)  # noqa: T201
    sys.__stdout__.write(text + "\n")
    sys.__stdout__.flush()
    return True


def _create(path):
    return bool(os.close(os.open(path, os.O_CREAT | os.O_WRONLY))) or True


ACTS = {
    "right": lambda _: True,
    "wrong": lambda _: False,
    "score": float,
    "return": {"nan": float("nan"), "text": "x", "two": 2, "negative": -0.5, "none": None, "list": []}.get,
    "sleep": lambda _: time.sleep(60),
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "spin": _spin,
    "stubborn-spin": _stubborn_spin,
    "bignum": lambda _: 9**9**9 > 0,
    "eat": lambda _: bool(_eat()),
    "swallow": _swallow,
    "peak": _peak,
    "hoard": _hoard,
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda code: os._exit(int(code)),
    "segfault": lambda _: ctypes.string_at(0),
    "leave": _leave,
    "babble": _babble,
    "raise": lambda _: _raise(ValueError("two\nlines " + "x" * 10_000)),
    "raise-unprintable": lambda _: _raise(Unprintable()),
    "raise-exit": lambda _: _raise(SystemExit(0)),
    "raise-interrupt": lambda _: _raise(KeyboardInterrupt()),
    "recurse": _recurse,
    "print": _print,
    "descriptor": _write_to_descriptor,
    "connect": lambda port: socket.create_connection(("127.0.0.1", int(port)), 1),
    "run": lambda path: subprocess.run(["touch", path], check=False),
    "system": lambda path: os.system(f"touch {path}"),
    "fork": lambda _: os.fork(),
    "exec": lambda path: os.execvp("touch", ["touch", path]),
    "spawn": lambda path: os.posix_spawnp("touch", ["touch", path], os.environ),
    "write": lambda path: Path(path).write_text("x"),
    "append": lambda path: Path(path).open("a"),  # noqa: SIM115
    "create": _create,
    "mkdir": lambda path: Path(path).mkdir(),
    "remove": lambda path: Path(path).unlink(),
    "rename": lambda path: Path(path).rename(path + ".moved"),
    "copy": lambda path: shutil.copy(path, path + ".copy"),
    "link": lambda path: Path(path + ".link").symlink_to(path),
    "truncate": lambda path: os.truncate(path, 0),
    "chmod": lambda path: Path(path).chmod(0),
    "read": lambda path: Path(path).read_text() == "kept",
}
