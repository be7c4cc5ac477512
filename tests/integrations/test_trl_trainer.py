"""TRL's own trainer, with our objectives: its gradients are those of -J, and it refuses what would make them others."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import contrapose
from contrapose.objectives.zoo import ZOO, hyperparameters_of
from contrapose.objectives.zoo import objective as objective_by_name
from contrapose.types import ContraposeError

trl = pytest.importorskip("trl", reason="pip install 'contrapose[trl]'")

from trl_steps import EOS, VOCAB, K, Watched, arguments, correct, prompts, saved_model, trainer_of  # noqa: E402

from contrapose.integrations.trl import ContrastiveTrainer, verified  # noqa: E402
from contrapose.integrations.trl_settings import THEIR_LOSS, check_model  # noqa: E402
from models import tokenizer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

EXACT = 1e-5
HYPERPARAMETERS = {"rence": {"kl_coef": 1.0}}
"""A weight at which the KL's share of the gradient would be missed."""


def sizes(rows, window, generation=None, iterations=2):
    return {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": window,
        "steps_per_generation": generation or window,
        "num_iterations": iterations,
    }


SPLITS = {
    "one batch": sizes(32, 1),
    "batches of a group": sizes(8, 4),
    "rows": sizes(1, 32),
    "several steps a generation": sizes(4, 4, generation=8, iterations=1),
    "several steps, each twice": sizes(2, 8, generation=16),
    "fresh rollouts at each step": sizes(8, 4, iterations=1),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A test tells nobody."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def check(found, moves=True):
    """That gradients were equal, also where theta had left pi_old."""
    assert len(found) == 4
    assert max(step["error"] for step in found) < EXACT, found
    assert not moves or max(step["kl"] for step in found) > 0.05


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["rence", "conspo"])
def test_the_gradient_is_that_of_the_objective_however_groups_are_split(model, tmp_path, name, split):
    trainer = trainer_of(model, tmp_path, name, SPLITS[split], kind=Watched, **HYPERPARAMETERS.get(name, {}))
    trainer.train()
    check(trainer.found, moves=split != "fresh rollouts at each step")
    logged = [row for row in trainer.state.log_history if "contrast/J" in row]
    for row, step in zip(logged, trainer.found, strict=True):
        assert row["contrast/J"] == pytest.approx(step["J"], rel=1e-4, abs=1e-6)
        assert row["loss"] == pytest.approx(-step["J"], rel=1e-4, abs=1e-6)
        assert row["contrast/kl"] == pytest.approx(step["kl"], rel=1e-3, abs=1e-6)
        assert row["contrast/kl_coef"] == pytest.approx(step["kl_coef"], rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"rence", "conspo"}))
def test_every_objective_has_its_own_gradient(model, tmp_path, name):
    trainer = trainer_of(model, tmp_path, name, sizes(2, 16), kind=Watched)
    trainer.train()
    check(trainer.found)


@pytest.mark.parametrize(
    "name, hyperparameters", [("grpo", {"reference_coef": 0.5}), ("dpo", {"reference": "initial"})]
)
@pytest.mark.parametrize("adapter", [False, True])
def test_the_reference_is_the_initial_policy(model, tmp_path, name, hyperparameters, adapter):
    rest = {"peft_config": lora()} if adapter else {}
    trainer = trainer_of(model, tmp_path, name, sizes(8, 4), kind=Watched, **hyperparameters, **rest)
    trainer.train()
    check(trainer.found)


def lora(**rest):
    peft = pytest.importorskip("peft")
    return peft.LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"], **rest)


@pytest.mark.parametrize("name", ["rence", "conspo"])
def test_adapters_checkpointing_and_temperature(model, tmp_path, name):
    settings = sizes(4, 8) | {"gradient_checkpointing": True, "temperature": 0.7}
    rest = HYPERPARAMETERS.get(name, {}) | {"peft_config": lora()}
    trainer = trainer_of(model, tmp_path, name, settings, kind=Watched, **rest)
    trainer.train()
    check(trainer.found)


@pytest.mark.parametrize(
    "name, split",
    [
        ("rence", sizes(2, 4)),  # two groups, over both ranks
        ("conspo", sizes(1, 12)),  # three groups
        ("disco", sizes(4, 4, generation=8, iterations=1)),
    ],
)
def test_groups_may_lie_over_ranks(model, tmp_path, name, split):
    told = json.dumps([split, HYPERPARAMETERS.get(name, {})])
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("trl_steps.py")
    run([*ranks, str(script), str(tmp_path), model, name, told])
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    check(first)
    check(second)


def run(command):
    """In a process of its own that finds what this one does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, env=environment, check=True, timeout=600)


class Corrected(Watched):
    """As if vLLM had sampled at other log-probs: every second row counts half."""

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        ratio = torch.ones(len(batch["completion_ids"]), 1)
        ratio[1::2] = 0.5
        return batch | {"importance_sampling_ratio": ratio}


def test_importance_sampling_weighs_the_credit(model, tmp_path):
    trainer = trainer_of(model, tmp_path, "conspo", sizes(8, 4) | {"max_steps": 1}, kind=Corrected)
    trainer.train()
    plain = trainer_of(model, tmp_path, "conspo", sizes(8, 4) | {"max_steps": 1})
    plain.train()
    pairs = list(zip(trainer._buffered_inputs, plain._buffered_inputs, strict=True))
    assert any(batch["credit"].any() for batch, _ in pairs)
    for batch, other in pairs:
        assert torch.allclose(batch["credit"], other["credit"] * batch["importance_sampling_ratio"])


def unsure(completion_ids, **_):
    """No reward for every fifth answer."""
    return [None if sum(ids) % 5 == 0 else float(sum(ids) % 3 == 0) for ids in completion_ids]


def rows_by_group(trainer):
    """Credit, mask, presence and the like of all rows of the last step, sorted by group."""
    keys = ("group", "credit", "present", "correct", "completion_mask", "completion_ids", "old_per_token_logps")
    rows = {key: torch.cat([batch[key] for batch in trainer._buffered_inputs]) for key in keys}
    order = rows["group"].argsort(stable=True)
    return {key: x[order] for key, x in rows.items()}


def single(model, folder, objective, reward, **settings):
    """A trainer with one reward function."""
    args = arguments(folder, **{**sizes(8, 4, iterations=1), "reward_weights": None, "max_steps": 1, **settings})
    given = {"train_dataset": prompts(), "processing_class": tokenizer(VOCAB, EOS)}
    return ContrastiveTrainer(model, reward, args, objective=objective, **given)


def test_answers_that_nobody_could_judge_are_left_out(model, tmp_path):
    trainer = single(model, tmp_path, "conspo", unsure)
    trainer.train()
    rows = rows_by_group(trainer)
    told = [
        sum(row[kept.bool()].tolist())
        for row, kept in zip(rows["completion_ids"], rows["completion_mask"], strict=True)
    ]
    assert rows["present"].tolist() == [total % 5 != 0 for total in told]
    assert not rows["present"].all() and not rows["credit"][~rows["present"]].any()
    assert not rows["correct"][~rows["present"]].any()
    expected = expected_credit(rows, "conspo", rows["present"], rows["completion_mask"] * rows["present"].unsqueeze(1))
    assert expected.any() and torch.allclose(rows["credit"], expected, rtol=1e-5, atol=1e-9)


def test_truncated_completions_are_masked_and_not_the_likeliest(model, tmp_path):
    trainer = single(model, tmp_path, "conspo", correct, mask_truncated_completions=True, max_completion_length=6)
    trainer.train()
    rows = rows_by_group(trainer)
    masked = rows["completion_mask"].sum(1) == 0
    assert masked.any() and not masked.all() and not rows["credit"][masked].any()
    expected = expected_credit(rows, "conspo", torch.ones_like(masked), rows["completion_mask"])
    assert expected.any() and torch.allclose(rows["credit"], expected, rtol=1e-5, atol=1e-9)


def expected_credit(rows, name, present, mask):
    old = rows["old_per_token_logps"]
    group = lambda x: x.unflatten(0, (-1, K))  # noqa: E731
    flags = {"correct": group(rows["correct"]), "present": group(present)}
    return contrapose.credit(name, group(old), old_logp=group(old), mask=group(mask), **flags).flatten(0, 1)


def test_evaluation_says_j_and_leaves_the_schedule(model, tmp_path):
    settings = sizes(8, 4) | {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "per_device_eval_batch_size": 32,
        "do_eval": True,
    }
    trainer = trainer_of(
        model, tmp_path, "rence", settings, kind=Watched, eval_dataset=prompts(4), **HYPERPARAMETERS["rence"]
    )
    trainer.train()
    check(trainer.found)
    asked = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(asked) == 2
    for row in asked:
        assert row["eval_loss"] == pytest.approx(-row["eval_contrast/J"], rel=1e-4)
        assert 0 <= row["eval_contrast/accuracy"] <= 1 and row["eval_entropy"] > 0


@pytest.mark.parametrize("name", ["rence", "conspo"])
def test_a_resumed_run_ends_as_one_never_stopped(model, tmp_path, name):
    settings = sizes(8, 4) | {"save_strategy": "steps", "save_steps": 2}
    options = {"kl_target": 0.1, "kl_coef": 0.1} if name == "rence" else {}
    whole = trainer_of(model, tmp_path, name, settings, **options)
    whole.train()
    resumed = trainer_of(model, tmp_path, name, settings, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert name != "rence" or whole.now.kl_coef != pytest.approx(0.1, rel=1e-6)
    assert resumed.now == whole.now
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_second_training_starts_a_schedule_anew(model, tmp_path):
    trainer = trainer_of(model, tmp_path, "rence", sizes(8, 4) | {"max_steps": 2})
    trainer.train()
    assert trainer.now.progress == 1 and trainer.now.kl_coef != 0.001
    trainer.train()
    first = next(row for row in trainer.state.log_history if "contrast/J" in row)
    assert (first["contrast/progress"], first["contrast/kl_coef"]) == (0, 0.001)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"beta": 0.04}, "GRPOConfig.beta: 0.04 would be of no effect.*leave it at 0.0"),
        ({"loss_type": "dr_grpo"}, "GRPOConfig.loss_type: 'dr_grpo' would be of no effect"),
        ({"scale_rewards": "none"}, "GRPOConfig.scale_rewards: 'none'"),
        ({"epsilon_high": 0.28}, "GRPOConfig.epsilon_high: 0.28"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level"),
        ({"top_entropy_quantile": 0.2}, "top_entropy_quantile"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha"),
        (sizes(8, 3, generation=4), "steps_per_generation: 4 is no multiple of gradient_accumulation_steps .3"),
        (sizes(2, 2, generation=8), "per_device_train_batch_size: an optimizer step has 2 x 2 rollouts .* .8"),
    ],
)
def test_settings_of_another_loss_are_refused(model, tmp_path, settings, message):
    with pytest.raises(ContraposeError, match=message) as refused:
        trainer_of(model, tmp_path, "conspo", sizes(8, 4) | settings)
    assert "\n" not in str(refused.value)


def test_what_is_refused_are_settings_of_theirs():
    assert set(THEIR_LOSS) <= {field.name for field in fields(trl.GRPOConfig)}


def test_no_hyperparameter_is_called_like_an_argument_of_theirs():
    ours = {key for name in ZOO for key in hyperparameters_of(name)}
    assert not ours & set(inspect.signature(trl.GRPOTrainer).parameters)


def test_dropout_is_refused_unless_it_is_off(model, tmp_path):
    leaky = lora(lora_dropout=0.1)
    with pytest.raises(ContraposeError, match=r"dropout is active in .*lora_dropout"):
        trainer_of(model, tmp_path, "conspo", sizes(8, 4), peft_config=leaky)
    trainer_of(model, tmp_path, "conspo", sizes(8, 4) | {"disable_dropout": True}, peft_config=leaky)
    with pytest.raises(ContraposeError, match=r"dropout is active in model.layers.0.self_attn"):
        settings = {"model_init_kwargs": {"attention_dropout": 0.1}, "disable_dropout": True}
        trainer_of(model, tmp_path, "conspo", sizes(8, 4) | settings)


@pytest.mark.parametrize("found, message", [("_is_vlm", "see images"), ("aux_loss_enabled", "router_aux_loss_coef: ")])
def test_models_with_more_than_text_and_one_loss_are_refused(model, tmp_path, found, message):
    trainer = trainer_of(model, tmp_path, "conspo", sizes(8, 4))
    assert getattr(trainer, found) is False
    setattr(trainer, found, True)
    with pytest.raises(ContraposeError, match=message):
        check_model(trainer)


@pytest.mark.parametrize(
    "named, message",
    [
        ({"objective": "conspoo"}, "'conspoo' is unknown .did you mean 'conspo'"),
        ({"taw": 1.0}, "taw: neither an argument of GRPOTrainer nor a hyper-parameter.*did you mean 'tau'"),
        ({"tau": -1.0}, "tau must be above 0"),
        ({"objective": objective_by_name("conspo"), "tau": 1.0}, "tau: neither"),
        ({"correct": None}, "correct: several reward functions.*by name or index: shaped, correct"),
        ({"correct": "corect"}, "'corect' is none of the reward functions"),
        ({"correct": 2}, "2 is none"),
    ],
)
def test_what_it_is_to_maximise_is_checked(model, tmp_path, named, message):
    with pytest.raises(ContraposeError, match=message):
        trainer_of(model, tmp_path, named.pop("objective", "conspo"), sizes(8, 4), **named)


def test_what_is_right_may_be_named_by_index_and_a_constant_length_is_the_limit(model, tmp_path):
    by_index = trainer_of(model, tmp_path, "dr_grpo", sizes(8, 4), correct=1)
    assert by_index.correct == 1
    assert by_index.objective == objective_by_name("dr_grpo", length=12)


def test_infinite_rewards_are_refused(model, tmp_path):
    with pytest.raises(ContraposeError, match="reward function 'endless': a reward is infinite"):
        single(model, tmp_path, "conspo", endless).train()


def endless(completion_ids, **_):
    return [float("inf")] * len(completion_ids)


def test_the_grader_is_a_reward_function():
    noted = {}
    reward = verified("format")
    texts = [r"\boxed{\frac{1}{2}}", r"\boxed{3}", "half", [{"role": "assistant", "content": r"\boxed{0.5}"}]]
    golds = {"answer": ["1/2"] * 4}
    assert reward(prompts=[""] * 4, completions=texts, log_metric=noted.__setitem__, **golds) == [1.0, 0.1, 0.0, 1.0]
    assert noted == {"verify/no_answer": 0.25, "verify/faults": 0.0}
    assert reward.__name__ == "verified_format"
    with pytest.raises(ContraposeError, match=r"gold: the data set has no such column"):
        verified("binary", column="gold")(completions=texts, **golds)
    with pytest.raises(ContraposeError, match=r"'formt' is unknown .did you mean 'format'"):
        verified("formt")


def test_the_page_is_right_and_its_example_learns(monkeypatch, tmp_path):
    """The script and the command of docs/trl.md as they stand: from 0.34 to what ConSPO reaches in a run of ours."""
    page = (Path(__file__).parents[2] / "docs" / "trl.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "trl.md", "exec"), names)
    command = re.search(r"^    (contrapose eval .*)$", page, re.M).group(1)
    run([sys.executable, "-m", *shlex.split(command), "--out", "asked"])
    [asked] = json.loads(Path("asked/eval.json").read_text())
    assert asked["accuracy"]["value"] > 0.7
    noted = {key for row in names["trainer"].state.log_history for key in row}
    assert set(re.findall(r"`((?:contrast|verify)/\w+)`", page)) == {
        x for x in noted if re.match("contrast/|verify/", x)
    }
