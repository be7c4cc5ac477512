"""Real input, end to end: the Qwen2, Qwen3 and Llama architectures with a BPE tokenizer, on MATH and GSM8K problems."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from contrapose.cli import main
from contrapose.policy.model import save_model
from contrapose.prompts.template import render
from contrapose.train.pretrain import pretrain
from models import tiny
from user import load_prompts

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "train"
MATH = SAMPLES / "math_train_12k.sample2000.jsonl"
GSM8K = SAMPLES / "gsm8k_train.sample2000.jsonl"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
pytestmark = pytest.mark.skipif(not MATH.exists(), reason="the shared training samples are not here")


@pytest.fixture(scope="module")
def tokenizer():
    texts = [json.loads(line)["problem"] for line in MATH.read_text().splitlines()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    names = {"pad_token": special[0], "eos_token": special[1], "extra_special_tokens": special[2:]}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def small_model(family: str, tokenizer, answers, template: str):
    """A small model that has half learned the answers: some of its rollouts are right, some are not."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "max_position_embeddings": 1024}
    model = tiny(family, len(tokenizer), initializer_range=0.02, **sizes, **ends)
    examples = []
    for prompt in answers:
        asked = list(render(prompt, template, tokenizer).tokens)
        for answer in (prompt.answer, "0"):
            examples.append((asked, [*tokenizer.encode(rf"\boxed{{{answer}}}"), tokenizer.eos_token_id]))
    pretrain(model, examples, steps=80, batch=12, lr=5e-3, warmup=10)
    return model


@pytest.mark.parametrize(
    ("family", "data", "objective", "template"),
    [
        ("qwen2", MATH, "rence", "rence"),
        ("qwen3", GSM8K, "rence", "chat"),
        ("llama", MATH, "conspo", "conspo"),
        ("qwen3", MATH, "grpo", "plain"),
        ("llama", GSM8K, "grpo", "chat"),
        ("qwen2", GSM8K, "conspo", "conspo"),
    ],
)
def test_two_steps_on_real_problems(tmp_path, monkeypatch, capsys, tokenizer, family, data, objective, template):
    rows = [json.loads(line) for line in data.read_text().splitlines()[:400]]
    short = [row for row in rows if len(row["problem"]) < 120 and row["answer"].isdigit() and row["answer"] != "0"][:6]
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": r["problem"], "final": r["answer"]}) + "\n" for r in short))
    tokenizer.chat_template = CHATML if template == "chat" else None
    prompts = load_prompts(str(file), problem_key="question", answer_key="final")
    save_model(small_model(family, tokenizer, prompts, template), tokenizer, tmp_path / "base")
    settings = {
        "model.path": tmp_path / "base",
        "data.path": file,
        "data.problem_key": "question",
        "data.answer_key": "final",
        "data.template": template,
        "objective.name": objective,
        "steps": 2,
        "batch.prompts": 4,
        "batch.updates": 2,
        "rollout.k": 8,
        "rollout.max_tokens": 16,
        "filter.t_easy": 0.99,
        "filter.t_master": 1.0,
        "optim.lr": 1e-3,
        "eval.data": file,
        "eval.samples": 2,
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    monkeypatch.setattr("sys.argv", ["contrapose", "train", "--out", str(tmp_path / "run"), *flags])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0, capsys.readouterr()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2
    assert all(0 < m["accuracy"] < 1 for m in metrics)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    moved = [not torch.equal(a, b) for a, b in zip(base.parameters(), trained.parameters(), strict=True)]
    assert all(moved)
    assert type(trained).__name__.lower().startswith(family)
    assert [e["step"] for e in json.loads((tmp_path / "run" / "eval.json").read_text())] == [0, 2]
