"""A checkpoint is whole or absent: killed at any operation, on a full disk, with any byte flipped."""

import errno
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from contrapose.report import log
from contrapose.report.log import WriteFailed
from contrapose.train import checkpoint, folders, shards, work
from contrapose.train.folders import MANIFEST, damage, recover, remove, whole
from contrapose.train.shards import load_optimizer
from models import tiny, tokenizer

FULL = OSError(errno.ENOSPC, "No space left on device")


class Killed(BaseException):
    """No program sees that it is killed."""


def trained(steps):
    """A model, its tokenizer, and an optimizer that has taken some steps."""
    model = tiny("qwen3").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.arange(8).unsqueeze(0)).logits.sum().backward()
        optimizer.step()
    return model, tokenizer(), optimizer


@pytest.fixture(scope="module")
def parts():
    return trained(2)


def saved(run, step, parts, keep=2):
    return checkpoint.save(run, step, *parts, {"step": step, "sizes": {}}, None, keep)


def operations(monkeypatch, at=None, failure=None):
    """Count what is asked of the disk; the ``at``-th time ``failure`` comes instead."""
    count = [0]

    def watched(function):
        def instead(*args, **options):
            count[0] += 1
            if count[0] == at:
                raise failure
            return function(*args, **options)

        return instead

    monkeypatch.setattr(Path, "rename", watched(Path.rename))
    monkeypatch.setattr(Path, "write_text", watched(Path.write_text))
    monkeypatch.setattr(Path, "mkdir", watched(Path.mkdir))
    monkeypatch.setattr(shutil, "rmtree", watched(shutil.rmtree))
    for module in (shards, work):
        monkeypatch.setattr(module, "save_file", watched(module.save_file))
    for module in (log, folders):
        monkeypatch.setattr(module, "sync", watched(module.sync))
    return count


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step once more"])
@pytest.mark.parametrize("failure", [Killed(), FULL], ids=["killed", "full"])
def test_whatever_goes_wrong_at_any_operation_a_whole_checkpoint_is_there(tmp_path, monkeypatch, parts, failure, again):
    """In the manner of SQLite: the n-th operation fails, for every n; then the next save is as if nothing had been."""
    with monkeypatch.context() as patch:
        count = operations(patch)
        saved(tmp_path / "counted", 1, parts)
    assert count[0] > 15
    for n in range(1, count[0] + 1):
        run = tmp_path / f"run{n}"
        saved(run, 1, parts)
        with monkeypatch.context() as patch:
            operations(patch, n, failure)
            with suppress(Killed, WriteFailed):
                saved(run, 1 if again else 2, parts)
        found = checkpoint.newest(run)
        assert found.folder and damage(found.folder) is None and found.notes == []
        saved(run, 3, parts)
        assert checkpoint.newest(run).folder.name == "step-000003"
        assert [p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")] == []


def test_a_full_disk_is_told_with_the_path_and_the_room(tmp_path, monkeypatch, parts):
    operations(monkeypatch, 8, FULL)
    with pytest.raises(WriteFailed) as error:
        saved(tmp_path, 1, parts)
    place = re.escape(str(tmp_path / "checkpoints" / "step-000001"))
    assert re.fullmatch(
        rf"{place}: cannot be written: No space left on device \([\d,]+ bytes are free\)", str(error.value)
    )
    assert error.value.exit_code == 74


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch, parts):
    saved(tmp_path, 1, parts)
    monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 1000)
    with pytest.raises(WriteFailed, match=r"step-000002: a checkpoint needs [\d,]+ bytes, 1,000 are free"):
        saved(tmp_path, 2, parts)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_what_is_needed_is_what_is_written(tmp_path, parts):
    """Within the few kilobytes that the tokenizer and the headers take."""
    model, need = parts[0], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "free_bytes", lambda path: 0)
        for call in (lambda: saved(tmp_path, 1, parts), lambda: checkpoint.refuse_full_disk(tmp_path, model)):
            with pytest.raises(WriteFailed) as error:
                call()
            need.append(int(re.search(r"needs ([\d,]+)", str(error.value))[1].replace(",", "")))
    written = sum(p.stat().st_size for p in saved(tmp_path, 1, parts).rglob("*") if p.is_file())
    assert need[1] <= need[0] <= written < need[0] + 20_000


FILES = ("state.json", "optimizer.safetensors", "model/model.safetensors", "model/config.json", MANIFEST)


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_told_set_aside_and_the_one_before_is_used(tmp_path, parts, name, harm):
    for step in (1, 2):
        saved(tmp_path, step, parts)
    path = tmp_path / "checkpoints" / "step-000002" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    harmed = {"flipped": bytes(content), "cut": bytes(content[:-1]), "empty": b"", "gone": None}[harm]
    path.unlink()
    if harmed is not None:
        path.write_bytes(harmed)
    found = checkpoint.newest(tmp_path)
    assert found.folder.name == "step-000001"
    [note] = found.notes
    assert note.startswith("checkpoint step-000002 is damaged (") and "kept as damaged-step-000002" in note
    assert name == MANIFEST or name in note
    assert (tmp_path / "checkpoints" / "damaged-step-000002").is_dir()
    assert checkpoint.newest(tmp_path) == (found.folder, [])
    saved(tmp_path, 2, parts)
    assert checkpoint.newest(tmp_path).folder.name == "step-000002"


def test_a_hundred_flipped_bits_are_a_hundred_found(tmp_path, parts):
    folder = saved(tmp_path, 1, parts)
    chance = torch.Generator().manual_seed(0)
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST]
    for number in range(100):
        path = files[number % len(files)]
        content = bytearray(path.read_bytes())
        at, bit = (int(torch.randint(high, (), generator=chance)) for high in (len(content), 8))
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
        assert damage(folder) == f"{path.relative_to(folder).as_posix()} is not as it was written"
        path.write_bytes(content)
    assert damage(folder) is None


def test_where_all_are_damaged_the_run_does_not_go_on(tmp_path, parts):
    for step in (1, 2):
        (saved(tmp_path, step, parts) / "state.json").write_text("{}")
    with pytest.raises(WriteFailed, match=r"no checkpoint in .* is whole: step-000002: state.json has .*; step-000001"):
        checkpoint.newest(tmp_path)
    assert len(checkpoint.saved(tmp_path)) == 2


def test_rows_that_were_lost_send_a_run_back_to_where_it_has_them(tmp_path, parts):
    """A jsonl file that is shorter than it was: the rows after the checkpoint before are made once more."""
    for step, size in ((1, 10), (2, 20)):
        checkpoint.save(tmp_path, step, *parts, {"sizes": {"metrics.jsonl": size}}, None, 2)
    (tmp_path / "metrics.jsonl").write_bytes(b"x" * 19)
    found = checkpoint.newest(tmp_path)
    assert found.folder.name == "step-000001" and "metrics.jsonl has 19 bytes, not 20" in found.notes[0]


def test_the_newest_are_kept(tmp_path, parts):
    for step in (9, 10, 999_999, 1_000_000):
        saved(tmp_path, step, parts)
    assert [p.name for p in checkpoint.saved(tmp_path)] == ["step-999999", "step-1000000"]


def test_moments_come_back_as_they_were(tmp_path, parts):
    model, _, optimizer = parts
    folder = saved(tmp_path, 1, parts)
    again = torch.optim.AdamW(model.parameters(), lr=0.1)
    load_optimizer(folder, model, again)
    for a, b in zip(optimizer.state_dict()["state"].values(), again.state_dict()["state"].values(), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_folder_is_replaced_whole_and_what_somebody_added_is_no_damage(tmp_path):
    for text in ("old", "new"):
        with whole(tmp_path / "a") as beside:
            (beside / "text").write_text(text)
    assert (tmp_path / "a" / "text").read_text() == "new"
    (tmp_path / "a" / "notes.txt").write_text("mine")
    assert damage(tmp_path / "a") is None
    with pytest.raises(ValueError), whole(tmp_path / "a") as beside:
        raise ValueError
    assert (tmp_path / "a" / "text").read_text() == "new"


def test_what_a_kill_left_is_finished_or_removed(tmp_path):
    with whole(tmp_path / "a") as beside:
        (beside / "text").write_text("whole")
    (tmp_path / "a").rename(tmp_path / ".a.part")  # killed before it had its name
    for name in (".b.part", ".c.part", ".c.old", ".a.gone", ".mine.old"):
        (tmp_path / name).mkdir()
    for name in (".eval.json.part", ".mine.iso.part"):
        (tmp_path / name).write_text("{")
    recover(tmp_path, "a", "b", "c", "eval.json")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "c", ".mine.old", ".mine.iso.part"}


def test_a_link_is_removed_and_what_it_leads_to_is_not(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "text").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with whole(tmp_path / "a") as beside:
        (beside / "text").write_text("new")
    assert not (tmp_path / "a").is_symlink() and (tmp_path / "a" / "text").read_text() == "new"
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    remove(tmp_path / "b")
    assert (tmp_path / "elsewhere" / "text").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"a", "elsewhere"}


def test_what_a_library_says_of_a_full_disk_is_one_line_too(tmp_path):
    with pytest.raises(WriteFailed, match="No space left on device"), whole(tmp_path / "a") as beside:
        (beside / "text").write_text("half")
        raise Exception("No space left on device (os error 28)")  # as tokenizers does
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["a bad sector", "a link to nowhere"])
def test_a_checkpoint_that_cannot_be_read_is_a_damaged_one(tmp_path, parts, monkeypatch, harm):
    for step in (1, 2):
        saved(tmp_path, step, parts)
    weights = tmp_path / "checkpoints" / "step-000002" / "model" / "model.safetensors"
    if harm == "a link to nowhere":
        weights.unlink()
        weights.symlink_to("nowhere")
    else:
        digest = folders._digest

        def broken(path):
            if path == weights:
                raise OSError(errno.EIO, "Input/output error")
            return digest(path)

        monkeypatch.setattr(folders, "_digest", broken)
    found = checkpoint.newest(tmp_path)
    assert found.folder.name == "step-000001" and "model.safetensors" in found.notes[0]


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, parts):
    """A power cut cannot be tried; the order of flushes and renames can: files, manifest, folders, name, its folder."""
    done, sync = [], log.sync
    for module in (log, folders):
        monkeypatch.setattr(module, "sync", lambda path: done.append(path) or sync(path))
    monkeypatch.setattr(Path, "rename", lambda path, to, rename=Path.rename: done.append("rename") or rename(path, to))
    folder = saved(tmp_path / "run", 1, parts)
    beside = folder.with_name(".step-000001.part")
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    files = {beside / p.relative_to(folder) for p in folder.rglob("*")}
    assert files | {beside} <= set(before)
    assert max(before.index(path) for path in files - {beside / MANIFEST, beside / "model"}) < before.index(
        beside / MANIFEST
    )
    assert before.index(beside / MANIFEST) < before.index(beside)
    assert {tmp_path, tmp_path / "run"} <= set(before)  # in which "run" and "checkpoints" were made
    assert after == [folder.parent]


def test_weights_can_be_read_by_others(tmp_path, parts):
    modes = {p.stat().st_mode for p in saved(tmp_path, 1, parts).rglob("*") if p.is_file()}
    assert len(modes) == 1


def test_a_manifest_cannot_be_of_another_format(tmp_path):
    with whole(tmp_path / "a"):
        pass
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(manifest | {"format": 2}))
    assert damage(tmp_path / "a") == "manifest.json: format 2, this version reads 1"
