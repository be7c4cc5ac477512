"""What is in ``c/``, compiled where there is a C compiler; and how its sums run, for the same bits in torch."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

LANES, NARROW, TILE = 16, 8, 4
"""As in ``lanes.h``; ``TILE`` at most."""

SOURCES = sorted(file for file in Path(__file__).with_name("c").iterdir() if file.suffix in (".c", ".h"))
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
TYPES = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "f": ctypes.c_float}
FUNCTIONS = {
    "norm": "ppppnnnf",
    "norm_back": "ppppppnnn",
    "gated": "pppnn",
    "gated_back": "pppppnn",
    "turn": "pppppppnnnf",
    "turn_back": "pppppppppnnn",
    "look_back": "pppppppppppppnnnnnnnnff",
    "attend": "pppppppp" + "nnnnnfnn",
    "attend_back": "pppppppppppp" + "nnnnnfnn",
    "step": "ppppppnn",
    "choose": "ppppppnnn",
}
"""Arguments: pointers, numbers and floats."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Options of glibc's ``mallopt``."""

Kernel = Callable[..., None]


ANY_SIZE = 64
"""For functions to which the head size is nothing."""


def native(size: int, *tensors: Tensor | None) -> dict[str, Kernel] | None:
    """The functions for heads of ``size``; None for tensors that they are not for, or where nothing compiles them."""
    given = [x for x in tensors if x is not None]
    plain = all(x.dtype == torch.float32 and x.is_cpu and x.is_contiguous() for x in given)
    return _compiled(size) if plain else None


def pointers(*tensors: Tensor | None) -> list[int | None]:
    """Where the values of tensors are that lie dense. They must outlive the call."""
    return [None if x is None else x.data_ptr() for x in tensors]


def spread(part: Callable[[int, int], None], count: int, least: int = 1) -> None:
    """Call ``part(first, last)`` for shares of ``count``, of at least ``least``, on as many threads as torch has."""
    threads = max(1, min(torch.get_num_threads(), count // least))
    if threads == 1:
        part(0, count)
        return
    edges = [count * i // threads for i in range(threads + 1)]
    others = [_pool().submit(part, *edges[i : i + 2]) for i in range(1, threads)]
    try:
        part(*edges[:2])
    finally:
        wait(others)
    for other in others:
        other.result()


def keep_freed_memory() -> None:
    """Have this process keep memory that it freed, where its C library can: a micro-batch takes what the one before
    took, and asking the system for it page by page costs more than what is done there."""
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        for option, most in ((TRIM_THRESHOLD, 1 << 28), (MMAP_THRESHOLD, 1 << 25)):
            library.mallopt(option, most)


def total(x: Tensor, lanes: int = LANES) -> Tensor:
    """The sum over the last dimension, which stays: so many sums side by side, then folded in halves."""
    blocks: Tensor = F.pad(x, (0, -x.shape[-1] % lanes)).unflatten(-1, (-1, lanes))  # type: ignore[no-untyped-call]
    found = blocks[..., 0, :]
    for block in blocks.unbind(-2)[1:]:
        found = found + block
    while found.shape[-1] > 1:
        first, second = found.chunk(2, -1)
        found = first + second
    return found


def power(x: Tensor) -> Tensor:
    """``e ** x`` for x <= 0."""
    if x.dtype != torch.float32 or x.is_cuda:
        return x.exp()
    x = x.clamp(min=-87.0)
    n = (x * 1.44269504 + 12582912.0) - 12582912.0
    r = (x - n * 0.693359375) - n * -2.12194440e-4
    p = r * 1.9875691500e-4 + 1.3981999507e-3
    for c in (8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + c
    p = (p * (r * r) + r) + 1.0
    return p * ((n.int() + 127) << 23).view(torch.float32)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count())


@cache
def _compiled(size: int) -> dict[str, Kernel] | None:
    """All functions, compiled for heads of ``size``; None where nothing compiles them, which is told."""
    named, files = os.environ.get("CC", "cc"), [str(file) for file in SOURCES if file.suffix == ".c"]
    failure = f"there is no C compiler ({named}; CC names another)"
    try:
        compiler = shlex.split(named)
    except ValueError:  # a quotation that does not end
        compiler = []
    for tuned in (("-march=native",), ()) if compiler and shutil.which(compiler[0]) else ():
        command = [*compiler, *FLAGS, *tuned, f"-DSIZE={size}", *files, "-lm"]
        try:
            library = _library(command)
            found = {name: getattr(library, name) for name in FUNCTIONS}
        except (AttributeError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            failure = f"{named} gives nothing to load ({error})"
            continue
        for name, kernel in found.items():
            kernel.restype, kernel.argtypes = None, [TYPES[kind] for kind in FUNCTIONS[name]]
        return found
    logging.getLogger(__name__).warning("the CPU works slower, many times so for long answers: %s", failure)
    return None


def _library(command: list[str]) -> ctypes.CDLL:
    """What ``command`` compiles, kept in the user's cache from one process to the next.

    Raises OSError where others could have written there: what lies in it is run.
    """
    machine = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    flags = [line for line in machine.splitlines() if line.startswith(("flags", "Features", "model name"))]
    name = hashlib.sha256(repr([command, [file.read_text() for file in SOURCES], flags]).encode()).hexdigest()[:32]
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(chosen if Path(chosen).is_absolute() else Path.home() / ".cache") / "contrapose"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / f"native-{name}.so"
    for place in (folder, file):
        if place.exists() and (place.stat().st_uid != os.getuid() or place.stat().st_mode & 0o022):
            raise PermissionError(f"{place} can be written by others")
    if not file.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            made = Path(beside) / file.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, timeout=60)
            made.replace(file)
    return ctypes.CDLL(str(file))
