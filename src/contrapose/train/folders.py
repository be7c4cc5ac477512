"""Folders that are whole or absent: written beside, hashed, flushed to disk, renamed.

``manifest.json``, written last, has the size and SHA-256 of every other file: what was flipped, cut or mixed up later
is found before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.report.log import WriteFailed, make_folder, on_disk, room, sync
from contrapose.types import ContraposeError

if TYPE_CHECKING:
    from contrapose.rollout.ranks import Ranks

MANIFEST = "manifest.json"
FORMAT = 1


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to write to; afterwards its content is ``folder``, in place of what was there.

    Killed anywhere, either the old one is there or the new one, once ``recover`` was called. Raises WriteFailed, with
    the old one as it was, where something cannot be written.
    """
    beside, old = _beside(folder), _old(folder)
    with on_disk(folder):
        make_folder(folder.parent)
        for left in (beside, old):
            _delete(left)
        beside.mkdir()
        try:
            yield beside
            _seal(beside)
        except Exception as error:
            with suppress(OSError):
                _delete(beside)  # what is half written only takes room
            if "os error" in str(error):  # what libraries written in Rust say of a disk
                raise WriteFailed(f"{folder}: cannot be written: {error} ({room(folder)})") from None
            raise
        if os.path.lexists(folder):
            folder.rename(old)
        beside.rename(folder)
        sync(folder.parent)
        _delete(old)


@contextmanager
def whole_by_all(folder: Path, ranks: Ranks) -> Iterator[Path]:
    """``whole``, to which every rank may write."""
    with whole(folder) if ranks.leads else nullcontext(_beside(folder)) as beside:
        ranks.wait()  # until it is there
        yield beside
        ranks.wait()  # until everything is
    ranks.wait()


def recover(parent: Path, *names: str) -> None:
    """Bring in order what a kill left of files and folders in ``parent``, whose ``names`` are patterns: finish what
    only lacked its name, put back what was to be replaced, remove the rest."""
    for name in names:
        for beside in parent.glob(f".{name}.part"):
            folder = beside.with_name(beside.name[1 : -len(".part")])
            if beside.is_dir() and not folder.exists() and damage(beside) is None:
                beside.rename(folder)
            _delete(beside)
        for old in parent.glob(f".{name}.old"):
            folder = old.with_name(old.name[1 : -len(".old")])
            if not folder.exists():
                old.rename(folder)
            _delete(old)
        for gone in parent.glob(f".{name}.gone"):
            _delete(gone)


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that ``whole`` wrote, or None: which file, and how it differs. Files that somebody
    added are no damage."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"{MANIFEST}: format {manifest['format']!r}, this version reads {FORMAT}"
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    wrong = (_differs(folder / name, *entry) for name, entry in expected.items())
    return next((f"{name} {how}" for name, how in zip(expected, wrong, strict=True) if how), None)


def _differs(path: Path, size: int, digest: str) -> str | None:
    try:
        if (held := path.stat().st_size) != size:
            return f"has {held} bytes, not {size}"
        return None if _digest(path) == digest else "is not as it was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def refuse_used(run: Path) -> None:
    """Raise ContraposeError if ``run`` holds a run, or anything else but what one leaves that was killed when it began:
    nothing is ever overwritten."""
    if (run / "config.toml").exists():
        raise ContraposeError(f"--out: {run} already holds a run: choose another folder, or go on with --resume")
    for path in run.iterdir() if run.is_dir() else ():
        empty = path.suffix == ".jsonl" and path.stat().st_size == 0
        if not empty and path.name not in ("data.json", ".data.json.part", ".config.toml.part"):
            raise ContraposeError(f"--out: {run} is not empty, it holds {path.name!r}: choose another folder")


def remove(folder: Path) -> None:
    """Remove a folder, out of sight first: a kill in the middle leaves nothing that looks whole."""
    gone = folder.with_name(f".{folder.name}.gone")
    _delete(gone)
    folder.rename(gone)
    _delete(gone)


def _delete(path: Path) -> None:
    """Remove whatever it is, if it is; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _seal(folder: Path) -> None:
    files = _files(folder)
    (folder / MANIFEST).touch()
    for path in files.values():
        path.chmod((folder / MANIFEST).stat().st_mode)  # weights come as 0600, which nobody else could read
        sync(path)
    listed = {name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for name, path in sorted(files.items())}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, "files": listed}, indent=1) + "\n", encoding="utf-8")
    sync(manifest)
    for path in (p for p in folder.rglob("*") if p.is_dir()):
        sync(path)
    sync(folder)


def _files(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` but the manifest, by its relative name."""
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
    return {name: path for name, path in paths.items() if name != MANIFEST}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")
