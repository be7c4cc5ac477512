"""Attention of one new token of each row to the row's past, on a CPU in float32: in C where there is a compiler.

Both give the same bits. torch's attention is made for many queries a row; for one it takes more than twice as long.
Dimensions: N rows, G key-value heads, H query heads, D head size, C chunks of columns, W times L (``LANES``) each.
"""

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
from torch import Tensor

LANES = 16
SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

LookBack = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int | None], Tensor]
"""``(q_NHD, k_NGD, v_NGD, keys_CNGWDL, values_CNGWLD, length_N, window) -> [N, H * D]``: appends, then attends. The
past may have more rows than these."""


def look_back_for(heads: int, groups: int, size: int) -> LookBack:
    """The fastest function there is for a model of so many heads of ``size``."""
    kernel = _compiled(heads // groups, size)
    return in_torch if kernel is None else _in_c(kernel)


def _in_c(kernel: Callable[..., None]) -> LookBack:
    def look_back(
        q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, length: Tensor, window: int | None
    ) -> Tensor:
        (rows, heads, size), (chunks, _, groups, wide) = q.shape, values.shape[:4]
        assert keys.dim() == values.dim() == 6 and keys.stride(0) == values.stride(0)
        q, k, v, out = q.contiguous(), k.contiguous(), v.contiguous(), torch.empty(rows, heads * size)
        tensors = q, k, v, keys, values, length, out  # alive as long as any part runs

        def part(first: int, last: int) -> None:
            share = torch.empty(chunks * wide * LANES)
            rest = (groups, wide * LANES, keys.stride(0), window or chunks * wide * LANES, size**-0.5)
            kernel(*(x.data_ptr() for x in tensors), share.data_ptr(), first, last, *rest)

        threads = min(torch.get_num_threads(), rows)
        edges = [rows * i // threads for i in range(threads + 1)]
        others = [_pool().submit(part, *edges[i : i + 2]) for i in range(1, threads)]
        try:
            part(*edges[:2])
        finally:
            wait(others)
        for other in others:
            other.result()
        return out

    return look_back


def in_torch(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, length: Tensor, window: int | None
) -> Tensor:
    """The same, sum by sum in the same order."""
    (rows, heads, size), (groups, wide) = q.shape, values.shape[2:4]
    every, width = torch.arange(rows), wide * LANES
    place = length // width, every, slice(None), length % width // LANES
    keys[*place, :, length % LANES], values[*place, length % LANES] = k, v
    seen = int(length.max()) + 1
    used = -(-seen // width)
    q_NGHD = q.view(rows, groups, -1, size)
    scores = []
    for past in keys[:used, :rows]:
        score = torch.zeros(*q_NGHD.shape[:3], wide, LANES)
        for d in range(size):
            score += q_NGHD[..., d, None, None] * past[:, :, None, :, d]
        scores.append(score.flatten(3))
    column, scale = torch.arange(used * width), size**-0.5
    hidden = (column > length[:, None]) | (column <= length[:, None] - (window or seen))
    score = torch.cat(scores, 3).mul_(scale).masked_fill_(hidden[:, None, None], -torch.inf)
    share = _power(score - score.amax(3, keepdim=True)).masked_fill_(hidden[:, None, None], 0.0)
    total, out = torch.zeros(*share.shape[:3], 1), torch.zeros_like(q_NGHD)
    for s in range(max(0, int(length.min()) + 1 - (window or seen)), seen):
        p, value = share[..., s : s + 1], values[s // width, :rows, :, None, s % width // LANES, s % LANES]
        total += p
        out += torch.where(p > 0, p * value, 0.0)  # what is not seen may never have been written
    return (out / total).view(rows, heads * size)


def _power(x: Tensor) -> Tensor:
    """``e ** x`` for x <= 0, as ``power`` in C."""
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
def _compiled(heads: int, size: int) -> Callable[..., None] | None:
    """The function in C for so many query heads a key-value head; None where nothing compiles it, which is told."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    failure = f"there is no C compiler ({shlex.join(compiler)}; CC names another)"
    for native in (("-march=native",), ()) if compiler and shutil.which(compiler[0]) else ():
        command = [*compiler, *FLAGS, *native, f"-DHEADS={heads}", f"-DSIZE={size}", str(SOURCE)]
        try:
            kernel = _library(command).look_back
        except (AttributeError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            failure = f"{shlex.join(compiler)} gives nothing to load ({error})"
            continue
        kernel.restype = None
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        kernel.argtypes = [pointer] * 8 + [count] * 6 + [ctypes.c_float]
        return kernel  # type: ignore[no-any-return]
    logging.getLogger(__name__).warning("decoding on the CPU is slower, many times so for long answers: %s", failure)
    return None


def _library(command: list[str]) -> ctypes.CDLL:
    """What ``command`` compiles, kept in the user's cache from one process to the next.

    Raises OSError where others could have written there: what lies in it is run.
    """
    machine = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    flags = [line for line in machine.splitlines() if line.startswith(("flags", "Features", "model name"))]
    name = hashlib.sha256(repr([command, SOURCE.read_text(), flags]).encode()).hexdigest()[:32]
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(chosen if Path(chosen).is_absolute() else Path.home() / ".cache") / "contrapose"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / f"look_back-{name}.so"
    for place in (folder, file):
        if place.exists() and (place.stat().st_uid != os.getuid() or place.stat().st_mode & 0o022):
            raise PermissionError(f"{place} can be written by others")
    if not file.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            made = Path(beside) / file.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, timeout=60)
            made.replace(file)
    return ctypes.CDLL(str(file))
