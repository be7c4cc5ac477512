"""Loading and saving: what comes back is what was written, and a bad folder is named in one line."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from contrapose.policy.model import (
    context_length,
    eos_ids,
    load_model,
    load_tokenizer,
    pieces,
    save_model,
    torch_dtype,
    weights_of,
)
from contrapose.types import ContraposeError
from models import PLAIN, tiny, tokenizer, variant

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    save_model(tiny("llama"), tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def complaint(load, path):
    """The one line with which ``load`` refuses ``path``."""
    with pytest.raises(ContraposeError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("model.path: ")
    assert str(path) in text
    return text


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("family", PLAIN)
def test_round_trip(family, tmp_path):
    model = tiny(family)
    save_model(model, tokenizer(), tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert type(loaded) is type(model)
    assert not loaded.training
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(x, expected[name]) for name, x in loaded.state_dict().items())
    ids = torch.arange(8).unsqueeze(0)
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_tokenizer_comes_back(folder):
    loaded = load_tokenizer(folder)
    assert loaded("t4 t63 t9").input_ids == tokenizer()("t4 t63 t9").input_ids == [4, 63, 9]
    assert loaded.eos_token_id == 1
    assert loaded.decode([4, 9, 1], skip_special_tokens=True) == "t4 t9"


def test_saving_over_a_folder_replaces_it(folder):
    other = tiny("llama", seed=1)
    save_model(other, tokenizer(), folder)
    assert torch.equal(load_model(folder, device="cpu").lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_the_dtype_is_chosen(folder, dtype):
    loaded = load_model(folder, dtype, "cpu")
    assert {p.dtype for p in loaded.parameters()} == {torch_dtype(dtype)} == {getattr(torch, dtype)}


def test_an_unknown_dtype(folder):
    for call in (lambda: load_model(folder, "float23"), lambda: torch_dtype("float23")):
        with pytest.raises(ContraposeError, match=r"model\.dtype: 'float23'.*did you mean 'float32'"):
            call()


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_no_folder(load, tmp_path):
    assert "is not a folder" in complaint(load, tmp_path / "nowhere")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_no_config(load, folder):
    (folder / "config.json").unlink()
    assert "config.json" in complaint(load, folder)


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", '{"model_type": "llama",}'])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_config_that_is_not_json(load, text, folder):
    (folder / "config.json").write_text(text)
    assert "is not JSON" in complaint(load, folder)


def test_a_config_that_is_not_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe{")
    assert "is not JSON" in complaint(load_model, folder)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"llama"', "{}"])
def test_a_config_that_is_not_a_model(text, folder):
    (folder / "config.json").write_text(text)
    complaint(load_model, folder)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_code_that_came_with_a_model_is_refused(load, folder):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    (folder / "modeling.py").write_text("raise SystemExit('code of the model was run')\n")
    assert "auto_map" in complaint(load, folder)


def test_pickled_weights_are_refused(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    text = complaint(load_model, folder)
    assert "pytorch_model.bin" in text and "safetensors" in text


def test_pickled_weights_beside_a_stray_safetensors_are_refused(folder):
    (folder / WEIGHTS).rename(folder / "vision.safetensors")
    torch.save(tiny("llama").state_dict(), folder / "pytorch_model.bin")
    complaint(load_model, folder)


def test_no_weights(folder):
    (folder / WEIGHTS).unlink()
    text = complaint(load_model, folder)
    assert "no weights" in text and "safetensors" in text


@pytest.mark.parametrize("kept", [0, 5, 2000, -1])
def test_weights_cut_short(kept, folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:kept])
    complaint(load_model, folder)


def test_a_missing_shard(folder):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002" in complaint(load_model, folder)


def test_a_missing_tensor_is_not_made_up(folder):
    """A layer drawn at random would train without a word."""
    edit_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    assert "model.layers.1.mlp.up_proj.weight" in complaint(load_model, folder)


def test_a_tensor_of_another_shape(folder):
    edit_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))
    complaint(load_model, folder)


def test_an_architecture_without_a_name(folder):
    edit_config(folder, model_type="nonesuch")
    assert "nonesuch" in complaint(load_model, folder)


def test_a_model_that_is_not_causal(folder):
    edit_config(folder, model_type="t5")
    complaint(load_model, folder)


@pytest.mark.parametrize("family", PLAIN)
def test_a_folder_without_a_tokenizer(family, tmp_path):
    """A tokenizer made up from nothing would turn every prompt into nothing."""
    tiny(family).save_pretrained(tmp_path)
    complaint(load_tokenizer, tmp_path)


@pytest.mark.parametrize("family", PLAIN)
def test_a_tokenizer_splits_as_its_file_says(family, tmp_path):
    """Whatever rules the library holds right for the model type."""
    own = tokenizer()
    save_model(tiny(family), own, tmp_path)
    text = " ".join(own.convert_ids_to_tokens([5, 9, 7]))
    assert load_tokenizer(tmp_path).encode(text, add_special_tokens=False) == [5, 9, 7]


def test_a_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    complaint(load_tokenizer, folder)


@pytest.mark.parametrize(
    ("configured", "own", "expected"),
    [([5, 3], 3, (3, 5)), (7, 3, (3, 7)), (3, 3, (3,)), (None, 3, (3,)), ([9, 8], None, (8, 9)), (0, None, (0,))],
)
def test_eos_is_the_union(configured, own, expected):
    model = tiny("llama")
    model.generation_config.eos_token_id = configured
    assert eos_ids(model, SimpleNamespace(eos_token_id=own, vocab_size=64)) == expected


def test_eos_survives_saving(folder):
    model = tiny("llama")
    model.generation_config.eos_token_id = [5, 9]
    save_model(model, tokenizer(eos=3), folder)
    assert eos_ids(load_model(folder, device="cpu"), load_tokenizer(folder)) == (3, 5, 9)


def test_a_model_without_eos():
    with pytest.raises(ContraposeError, match="EOS"):
        eos_ids(tiny("llama"), SimpleNamespace(eos_token_id=None, vocab_size=64))


def test_context_length():
    assert context_length(tiny("qwen3", max_position_embeddings=77)) == 77


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(folder, value):
    edit_weights(folder, lambda weights: weights["model.layers.1.mlp.up_proj.weight"][3, 5].fill_(value))
    assert "model.layers.1.mlp.up_proj.weight in " in complaint(load_model, folder)


def test_a_weight_that_overflows_when_it_is_loaded_is_named(folder):
    edit_weights(folder, lambda weights: weights["lm_head.weight"][0, 0].fill_(1e6))
    load_model(folder, device="cpu")
    assert "lm_head.weight in " in complaint(lambda path: load_model(path, "float16"), folder)


def test_a_tensor_of_another_shape_is_named_with_both(folder):
    edit_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))
    text = complaint(load_model, folder)
    assert "model.norm.weight" in text and "[7]" in text and "[32]" in text


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ContraposeError, match="the tokenizer knows 65 tokens, the model 64"):
        eos_ids(tiny("llama"), tokenizer(vocab=65))
    assert eos_ids(tiny("llama"), tokenizer(vocab=60)) == (1,)  # models are often padded


def test_an_end_that_the_model_cannot_say_is_none():
    model = tiny("llama")
    model.generation_config.eos_token_id = [64, 5]
    assert eos_ids(model, SimpleNamespace(eos_token_id=99, vocab_size=64)) == (5,)
    with pytest.raises(ContraposeError, match="no EOS token that the model knows"):
        eos_ids(tiny("llama"), SimpleNamespace(eos_token_id=64, vocab_size=64))


def test_what_a_library_says_in_two_lines_is_told_in_one(folder):
    edit_config(folder, hidden_size="wide")
    text = complaint(load_model, folder)
    assert "'hidden_size'" in text and "'wide'" in text


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_no_view_of_their_file(tmp_path, dtype):
    """They lie as in a model that was never saved, since products round by that; and the file may change."""
    tiny("qwen2").to(getattr(torch, dtype)).save_pretrained(tmp_path)
    for path in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / path).write_text("{}")
    model = load_model(tmp_path, dtype)
    assert all(p.data_ptr() % 64 == 0 for p in model.parameters())
    before = [p.clone() for p in model.parameters()]
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\1" * 4096)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.fixture(scope="module")
def bytes_tokenizer():
    """A byte-level BPE without merges: whatever is not ASCII takes several tokens."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*sorted(letters), "<eos>"])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


@pytest.mark.parametrize("text", ["", "a b", "\u00e9\u65e5\U0001f600!", "nul \x00 <eos>", r"\boxed{1}"])
def test_every_token_has_its_piece_of_the_text(bytes_tokenizer, text):
    tokens = bytes_tokenizer.encode(text, add_special_tokens=False)
    found = pieces(bytes_tokenizer, tokens)
    assert len(found) == len(tokens)
    assert "".join(found) == text


def test_a_character_belongs_to_its_last_token_and_one_that_is_cut_off_is_none(bytes_tokenizer):
    tokens = bytes_tokenizer.encode("a\U0001f600", add_special_tokens=False)
    assert pieces(bytes_tokenizer, tokens) == ["a", "", "", "", "\U0001f600"]
    assert "".join(pieces(bytes_tokenizer, tokens[:-1])) == bytes_tokenizer.decode(tokens[:-1])


def test_a_tokenizer_without_a_backend_says_each_token_alone():
    alone = SimpleNamespace(decode=lambda tokens: "".join(chr(97 + t) for t in tokens))
    assert pieces(alone, [0, 1, 2]) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["qwen3", "qwen3, tied", "llama, biases"])
def test_weights_are_those_of_a_checkpoint_and_always_a_head(name, tmp_path):
    model = variant(name)
    found = dict(weights_of(model))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert found.keys() - saved.keys() == ({"lm_head.weight"} if "tied" in name else set())
    assert all(torch.equal(x, found[key]) for key, x in saved.items())
    assert torch.equal(found["lm_head.weight"], model.get_output_embeddings().weight)
    assert not any(x.requires_grad for x in found.values())
