"""The folder of an evaluation: wherever it is interrupted, it ends up the same byte for byte."""

import json
import resource

import pytest
import torch
from tokenizers.normalizers import Lowercase

from contrapose.evaluate import exam
from contrapose.evaluate.command import evaluate_model
from contrapose.evaluate.exam import Exam, Request, fingerprints
from contrapose.evaluate.records import begun_with, differences, make, read, recording
from contrapose.prompts.abacus import BASE_MODEL
from contrapose.report.log import WriteFailed
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.types import ContraposeError

FILES = ("settings.json", "rollouts.jsonl", "eval.json")
EXAMS = (Exam("abacus", 2, "plain"), Exam("abacus:validation", 3, "plain"))
SIDE_BY_SIDE = 3


@pytest.fixture(scope="module", autouse=True)
def a_few_at_a_time():
    """One thread, and so few problems side by side that an evaluation has several parts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddedEngine, "side_by_side", lambda *_: SIDE_BY_SIDE)
        yield
    torch.set_num_threads(before)


def run(out, resume=False, log=lambda line: None, each=lambda problems: None, exams=EXAMS, **changed):
    request = Request("abacus", exams, **{"temperature": 1.0, "max_tokens": 24, "limit": 7, **changed})
    return evaluate_model(request, out=out, resume=resume, log=log, each=each)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def left_behind(whole, folder, size):
    """An evaluation that was killed when ``size`` bytes of its rows were written."""
    folder.mkdir()
    (folder / "settings.json").write_bytes((whole / "settings.json").read_bytes())
    (folder / "rollouts.jsonl").write_bytes((whole / "rollouts.jsonl").read_bytes()[:size])
    return folder


def same(one, other):
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def ends(folder):
    """Where the rows of an evaluation end, in bytes."""
    lines = (folder / "rollouts.jsonl").read_bytes().splitlines(keepends=True)
    return [sum(map(len, lines[: n + 1])) for n in range(len(lines))]


def test_it_can_be_repeated(whole, tmp_path):
    run(tmp_path / "again")
    assert same(whole, tmp_path / "again")
    assert {p.name for p in whole.iterdir()} == set(FILES)


@pytest.mark.parametrize("rows", [0, 2, 3, 8, 13])
@pytest.mark.parametrize("more", [0, 60])
def test_wherever_it_is_killed_it_ends_the_same(whole, tmp_path, rows, more):
    """After whole rows, and with a part of the next one; in the first data set and in the second."""
    size = ([0, *ends(whole)][rows]) + more
    lines = []
    folder = left_behind(whole, tmp_path / "cut", size)
    run(folder, resume=True, log=lines.append)
    assert same(whole, folder)
    assert lines[-1] == (f"going on after {rows} problems" if rows else f"nothing is in {folder} yet: starting")


def test_only_parts_that_are_not_there_whole_are_asked_again(whole, tmp_path, monkeypatch):
    asked = []
    generate = EmbeddedEngine.generate
    monkeypatch.setattr(
        EmbeddedEngine, "generate", lambda self, part, *rest: asked.append(len(part)) or generate(self, part, *rest)
    )
    run(left_behind(whole, tmp_path / "cut", ends(whole)[4]), resume=True)
    assert asked == [3, 1, 3, 3, 1]  # of 3, 3, 1 and 3, 3, 1: the first part was there, and 2 rows of the second


def test_a_finished_one_is_shown_and_nothing_is_asked(whole, tmp_path, monkeypatch):
    folder = left_behind(whole, tmp_path / "done", None)
    monkeypatch.setattr(EmbeddedEngine, "generate", None)
    assert run(folder, resume=True) == json.loads((whole / "eval.json").read_text())
    assert same(whole, folder)


def test_what_was_damaged_is_asked_again_and_said(whole, tmp_path):
    folder = left_behind(whole, tmp_path / "damaged", None)
    rows = (folder / "rollouts.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "rollouts.jsonl").write_bytes(b"".join([*rows[:5], b"\0" * 40 + b"\n", *rows[6:]]))
    lines = []
    run(folder, resume=True, log=lines.append)
    assert same(whole, folder)
    [said] = [line for line in lines if "line 6" in line]
    assert said.startswith(f"{folder / 'rollouts.jsonl'}: line 6: ")
    assert said.endswith("; it and what follows is asked again")


def test_only_one_process_writes(whole, tmp_path):
    """Whether it starts or goes on; and once the first is gone, the other can."""
    folder = left_behind(whole, tmp_path / "cut", ends(whole)[4])
    settings, rows = json.loads((whole / "settings.json").read_text()), (folder / "rollouts.jsonl").read_bytes()
    with recording(folder, settings, resume=True):
        with pytest.raises(ContraposeError, match=rf"{folder} is being written by another process"):
            run(folder, resume=True)
        assert (folder / "rollouts.jsonl").read_bytes() == rows
    run(folder, resume=True)
    assert same(whole, folder)


@pytest.mark.parametrize("left", [(), (".settings.json.part",)])
def test_killed_at_once_it_starts(whole, tmp_path, left):
    """Between the making of one file and the next."""
    for name in ("rollouts.jsonl", *left):
        (tmp_path / name).touch()
    run(tmp_path)
    assert same(whole, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(FILES)


@pytest.mark.parametrize(("asked", "written"), [(1, 0), (2, 0), (3, 3), (6, 6), (7, 7), (9, 7)])
def test_stopped_between_problems_all_that_was_asked_together_is_kept(whole, tmp_path, asked, written):
    """Of 3, 3, 1 problems and 3, 3, 1: a stop after the last of them finds them written."""
    left = [None] * (asked - 1)

    def each(problems):
        if not left:
            raise KeyboardInterrupt
        left.pop()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", each=each)
    lines = []
    run(tmp_path / "stopped", resume=True, log=lines.append)
    assert lines[-1].startswith(f"going on after {written} problems" if written else "nothing is in ")
    assert same(whole, tmp_path / "stopped")


def test_a_full_disk_is_one_line_and_no_loss(whole, tmp_path):
    """The limit falls into the fifth row of the second data set."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ends(whole)[10] + 50, before[1]))
    try:
        with pytest.raises(WriteFailed) as error:
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'rollouts.jsonl'}: cannot be written: File too large (")
    assert said.endswith(" bytes are free): free space, then go on with --resume")
    assert error.value.exit_code == 74
    run(tmp_path, resume=True)
    assert same(whole, tmp_path)


def test_what_cannot_be_a_folder_is_a_mistake(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ContraposeError, match=rf"--out: {out} cannot be written: ") as error:
            make(out)
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 2  # a mistake, no fault of the disk


def test_killed_before_anything_was_written_it_starts(whole, tmp_path):
    lines = []
    run(tmp_path / "new", resume=True, log=lines.append)
    assert f"nothing is in {tmp_path / 'new'} yet: starting" in lines
    assert same(whole, tmp_path / "new")


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"temperature": 0.5}, "temperature = 1.0, and now it is 0.5"),
        ({"seed": 1}, "seed = 0, and now it is 1"),
        ({"max_tokens": 25}, "max_tokens = 24, and now it is 25"),
        ({"limit": 8}, "data.abacus.problems = 7, and now it is 8"),
        ({"exams": EXAMS[:1]}, "data.abacus:validation.samples = 3, and now it is null"),
        ({"exams": (Exam("abacus", 4, "plain"), EXAMS[1])}, "data.abacus.samples = 2, and now it is 4"),
        ({"dtype": "float64"}, "weights = "),
    ],
)
def test_other_settings_are_refused_by_name(whole, tmp_path, changed, key):
    folder = left_behind(whole, tmp_path / "other", 100)
    with pytest.raises(ContraposeError) as error:
        run(folder, resume=True, **changed)
    assert f"was begun with {key}" in str(error.value)
    assert (folder / "rollouts.jsonl").read_bytes() == (whole / "rollouts.jsonl").read_bytes()[:100]


@pytest.mark.parametrize("key", ["config", "tokenizer", "eos", "revision"])
def test_another_model_with_the_same_weights_is_refused(whole, tmp_path, monkeypatch, key):
    """Its config, its tokenizer, what ends a response, and the code all have a say in what it answers."""
    folder = left_behind(whole, tmp_path / "other", 100)
    load = EmbeddedEngine.load

    def other(path, dtype):
        engine = load(path, dtype)
        if key == "config":
            engine.model.config.rope_theta = 1.0
        elif key == "tokenizer":
            engine.tokenizer.backend_tokenizer.normalizer = Lowercase()
        elif key == "eos":
            engine.eos = (*engine.eos, 5)
        return engine

    monkeypatch.setattr(EmbeddedEngine, "load", other)
    if key == "revision":
        monkeypatch.setattr(exam, "revision", lambda: "another")
    with pytest.raises(ContraposeError, match=rf"was begun with {key} = "):
        run(folder, resume=True)


def test_where_a_model_lies_is_no_part_of_it(whole, tmp_path):
    (tmp_path / "copy").symlink_to(BASE_MODEL)
    engines = [EmbeddedEngine.load(str(path)) for path in (BASE_MODEL, tmp_path / "copy")]
    assert engines[0].model.config.name_or_path != engines[1].model.config.name_or_path
    assert fingerprints(engines[0]) == fingerprints(engines[1])


def test_what_saving_notes_in_its_config_is_no_part_of_a_model():
    engine = EmbeddedEngine.load(str(BASE_MODEL))
    before = fingerprints(engine)
    engine.model.config.architectures = None  # as in many a file; save_pretrained then adds it
    assert fingerprints(engine) == before


def test_a_flipped_bit_in_a_weight_makes_another_model():
    engine = EmbeddedEngine.load(str(BASE_MODEL))
    before = fingerprints(engine)["weights"]
    weight = next(engine.model.parameters()).data
    weight.view(torch.int32).view(-1)[3] ^= 1
    assert fingerprints(engine)["weights"] != before


def test_an_evaluation_is_known_by_all_its_settings(whole, tmp_path):
    settings = json.loads((whole / "settings.json").read_text())
    assert begun_with(whole, settings)
    assert not begun_with(whole, {**settings, "weights": "0" * 64})
    assert not begun_with(whole, {**settings, "more": 1})
    assert not begun_with(tmp_path, settings)
    (tmp_path / "settings.json").write_text("{")
    assert not begun_with(tmp_path, settings)


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_ever_overwritten(tmp_path, name):
    """Not even what lies there alone: rollouts.jsonl may be a training run's."""
    (tmp_path / name).write_text("mine")
    for resume in (False, True):
        with pytest.raises(ContraposeError, match=r"already holds an evaluation|settings\.json") as error:
            run(tmp_path, resume=resume)
        assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_rows_of_other_problems_are_refused(whole, tmp_path):
    folder = left_behind(whole, tmp_path / "other", 0)
    rows = (whole / "rollouts.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "rollouts.jsonl").write_bytes(b"".join([rows[1], rows[0], rows[2]]))
    with pytest.raises(ContraposeError, match=r"--resume: .* has 'abacus/.* where 'abacus/"):
        run(folder, resume=True)


def test_settings_say_what_is_evaluated(whole):
    settings, problems = read(whole)
    assert len(problems) == 14
    assert settings["data"]["abacus"]["samples"] == 2
    assert settings["data"]["abacus"]["verify"]["domain"] == "math"
    assert len(settings["weights"]) == 64


def test_differences_are_found_at_any_depth():
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4}, "e": 5}
    assert list(differences(one, other)) == [("b.c", 2, 4), ("b.d", 3, None), ("e", None, 5)]
    assert list(differences({"a": {"b": 1}}, {"a": "c"})) == [("a", {"b": 1}, "c")]
    deep = {}
    for _ in range(2000):
        deep = {"a": deep, "b": 1}
    assert len(list(differences(deep, {}))) == 2000
