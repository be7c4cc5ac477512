"""``contrapose plan``: what it says of every recipe that ships, and how it refuses."""

import json
from pathlib import Path

import pytest

from contrapose.config import shipped
from user import contrapose


def planned(monkeypatch, capsys, *arguments):
    assert contrapose(monkeypatch, "plan", *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("recipe", sorted(name for name in shipped() if "/" in name))
def test_every_row_of_the_papers_tables_fits_on_eight_gpus(monkeypatch, capsys, recipe):
    found = planned(monkeypatch, capsys, recipe, "--gpus", "8", "--memory", "80")
    assert found["fits"] and found["mend"] is None
    assert found["peak_gib"] == pytest.approx(max(sum(parts.values()) for parts in found["phases_gib"].values()))


@pytest.mark.parametrize(
    "recipe", sorted(name for name in shipped() if "/" not in name and name not in ("abacus", "gsm8k", "cluster"))
)
def test_every_objective_fits_on_eight_gpus_over_the_same_base(monkeypatch, capsys, tmp_path, recipe):
    file = tmp_path / "own.toml"
    file.write_text(f'base = ["{recipe}", "cluster"]\n[model]\npath = "Qwen/Qwen3-4B"\n')
    assert planned(monkeypatch, capsys, file, "--gpus", "8", "--memory", "80")["fits"]


def test_small_ones_fit_where_they_say(monkeypatch, capsys):
    assert planned(monkeypatch, capsys, "gsm8k", "--gpus", "1", "--memory", "24")["fits"]
    assert planned(monkeypatch, capsys, "--gpus", "1", "--memory", "2")["fits"]  # abacus


def test_what_does_not_fit_is_told_with_a_mend_that_mends(monkeypatch, capsys):
    large = ["gsm8k", "--memory", "24", "--set", "batch.max_tokens=16384"]
    assert contrapose(monkeypatch, "plan", *large) == 0
    said = capsys.readouterr().out
    assert "does not fit: " in said and "mend: --set batch.max_tokens=1408 (saves " in said
    assert "assumed  " in said
    mend = planned(monkeypatch, capsys, *large)["mend"]["set"]
    assert planned(monkeypatch, capsys, *large, *(x for pair in mend for x in ("--set", pair)))["fits"]
    hopeless = ["conspo/r1_llama_8b/conspo", "--memory", "8"]
    assert contrapose(monkeypatch, "plan", *hopeless) == 0
    assert "no setting mends that" in capsys.readouterr().out


def test_shorter_answers_take_fewer_hours_and_the_same_memory(monkeypatch, capsys):
    whole = planned(monkeypatch, capsys, "rence/rence", "--gpus", "8")
    short = planned(monkeypatch, capsys, "rence/rence", "--gpus", "8", "--length", "1000", "--prompt", "100")
    assert whole["phases_gib"] == short["phases_gib"]
    assert short["tokens_a_step"]["trained"] == 512 * 8 * 1000
    assert all(short["hours"][part] < whole["hours"][part] / 4 for part in ("sampling", "updates"))
    assert whole["tokens_a_step"]["sampled"] == 2 * whole["tokens_a_step"]["trained"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["rence"], "model.path is not set"),
        (["rence", "--set", "model.path=no/where"], "the shape of no/where is not known here"),
        (["gsm8k", "--gpu", "h10"], "--gpu: 'h10' is not one of"),
        (["gsm8k", "--length", "5000"], "--length: 5000 is more than the settings allow, 1024"),
        (["gsm8k", "--gpus", "3", "--set", "parallel.shard=2"], "parallel.shard: 2 does not divide the 3 devices"),
        (["gsm8k", "--shape", "nowhere.json"], "--shape: nowhere.json cannot be read"),
        (["gsm8k", "--memory", "nan"], "--memory"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, arguments, fault):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert contrapose(monkeypatch, "plan", *arguments) == 2
    said = capsys.readouterr().err
    assert fault in said and len(said.strip().splitlines()) == 1


def test_a_shape_may_be_a_file(monkeypatch, capsys, tmp_path):
    shape = {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
    shape |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
    Path(tmp_path / "config.json").write_text(json.dumps({**shape, "tie_word_embeddings": True}))
    sets = ["--set", "model.path=my/own", "--shape", tmp_path / "config.json"]
    assert planned(monkeypatch, capsys, "gsm8k", "--memory", "24", *sets)["weights"] == 596_049_920
