"""verl's whole trainer on the host: its Ray workers, queue and checkpoints, under ``recipes/verl/rence.yaml``.

Only what needs an accelerator is replaced: no inference server is started, and a model in this process samples, with
the weights that the run began with.
"""

import json
import os
import sys
from pathlib import Path

os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_on_cpu,contrapose.integrations.verl.trainer"

import pyarrow
import pyarrow.parquet
import ray
import torch
import transfer_queue as tq
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.rollout.replica import RolloutReplicaRegistry

RECIPES = Path(__file__).parents[2] / "recipes" / "verl"
FLOATS = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
PROMPTS, K, T = 12, 4, 6


def configured(folder):
    data = folder / "data.parquet"
    rows = [
        {
            "data_source": "test",
            "prompt": [{"role": "user", "content": f"t{i + 2} t{i + 9}"}],
            "reward_model": {"ground_truth": str(i)},
            "extra_info": {"index": i},
        }
        for i in range(PROMPTS)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    overrides = {
        "data.train_files": data,
        "data.val_files": data,
        "data.train_batch_size": 4,
        "data.filter_overlong_prompts": False,
        "data.dataloader_num_workers": 0,
        "data.max_prompt_length": 8,
        "data.max_response_length": T,
        "actor_rollout_ref.objective.kl_target": 1e-6,
        "actor_rollout_ref.model.path": folder / "model",
        "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 64,
        "actor_rollout_ref.actor.optim.lr": 1e-2,
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision": FLOATS,
        "actor_rollout_ref.rollout.n": K,
        "actor_rollout_ref.rollout.nnodes": 1,
        "actor_rollout_ref.rollout.calculate_log_probs": False,
        "trainer.device": "cpu",
        "trainer.n_gpus_per_node": 2,
        "trainer.total_training_steps": 4,
        "trainer.logger": "[file]",
        "trainer.test_freq": -1,
        "trainer.save_freq": 1,
        "trainer.val_before_train": False,
        "trainer.default_local_dir": folder / "run",
        "reward.num_workers": 1,
        "transfer_queue.enable": True,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    }
    with initialize_config_dir(str(RECIPES), version_base=None):
        config = compose("rence", [f"{key}={value}" for key, value in overrides.items()])
    OmegaConf.resolve(config)
    return config


class Sampler:
    """Answers at once, in this process. An answer is right if it begins with an even token."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)

    def generate_sequences(self, batch):
        for i, uid in enumerate(batch["uid"]):
            words = list(batch["raw_prompt"])[i][0]["content"].split()
            self._answer(uid, torch.tensor([[int(word[1:]) for word in words]]), int(batch["global_steps"]))

    def _answer(self, uid, prompt, step):
        at = prompt.shape[1]
        found = self.model.generate(prompt, do_sample=True, max_new_tokens=T, num_return_sequences=K, pad_token_id=1)
        keys, fields, tags = [], [], []
        for index, row in enumerate(found):
            ended = (row[at:] == 1).nonzero()
            ids = row[: at + (int(ended[0]) + 1 if len(ended) else T)]
            length = len(ids) - at
            right = int(ids[at]) % 2 == 0
            mask = torch.ones(length, dtype=torch.long)
            score = torch.zeros(length)
            score[-1] = 1.0 if right else 0.1
            keys.append(f"{uid}_{index}_0")
            fields.append(
                {
                    "uid": uid,
                    "prompts": ids[:at],
                    "responses": ids[at:],
                    "response_mask": mask,
                    "loss_mask": mask,
                    "input_ids": ids,
                    "position_ids": torch.arange(len(ids)),
                    "rm_scores": score,
                    "num_turns": 2,
                    "extra_fields": {"reward_extra_info": {"acc": float(right)}},
                }
            )
            tags.append(
                {
                    "status": "success",
                    "prompt_len": at,
                    "response_len": length,
                    "seq_len": len(ids),
                    "global_steps": step,
                    "min_global_steps": step,
                    "max_global_steps": step,
                }
            )
        tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id="train")
        tq.kv_put(key=uid, partition_id="train", tag={"is_prompt": True, "status": "finished", "global_steps": step})


def fit(folder, steps):
    """Train to ``steps`` of 4 from whatever checkpoint there is; what was logged, and the pool."""
    config = configured(folder)
    RolloutReplicaRegistry.register("vllm", lambda: object)  # the name of a class of which none is made
    torch.manual_seed(0)
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config)
    trainer._enable_hybrid_replicas = False
    trainer.on_init_end = trainer.on_step_end = lambda: None  # no server to send weights to
    trainer.init()
    trainer.total_training_steps = steps
    trainer.fit(Sampler(folder))
    return trainer.replay_buffer.pool.state_dict()


if __name__ == "__main__":
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    env = {key: os.environ[key] for key in ("VERL_USE_EXTERNAL_MODULES", "PYTHONPATH")} | {"OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=16, num_gpus=2, include_dashboard=False, runtime_env={"env_vars": env})
    tq.init(configured(folder).transfer_queue)
    pool = fit(folder, steps)
    (folder / f"pool.{steps}.json").write_text(json.dumps(pool))
    tq.close()
    ray.shutdown()
