"""What came from elsewhere runs no code: every artefact below would touch a file, and is refused or harmless."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from contrapose.cli.app import run_name
from contrapose.policy.model import load_model, load_tokenizer, save_model
from contrapose.prompts.abacus import BASE_MODEL
from contrapose.prompts.template import render
from contrapose.types import ContraposeError, Prompt
from models import tiny
from user import contrapose, few_sums, load_prompts

WEIGHTS = "model.safetensors"
QUESTION = Prompt("p", "What is 1+1?", "2")


@pytest.fixture
def canary(tmp_path):
    """A file that must never be there."""
    touched = tmp_path / "canary"
    yield touched
    assert not touched.exists()


@pytest.fixture
def folder(tmp_path):
    """A model that anybody may have sent."""
    return shutil.copytree(BASE_MODEL, tmp_path / "m")


class Touch:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_the_pickles_here_do_touch_the_canary(tmp_path):
    """Or nothing below would prove anything."""
    pickle.loads(pickle.dumps(Touch(tmp_path / "touched"))).close()  # noqa: S301
    assert (tmp_path / "touched").exists()


def refusal(load, path):
    with pytest.raises(ContraposeError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "model.pkl", WEIGHTS])
def test_pickled_weights_are_refused_by_name(folder, canary, name):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Touch(canary)))
    told = refusal(load_model, folder)
    assert name in told
    assert "safetensors are required" in told or "cannot be read" in told


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state.pth"])
def test_a_pickle_beside_good_weights_is_not_read(folder, canary, name):
    (folder / name).write_bytes(pickle.dumps(Touch(canary)))
    load_model(folder, device="cpu")
    load_tokenizer(folder)


def test_an_array_of_objects_is_refused(folder, canary):
    """numpy pickles them."""
    (folder / WEIGHTS).unlink()
    np.save(folder / "model.npy", np.array([Touch(canary)], dtype=object), allow_pickle=True)
    assert "model.npy; safetensors are required" in refusal(load_model, folder)
    shutil.move(folder / "model.npy", folder / WEIGHTS)
    assert "model.safetensors cannot be read" in refusal(load_model, folder)


@pytest.mark.parametrize("place", ["../x.safetensors", "/{}/x.safetensors", "sub/../../x.safetensors", "..", ".", ""])
def test_an_index_that_leaves_its_folder_is_refused(folder, place):
    (folder / WEIGHTS).rename(folder.parent / "x.safetensors")
    place = place.format(str(folder.parent).strip("/"))
    names = list(load_file(folder.parent / "x.safetensors"))
    (folder / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, place)})
    )
    told = refusal(load_model, folder)
    assert "leaves its folder" in told or "cannot be read" in told


def test_an_index_of_its_own_files_is_followed(folder):
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    names = list(load_file(folder / "model-1.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    expected = load_model(BASE_MODEL, device="cpu").state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in load_model(folder, device="cpu").state_dict().items())


# --- programs ---------------------------------------------------------------------------------------------------------


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_python_of_a_model_or_tokenizer_is_refused(folder, canary, load, name):
    (folder / "own.py").write_text(f"open({str(canary)!r}, 'w')\n")
    classes = {
        "AutoModelForCausalLM": "own.Model",
        "AutoTokenizer": ["own.Tokenizer", None],
        "AutoConfig": "own.Config",
    }
    edit(folder / name, auto_map=classes)
    assert f"wants to run its own code (auto_map in {name}), which is never allowed" in refusal(load, folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_from_elsewhere_is_refused(folder, key):
    """transformers would download and load it."""
    edit(folder / "config.json", **{key: "somebody/kernel"})
    assert "wants to run code from elsewhere" in refusal(load_model, folder)


def test_an_adapter_cannot_name_the_model_to_load(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "somebody/model"}')
    assert "is an adapter" in refusal(load_model, folder)


@pytest.fixture(scope="module")
def speller():
    """A tokenizer that can spell everything."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(["a"], trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=alphabet))
    return raw.to_str()


ESCAPES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "namespace": "{{ namespace.__init__.__globals__['__builtins__'].open('CANARY', 'w') }}",
    "context": "{{ self.__init__.__globals__ }}",
    "function": "{{ raise_exception.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "attribute filter": "{{ (''|attr('__class__')|attr('__mro__'))[1] }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "include": "{% include 'CANARY' %}",
    "syntax": "{% for",
    "no such name": "{{ a.b.c }}",
    "raises": "{{ raise_exception('two\nlines') }}",
    "divides": "{{ 1 / 0 }}",
    "counts": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "another text": "hello",
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_chat_template_cannot_leave_its_sandbox(tmp_path, canary, speller, escape):
    text = ESCAPES[escape].replace("CANARY", str(canary))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(speller), eos_token="<end>")
    tokenizer.chat_template = text
    tokenizer.save_pretrained(tmp_path / "t")
    (tmp_path / "t" / "config.json").write_text('{"model_type": "llama"}')
    told = refusal(lambda path: render(QUESTION, "chat", load_tokenizer(path)), tmp_path / "t")
    assert told.startswith("data.template: the tokenizer's chat template ")
    assert told.endswith("'plain'")


@pytest.mark.parametrize("template", [3, [], {"a": "b"}, [{"name": "default"}]], ids=repr)
def test_a_chat_template_that_is_no_text_is_one_line(folder, template):
    edit(folder / "tokenizer_config.json", chat_template=template)
    with pytest.raises(ContraposeError) as caught:
        render(Prompt("p", "1+1=", "2"), "chat", load_tokenizer(folder))
    assert "\n" not in str(caught.value)


# --- settings and data ------------------------------------------------------------------------------------------------


def test_a_path_in_a_name_does_not_leave_the_folder_of_runs(monkeypatch, tmp_path):
    """Whatever a recipe is called, and whatever it calls things."""
    monkeypatch.chdir(tmp_path)
    name = run_name("../../x.toml", "../y", 0, "../z")
    assert "/" not in name and not name.startswith(".")
    for key in ("objective.name", "verify.domain", "data.template"):
        assert contrapose(monkeypatch, "train", "--set", f"{key}=../../canary") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_no_recipe_is_told_by_its_line_and_not_shown(monkeypatch, capsys, tmp_path):
    """A recipe that somebody sent reads no secrets out."""
    (tmp_path / "secret.toml").write_text("password: hunter2\n")
    (tmp_path / "own.toml").write_text('base = "secret.toml"\n')
    assert contrapose(monkeypatch, "train", tmp_path / "own.toml") == 2
    told = capsys.readouterr().err
    assert "secret.toml: not TOML" in told
    assert "hunter2" not in told


FORMULA = "=cmd|' /C calc'!A0"
CONTROL = "\x1b]0;owned\x07\x1b[2J\x9b31m"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_control_sequences_and_formulae_are_text(monkeypatch, capsys, tmp_path, kind):
    path = tmp_path / f"d.{kind}"
    rows = [(f"{FORMULA} {CONTROL}?", "1"), (f"{FORMULA} {CONTROL}?", "2"), (CONTROL, "")]
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"problem": p, "answer": a}) + "\n" for p, a in rows))
    else:
        path.write_text("problem,answer\n" + "".join(f'"{p}","{a}"\n' for p, a in rows))
    with pytest.raises(ContraposeError, match="column 'answer'"):
        load_prompts(str(path))
    assert contrapose(monkeypatch, "data", path, "--set", "data.max_broken=0.9") == 0
    shown = "".join(capsys.readouterr())
    assert "=cmd|" in shown
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)


def test_a_saved_array_is_no_data_set(monkeypatch, capsys, tmp_path, canary):
    np.save(tmp_path / "d.npy", np.array([Touch(canary)], dtype=object), allow_pickle=True)
    for name in ("d.npy", "d.jsonl", "d.csv"):
        if name != "d.npy":
            shutil.copy(tmp_path / "d.npy", tmp_path / name)
        assert contrapose(monkeypatch, "eval", "abacus", "--data", tmp_path / name) == 2
        assert capsys.readouterr().err.count("\n") == 1
    shutil.copy(tmp_path / "d.npy", tmp_path / "d.parquet")
    assert contrapose(monkeypatch, "eval", "abacus", "--data", tmp_path / "d.parquet") == 2
    assert "d.parquet" in capsys.readouterr().err


def test_a_hub_folder_with_a_script_runs_none(monkeypatch, capsys, tmp_path, canary):
    """What datasets once ran."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(canary)!r}, 'w')\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert contrapose(monkeypatch, "eval", "abacus", "--data", f"hub:{tmp_path}/set") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_of_a_whole_run_are_text_and_safetensors(monkeypatch, tmp_path):
    """Nothing that the program writes itself is of a kind that it refuses."""
    few = ["steps=1", "batch.prompts=2", "batch.updates=1", "rollout.k=2", "eval.data=", "filter.mode=none"]
    with few_sums():
        assert contrapose(monkeypatch, "train", "--out", tmp_path / "run", *(x for f in few for x in ("--set", f))) == 0
    kinds = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert kinds <= {".json", ".jsonl", ".safetensors", ".toml", ".jinja", ".html"}


def test_a_model_of_this_program_is_accepted(tmp_path, speller):
    """With a chat template that does nothing but its work."""
    raw = Tokenizer.from_str(speller)
    own = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")
    own.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    save_model(tiny("llama", raw.get_vocab_size()), own, tmp_path / "own")
    load_model(tmp_path / "own", device="cpu")
    tokenizer = load_tokenizer(tmp_path / "own")
    assert tokenizer.decode(list(render(QUESTION, "chat", tokenizer).tokens)) == "user: What is 1+1?"
