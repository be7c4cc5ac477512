"""On which rollouts verl trains: its real queue and buffer under our pool, and its whole trainer on the host."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from verl_case import save_model

from contrapose.integrations.verl.reward import compute_score
from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.types import ContraposeError, PoolExhausted, Prompt

tq = pytest.importorskip("transfer_queue", exc_type=ImportError)
pytest.importorskip("verl.trainer.ppo.v1", exc_type=ImportError)
buffers = pytest.importorskip("contrapose.integrations.verl.buffer")
trainers = pytest.importorskip("contrapose.integrations.verl.trainer")
balancing = pytest.importorskip("verl.utils.seqlen_balancing")
tensordicts = pytest.importorskip("verl.utils.tensordict_utils")
hydra = pytest.importorskip("hydra")
ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # verl's own

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / "recipes" / "verl"
K = 4


@pytest.fixture(scope="module")
def queue():
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init()
    yield
    tq.close()
    ray.shutdown()


def answer(uid, said, failed=False, partition="train"):
    """Rollouts of a prompt for the queue, with what the reward function ``said`` of each."""
    keys = [f"{uid}_{i}_0" for i in range(len(said))]
    rows = [{"rm_scores": torch.tensor([0.0, 1.0]), "extra_fields": {"reward_extra_info": each}} for each in said]
    fields = tensordicts.list_of_dict_to_tensordict(rows)
    tags = [{"status": "success", "seq_len": 5} for _ in said]
    tq.kv_batch_put(keys=keys, fields=fields, tags=tags, partition_id=partition)
    status = {"is_prompt": True, "status": "failure" if failed else "finished", "global_steps": 1}
    tq.kv_put(key=uid, partition_id=partition, tag=status)


class Engine:
    """Answers what is asked: ``rights`` says how many of a prompt's rollouts are right, None that one failed."""

    def __init__(self, rights, mode="band"):
        self.rights = rights
        self.buffer = buffers.ContrastBuffer(
            K,
            5,
            trainer_mode="sync",
            trainer_config={},
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs={},
            refill_fn=self.ask,
            train_batch_size=3,
            poll_interval=0.01,
        )
        self.buffer.pool = PromptPool([Prompt(name, "", "") for name in rights], Thresholds(mode))
        self.asked = []

    def ask(self, count):
        uids = [f"{len(self.asked)}-{i}" for i in range(count)]
        drawn = self.buffer.draw(uids)
        for uid, prompt in reversed(
            list(zip(uids, drawn, strict=True))
        ):  # the last to be asked are the first to answer
            self.asked.append(prompt.id)
            right = self.rights[prompt.id]
            failed = right is None
            answers = range(K - 1 if failed else K)
            fields = [
                {
                    "rm_scores": torch.tensor([0.0, 1.0 if i < (right or 0) else 0.1]),
                    "extra_fields": {"reward_extra_info": {"acc": float(i < (right or 0))}},
                }
                for i in answers
            ]
            tags = [{"status": "success", "seq_len": 5} for _ in answers]
            tq.kv_batch_put(
                keys=[f"{uid}_{i}_0" for i in answers],
                fields=tensordicts.list_of_dict_to_tensordict(fields),
                tags=tags,
                partition_id="train",
            )
            status = {"is_prompt": True, "status": "failure" if failed else "finished", "global_steps": 1}
            tq.kv_put(key=uid, partition_id="train", tag=status)

    def step(self, batch_size=3):
        self.ask(batch_size)
        prompts = {}
        batch, metrics = self.buffer.sample(1, "train", batch_size)
        tq.kv_clear(keys=batch.keys, partition_id="train")
        for key in batch.keys:
            prompts.setdefault(key.rsplit("_", 2)[0], []).append(key)
        assert all(len(keys) == K for keys in prompts.values())
        assert not (tq.kv_list("train") or {}).get("train"), "what is not trained on stays behind"
        return len(prompts), metrics


def test_the_filter_draws_until_enough_groups_pass(queue):
    """ReNCE Eq. 3: 0 of 4 is too hard, 3 too easy, 4 mastered."""
    engine = Engine({f"{right}{i}": right for i in range(4) for right in (0, 1, 2, 3, 4)})
    groups, metrics = engine.step()
    assert groups == 3
    fates = {fate: metrics[f"contrapose/{fate}"] for fate in ("train", "too_hard", "too_easy", "mastered")}
    drawn = [name[0] for name in engine.asked]
    of = {"too_hard": "0", "train": "12", "too_easy": "3", "mastered": "4"}
    assert fates == {fate: sum(right in rights for right in drawn) for fate, rights in of.items()}
    assert fates["train"] >= 3 and sum(fates.values()) > 3
    assert metrics["contrapose/accuracy"] == pytest.approx(sum(map(int, drawn)) / K / len(drawn))


def test_the_mastered_are_never_drawn_again_and_surplus_is_drawn_first(queue):
    engine = Engine({f"{right}{i}": right for i in range(3) for right in (1, 4)})
    mastered, seen_surplus = set(), 0
    for _ in range(4):
        cached = engine.buffer.pool.state_dict()["cache"]
        engine.asked = []
        engine.step(2)
        seen_surplus += len(cached)
        assert set(cached[:2]) <= set(engine.asked[:2])
        assert not mastered & set(engine.asked)
        mastered |= {name for name in engine.asked if name.startswith("4")}
    assert mastered and seen_surplus


def test_the_batch_is_filled_in_the_order_of_drawing(queue):
    """Not of finishing: those asked last answer first here, and the surplus is of the last."""
    engine = Engine({f"1{i}": 1 for i in range(6)})
    engine.ask(3)
    first = list(engine.buffer.prompt_of)
    engine.ask(2)
    last = list(engine.buffer.prompt_of.values())[3:]
    batch, _ = engine.buffer.sample(1, "train", 3)
    tq.kv_clear(keys=batch.keys, partition_id="train")
    assert list(dict.fromkeys(map(buffers.uid_of, batch.keys))) == first
    assert engine.buffer.pool.state_dict()["cache"] == [prompt.id for prompt in last]


def test_a_group_with_a_failed_rollout_is_replaced(queue):
    engine = Engine({"broken": None} | {f"1{i}": 1 for i in range(5)})
    while "broken" not in engine.asked:
        engine.asked = []
        groups, metrics = engine.step()
        assert groups == 3
    assert metrics["training/rollout_failure/evicted_samples"] == 1
    assert metrics["contrapose/train"] == 3


def test_without_a_filter_every_whole_group_is_trained_on(queue):
    engine = Engine({f"{right}{i}": right for i in range(2) for right in range(K + 1)}, "none")
    engine.step()
    assert len(engine.asked) == 3 and engine.buffer.pool.mastered == 0


def test_a_filter_that_leaves_nothing_is_an_error_in_time(queue):
    engine = Engine({f"0{i}": 0 for i in range(9)})
    with pytest.raises(PoolExhausted, match="only 0 of 3 groups were accepted of 15 drawn"):
        engine.step()
    assert not (tq.kv_list("train") or {}).get("train")


def test_a_reward_that_does_not_say_what_is_right_is_refused(queue):
    engine = Engine({"1": 1})
    engine.buffer.draw(["u"])
    answer("u", [{}] * K)
    with pytest.raises(ContraposeError, match="must return 'acc'"):
        engine.buffer.sample(1, "train", 1)
    tq.kv_clear(keys=["u", *(f"u_{i}_0" for i in range(K))], partition_id="train")


def test_validation_is_left_alone(queue):
    engine = Engine({"1": 1})
    for uid in ("a", "b"):
        answer(uid, [{}], partition="val")
    batch, metrics = engine.buffer.sample(1, "val", 2)
    assert sorted(batch.keys) == ["a_0_0", "b_0_0"] and not metrics
    tq.kv_clear(keys=batch.keys, partition_id="val")


@pytest.mark.parametrize(("minibatch", "ranks"), [(8, 2), (4, 2), (2, 8), (1, 4), (3, 8)])
def test_every_mini_batch_is_whole_over_the_ranks_and_level(minibatch, ranks):
    lots = random.Random(0)
    order = [group for group in range(24) for _ in range(8)]
    lots.shuffle(order)
    lengths = [lots.randint(10, 1000) for _ in order]
    groups = [[row for row, of in enumerate(order) if of == group] for group in range(24)]
    rows_of = trainers.whole_minibatches(groups, lengths, minibatch, ranks)
    share = minibatch * 8 // ranks
    assert sorted(row for rows in rows_of for row in rows) == list(range(len(order)))
    assert {len(rows) for rows in rows_of} == {len(order) // ranks}
    for start in range(0, len(order) // ranks, share):
        rows = {row for own in rows_of for row in own[start : start + share]}
        first = start * ranks // 8
        assert rows == {row for group in groups[first : first + minibatch] for row in group}
    if share > 4:
        spread = [sum(lengths[row] for row in rows) for rows in rows_of]
        assert max(spread) < 1.05 * min(spread)


def test_verls_own_balance_tears_groups_apart():
    """What ``_balance_batch`` is there for."""
    lots = random.Random(0)
    lengths = torch.tensor([lots.randint(10, 1000) for _ in range(64)])
    parts = balancing.get_seqlen_balanced_partitions(balancing.calculate_workload(lengths), 2, equal_size=True)
    assert {row // 8 for row in parts[0]} & {row // 8 for row in parts[1]}


def test_a_reward_is_that_of_the_verifier():
    said = [
        compute_score(data_source="d", solution_str=text, ground_truth="1/2", extra_info={}, scheme="format")
        for text in (r"so \boxed{0.5}", r"so \boxed{2}", "so 1/2")
    ]
    assert said == [
        {"score": 1.0, "acc": 1.0, "status": "correct"},
        {"score": 0.1, "acc": 0.0, "status": "wrong"},
        {"score": 0.0, "acc": 0.0, "status": "no_answer"},
    ]


def recipe(name, *overrides):
    with hydra.initialize_config_dir(str(RECIPES), version_base=None):
        return hydra.compose(name, [*overrides])


REFUSED = {
    "actor_rollout_ref.actor.shuffle=true": "actor.shuffle: must be false",
    "actor_rollout_ref.actor.entropy_coeff=0.1": "entropy_coeff: must be 0",
    "actor_rollout_ref.actor.use_kl_loss=true": "use_kl_loss: must be false",
    "algorithm.use_kl_in_reward=true": "use_kl_in_reward: must be false",
    "data.train_batch_size=33": "data.train_batch_size: must be a multiple",
    "reward.reward_model.enable=true": "reward_model.enable: must be false",
    "actor_rollout_ref.objective.name=renec": "did you mean 'rence'",
    "+actor_rollout_ref.objective.tau=1": "objective.tau: not a hyper-parameter",
}


@pytest.mark.parametrize("override", REFUSED)
def test_settings_that_would_be_ignored_are_refused(override):
    with pytest.raises(ContraposeError, match=REFUSED[override]):
        trainers.check(recipe("rence", override))


@pytest.mark.parametrize("name", ["rence", "conspo"])
def test_a_recipe_is_the_papers(name):
    """The same numbers as in the TOML recipes, which ``contrapose train`` reads."""
    import tomllib

    config = recipe(name)
    trainers.check(config)
    ours = tomllib.loads((RECIPES.parent / f"{name}.toml").read_text())
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert dict(config.actor_rollout_ref.objective) == ours["objective"]
    assert dict(config.trainer.v1.sampler.sampler_kwargs.filter).items() <= ours["filter"].items()
    assert config.data.train_batch_size == ours["batch"]["prompts"]
    assert config.data.train_batch_size // actor.ppo_mini_batch_size == ours["batch"]["updates"]
    assert config.data.max_prompt_length == ours["data"]["max_prompt_tokens"]
    assert (rollout.n, rollout.temperature) == (ours["rollout"]["k"], ours["rollout"]["temperature"])
    assert config.data.max_response_length == ours["rollout"]["max_tokens"]
    assert actor.optim.clip_grad == ours["optim"]["clip"]
    assert {key: actor.optim[key] for key in ("lr", "betas", "weight_decay")}.items() <= ours["optim"].items()
    assert config.reward.custom_reward_function.reward_kwargs.scheme == ours["reward"]["scheme"]
    assert (config.trainer.total_training_steps, config.trainer.test_freq) == (ours["steps"], ours["eval"]["every"])
    assert (rollout.val_kwargs.n, rollout.val_kwargs.temperature) == (
        ours["eval"]["samples"],
        ours["eval"]["temperature"],
    )


def test_the_whole_trainer_and_its_resumption(tmp_path):
    """Four steps of two mini-batches on two workers, interrupted after the second."""
    save_model(tmp_path / "model")
    env = os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    env["VERL_FILE_LOGGER_ROOT"] = str(tmp_path / "log")
    rows = []
    for steps in (2, 4):
        command = [sys.executable, str(HERE / "verl_fit.py"), str(tmp_path), str(steps)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        [log] = (tmp_path / "log").rglob("*.jsonl")
        rows += [json.loads(line) for line in log.read_text().splitlines()]
        log.unlink()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    seen = [row["data"] for row in rows]
    assert [row["actor/progress"] for row in seen] == [0.0, 0.25, 0.5, 0.75]
    grown = 1 + 0.2 * 8 / 25600  # at the first of two mini-batches theta is theta_old, and the KL says nothing
    for step, row in enumerate(seen):
        assert row["actor/kl_coef"] == pytest.approx(0.001 * grown**step, rel=1e-9)
        assert row["actor/kl"] > 0 > row["actor/J"]
        assert row["contrapose/train"] >= 4
    assert seen[2]["contrapose/prompts_mastered"] >= seen[1]["contrapose/prompts_mastered"] > 0
    before, after = (json.loads((tmp_path / f"pool.{steps}.json").read_text()) for steps in (2, 4))
    assert set(before["mastered"]) <= set(after["mastered"])
    assert (before["orders"][""]["epoch"], before["orders"][""]["turns"]) < (
        after["orders"][""]["epoch"],
        after["orders"][""]["turns"],
    )
