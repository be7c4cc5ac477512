"""Trackers are sent what the files of a run say, go on where it goes on, and have no say in it.

The last tests read back what the real ones wrote, where they are installed: ``make trackers``.
"""

import json
import signal
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from contrapose.config import resolve
from contrapose.report.metrics import TIME_FIELDS
from contrapose.train import tracking
from contrapose.train.evaluations import folder_names
from contrapose.train.loop import train
from contrapose.train.run import Run
from contrapose.train.tracking import numbers
from contrapose.types import ContraposeError
from reliability.kills import digest, settings
from user import contrapose

Series = dict[str, list[tuple[int, float]]]
"""What a tracker shows: for each name the values by step."""


class Killed(BaseException):
    pass


class Scripted:
    """A tracker that remembers, and refuses to take anything from its ``patience``-th time on."""

    def __init__(self, patience: int = 10**9) -> None:
        self.patience = patience
        self.opened: list[tuple[Path, dict, int]] = []
        self.taken: list[tuple[int, dict[str, float]]] = []
        self.asked, self.closed = 0, []

    def __call__(self, folder, settings, step):
        self.opened.append((folder, dict(settings), step))
        return self

    def log(self, step, values):
        self.asked += 1
        if self.asked >= self.patience:
            raise ConnectionError("the server\nis gone")
        self.taken.append((step, dict(values)))

    def close(self, failed):
        self.closed.append(failed)


@pytest.fixture(scope="module")
def how(tmp_path_factory):
    return settings(tmp_path_factory.mktemp("data"), "rence")


@pytest.fixture(scope="module")
def untracked(how, tmp_path_factory):
    """The digest of a run without a tracker."""
    return finished(Run(resolve(None, how)[0], tmp_path_factory.mktemp("untracked") / "run"))


@pytest.fixture
def scripted(monkeypatch):
    """A tracker in the place of wandb's."""
    made = Scripted()
    monkeypatch.setitem(tracking.TRACKERS, "wandb", made)
    monkeypatch.setattr(tracking, "version", lambda package: "1")
    return made


def started(folder: Path, how, name: str = "wandb", resume: bool = False) -> Run:
    return Run(resolve(None, [*how, f"tracking={name}"])[0], folder, resume=resume)


def finished(run: Run) -> dict[str, str]:
    """Train to the end; the digest of what is left, but for the checkpoint's settings, which name the tracker."""
    with run:
        assert train(run)
        run.finish()
    return digest(run.folder) | {"state": ""}


def interrupted(run: Run) -> None:
    """Train until the third step is done, of which no checkpoint knows."""

    def kill(row):
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed), run:
        train(run, kill)


def written(folder: Path) -> Series:
    """What the files of a run say: every number, those of a table under both names."""
    found: Series = defaultdict(list)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        tables = {key: row.pop(key) for key in ("verdicts", "filtered_tokens")}
        row |= {f"{table}/{key}": value for table, values in tables.items() for key, value in values.items()}
        for name in row.keys() - {"step", "alarms", "updates"}:
            if row[name] is not None:
                found[name].append((row["step"], row[name]))
    rows = json.loads((folder / "eval.json").read_text())
    names = folder_names(row["data"] for row in rows)
    for row in rows:
        for key, end in (("value", ""), ("low", "_low"), ("high", "_high")):
            found[f"eval/{names[row['data']]}/accuracy{end}"].append((row["step"], row["accuracy"][key]))
    return {name: sorted(values) for name, values in found.items()}


def timeless(series: Series) -> Series:
    return {name: values for name, values in series.items() if name not in TIME_FIELDS}


def by_name(taken) -> Series:
    found: Series = defaultdict(list)
    for step, values in taken:
        for name, value in values.items():
            found[name].append((step, value))
    return {name: sorted(values) for name, values in found.items()}


# --- with any tracker -------------------------------------------------------------------------------------------------


def test_names_and_values_are_those_of_the_files(scripted, how, untracked, tmp_path):
    assert finished(started(tmp_path / "run", how)) == untracked | {"state": ""}
    sent = by_name(scripted.taken)
    assert sent == written(tmp_path / "run")
    assert {"accuracy", "kl", "verdicts/correct", "filtered_tokens/too_hard", "seconds"} < sent.keys()
    assert sum(name.startswith("eval/") for name in sent) == 6  # of two data sets
    [(folder, told, step)] = scripted.opened
    assert (folder, step, scripted.closed) == (tmp_path / "run", 0, [False])
    assert told["optim"]["lr"] == 1e-4 and told["run"]["torch"]


def test_a_resumed_run_goes_on_after_its_checkpoint(scripted, how, untracked, tmp_path):
    """The third step is sent twice, with the same values."""
    interrupted(started(tmp_path / "run", how))
    assert finished(started(tmp_path / "run", how, resume=True)) == untracked
    assert [step for _, _, step in scripted.opened] == [0, 2]
    assert scripted.closed == [True, False]
    steps = [step for step, values in scripted.taken if "accuracy" in values]
    assert steps == [1, 2, 3, 3, 4]
    sent = {name: sorted(set(values)) for name, values in timeless(by_name(scripted.taken)).items()}
    assert sent == timeless(written(tmp_path / "run"))


@pytest.mark.parametrize("patience", [1, 4])
def test_a_tracker_that_fails_is_told_once_and_the_run_ends_as_without(scripted, how, untracked, tmp_path, patience):
    scripted.patience = patience
    shown = []
    run = started(tmp_path / "run", how)
    run.on_note = shown.append
    assert finished(run) == untracked
    line = (
        "tracking: wandb failed: ConnectionError: the server is gone: the run goes on without it; "
        "metrics.jsonl and eval.json have everything"
    )
    assert shown == [line] and run.notes.count(line) == 1
    assert (scripted.asked, scripted.closed) == (patience, [])


def test_a_tracker_that_cannot_keep_what_it_took_is_told(scripted, how, tmp_path, monkeypatch):
    def refuse(failed):
        raise TimeoutError("no answer")

    monkeypatch.setattr(scripted, "close", refuse)
    run = started(tmp_path / "run", [*how, "steps=1"])
    finished(run)
    assert [note for note in run.notes if "wandb failed: TimeoutError: no answer" in note]


def test_a_tracker_that_does_not_start_is_one_line_and_the_run_can_do_without(how, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("No API key.\nLog in.")

    monkeypatch.setitem(tracking.TRACKERS, "wandb", refuse)
    monkeypatch.setattr(tracking, "version", lambda package: "1")
    folder = tmp_path / "a run"
    with pytest.raises(ContraposeError) as caught, started(folder, how):
        pass
    told = str(caught.value)
    assert told.startswith("tracking: wandb does not start: RuntimeError: No API key. Log in: mend that, or set")
    assert told.endswith(
        f"tracking = \"none\" in {folder}/config.toml; then: contrapose train --resume --out '{folder}'"
    )
    again = started(folder, [*how, "steps=1"], name="none", resume=True)
    finished(again)
    assert not [note for note in again.notes if note.startswith("tracking")]


def test_who_is_told_is_no_change_of_a_run(scripted, how, tmp_path):
    interrupted(started(tmp_path / "run", how, name="none"))
    with started(tmp_path / "run", how, resume=True) as again:
        assert not [note for note in again.notes if note.startswith("tracking")]
    assert [step for _, _, step in scripted.opened] == [2]


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_a_package_that_is_missing_is_one_line_before_anything_is_made(monkeypatch, capsys, tmp_path, name):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(tracking, "version", missing)
    assert contrapose(monkeypatch, "train", "--out", tmp_path / "run", "--set", f"tracking={name}") == 2
    assert capsys.readouterr().err == f"error: tracking: {name} is not installed: pip install 'contrapose[{name}]'\n"
    assert not (tmp_path / "run").exists()


def test_what_is_no_number_is_left_out():
    row = {"step": 3, "kl": None, "entropy": float("nan"), "alarms": ["x"], "updates": [{"J": 1.0}], "rounds": 2}
    assert numbers(row | {"verdicts": {"correct": 5, "wrong": None}}) == {"rounds": 2, "verdicts/correct": 5}


def test_a_folder_has_one_id_and_no_other_folder_has_it(tmp_path):
    (tmp_path / "other").mkdir()
    one = tracking._id(tmp_path)
    assert tracking._id(tmp_path) == one != tracking._id(tmp_path / "other")


# --- with the real ones -----------------------------------------------------------------------------------------------


def of_tensorboard(folder: Path) -> tuple[Series, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    series = {tag: [(e.step, e.value) for e in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}
    [*_, text] = shown.Tensors("config.toml/text_summary")
    return series, text.tensor_proto.string_val[0].decode()


def of_wandb(folder: Path) -> tuple[Series, str]:
    """Of all its files that ``wandb sync`` would send: logs of records, in blocks of 32 KiB with headers of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    taken, configs, ids = [], [], set()
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # the whole record, or its last part
                record, whole = Record.FromString(whole), b""
                if record.HasField("run"):
                    ids.add(record.run.run_id)
                    assert not record.run.HasField("git")
                    configs += [f"{item.key} = {item.value_json}" for item in record.run.config.update]
                if record.HasField("history"):
                    row = {"".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                    step = row.pop("step")
                    taken.append((step, {name: x for name, x in row.items() if not name.startswith("_")}))
    assert ids == {json.loads((folder / "tracking.json").read_text())["id"]}
    return by_name(taken), "\n".join(configs)


def of_trackio(folder: Path) -> tuple[Series, str]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    name = f"{folder.name}-{json.loads((folder / 'tracking.json').read_text())['id']}"
    [run] = [run for run in trackio.Api().runs("contrapose") if run.name == name]
    rows = SQLiteStorage.get_logs("contrapose", name, run_id=run.id)
    taken = [(row["step"], {k: v for k, v in row.items() if k not in ("step", "timestamp")}) for row in rows]
    return by_name(taken), json.dumps(run.config)


REAL = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    """Nothing leaves the machine, and nothing is written where a person has it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.getbasetemp() / "trackio"))


@pytest.mark.parametrize("name", REAL)
def test_what_was_sent_can_be_read_back(offline, how, untracked, tmp_path, name):
    """Of a run that was killed in its third step and resumed. Neither signals nor what is printed are taken over."""
    pytest.importorskip(name)
    folder = tmp_path / "run"
    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupted(started(folder, how, name))
    run = started(folder, how, name, resume=True)
    assert finished(run) == untracked
    assert not [note for note in run.notes if note.startswith("tracking")]
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    series, config = REAL[name](folder)
    assert "1e-04" in config or "0.0001" in config
    once = name == "tensorboard"
    shown = {key: values if once else sorted(set(values)) for key, values in timeless(series).items()}
    expected = timeless(written(folder))
    assert shown.keys() == expected.keys()
    for key, values in expected.items():
        assert [step for step, _ in shown[key]] == [step for step, _ in values], key
        assert [x for _, x in shown[key]] == pytest.approx([x for _, x in values], rel=1e-6), key  # float32


@pytest.mark.parametrize("name", REAL)
def test_two_runs_of_a_name_are_two_runs(offline, how, tmp_path, name):
    pytest.importorskip(name)
    for parent in ("a", "b"):
        finished(started(tmp_path / parent / "run", [*how, "steps=1"], name))
    for parent in ("a", "b"):
        series, _ = REAL[name](tmp_path / parent / "run")
        assert [step for step, _ in series["accuracy"]] == [1]


def test_wandb_is_given_no_files_but_its_own(offline, how, tmp_path):
    """Neither code nor a diff."""
    pytest.importorskip("wandb")
    finished(started(tmp_path / "run", [*how, "steps=1"], "wandb"))
    [files] = (tmp_path / "run" / "wandb").glob("offline-run-*/files")
    names = {path.name for path in files.rglob("*") if path.is_file()}
    assert names <= {"requirements.txt", "wandb-metadata.json", "wandb-summary.json", "config.yaml"}
