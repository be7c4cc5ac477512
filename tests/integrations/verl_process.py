"""What a process of verl's actor does with the cases of ``verl_case``: its gradients, metrics and errors, to a file."""

import os
import sys

os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_on_cpu"

import torch
import verl  # noqa: F401
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.single_controller.base.decorator import Dispatch, register
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import (
    FSDPEngineConfig,
    FSDPOptimizerConfig,
    HFModelConfig,
    TrainingWorkerConfig,
)
from verl.workers.utils.padding import left_right_2_no_padding
from verl_case import HYPERPARAMETERS, STEPS, K, with_old

from contrapose.integrations.verl.worker import AT_OLD, ContrastWorker, CreditWorker
from contrapose.types import ContraposeError

FLOATS = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def join(rank, world, port):
    """Say to verl which of the processes this is."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)


def new_worker(folder, packed):
    """With a rate of 0 every case finds the same policy. Gradients are not clipped."""
    model = HFModelConfig(
        path=str(folder),
        override_config={"attn_implementation": "sdpa"},
        use_remove_padding=packed,
        enable_gradient_checkpointing=False,
    )
    engine = FSDPEngineConfig(
        strategy="fsdp2",
        mixed_precision=FLOATS,
        use_torch_compile=False,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=4,
        infer_micro_batch_size_per_gpu=4,
    )
    optimizer = FSDPOptimizerConfig(lr=0.0, weight_decay=0.0, clip_grad=1e9, total_training_steps=STEPS)
    worker = CreditWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=model,
            engine_config=engine,
            optimizer_config=optimizer,
            checkpoint_config=CheckpointConfig(),
        )
    )
    worker.reset()
    return worker


def tensordict_of(rows, case, ranks):
    """A rank's rows as verl hands them to its actor."""
    n = len(rows["reward"])
    if case.jagged:
        real = rows["attention_mask"].bool()
        prompt, response = real.split([rows["prompts"].shape[1], rows["responses"].shape[1]], 1)
        kept = dict.fromkeys(("input_ids", "position_ids"), real) | {"prompts": prompt}
        kept |= dict.fromkeys(("responses", "response_mask", "old_log_probs"), response)
        cut = {key: [x[is_so] for x, is_so in zip(rows[key], keep, strict=True)] for key, keep in kept.items()}
        nested = {key: torch.nested.as_nested_tensor(parts, layout=torch.jagged) for key, parts in cut.items()}
        whole = {key: rows[key] for key in ("reward", "correct", "group")}
        data = TensorDict(nested | whole | {"loss_mask": nested["response_mask"]}, batch_size=n)
    else:
        data = left_right_2_no_padding(TensorDict(dict(rows), batch_size=n))
    size = case.size or n * ranks
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        global_batch_size=size,
        mini_batch_size=size,
        epochs=1,
        seed=1,
        dataloader_kwargs={"shuffle": False},
        pad_token_id=0,
        micro_batch_size_per_gpu=case.micro,
        use_dynamic_bsz=bool(case.tokens),
        max_token_len_per_gpu=case.tokens or None,
        **{AT_OLD: case.at_old},
    )
    return data


class Watched:
    """Notes the gradient of each optimizer step of an engine, and how many passes were made for credit alone."""

    def __init__(self, engine):
        self.gradients, self.passes = [], 0
        engine.optimizer.register_step_pre_hook(lambda *_: self.gradients.append(whole_gradient(engine.module)))
        infer = engine.infer_batch

        def counted(*args, **kwargs):
            self.passes += 1
            return infer(*args, **kwargs)

        engine.infer_batch = counted


def whole_gradient(module):
    whole = lambda x: (x.full_tensor() if hasattr(x, "full_tensor") else x).clone()  # noqa: E731
    return {name: whole(p.grad) for name, p in module.named_parameters()}


def take(update, watched, folder, case):
    """What came of one case on this rank."""
    _, rows = with_old(folder, case.away)
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    mine = torch.tensor(case.order).chunk(world)[rank]
    data = tensordict_of({key: x[mine] for key, x in (rows | case.more).items()}, case, world)
    watched.gradients, watched.passes = [], 0
    seen = {}
    try:
        seen["metrics"] = tu.get(update(data), "metrics")
    except ContraposeError as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    return seen | {"gradients": watched.gradients, "passes": watched.passes}


def training_worker(rank, world, port, folder, cases, out):
    """Every case on verl's training worker, and its schedule saved and read back."""
    join(rank, world, port)
    workers, found = {}, {}
    for packed in (False, True):
        worker = new_worker(folder, packed)
        workers[packed] = worker, Watched(worker.engine)
    for key, (name, case) in cases.items():
        worker, watched = workers[case.packed]
        worker.set_objective(name, K, HYPERPARAMETERS[name])
        found[key] = take(worker.train_mini_batch, watched, folder, case)
    found["schedule"] = saved_and_loaded(worker, folder.parent / f"saved{world}")
    torch.save(found, f"{out}.{rank}")
    torch.distributed.destroy_process_group()


def saved_and_loaded(worker, folder):
    """The schedule as it was, as it was read, and what is said of a checkpoint that is not ours."""
    worker.steps, worker.updates, worker.kl_coef = 3, 12, 0.0125
    before = worker.now
    worker.save_checkpoint(str(folder))
    worker.steps, worker.updates, worker.kl_coef = 0, 0, 1.0
    worker.load_checkpoint(str(folder))
    torch.distributed.barrier()
    (folder / "contrapose.json").unlink(missing_ok=True)
    try:
        worker.load_checkpoint(str(folder))
    except ContraposeError as error:
        return before, worker.now, worker.updates, str(error)


def configured(folder, name):
    """verl's own ``ppo_trainer.yaml``, and as little else as the host allows."""
    floats = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
    objective = {"name": name} | HYPERPARAMETERS[name]
    overrides = [
        "+actor_rollout_ref.objective={" + ",".join(f"{key}:{value}" for key, value in objective.items()) + "}",
        f"actor_rollout_ref.model.path={folder}",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "actor_rollout_ref.actor.strategy=fsdp2",
        f"actor_rollout_ref.actor.optim.total_training_steps={STEPS}",
        "actor_rollout_ref.actor.optim.lr=0.0",
        "actor_rollout_ref.actor.optim.clip_grad=1e9",  # actor.grad_clip is read by nobody
        "actor_rollout_ref.actor.use_dynamic_bsz=true",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile=false",
        f"+actor_rollout_ref.actor.fsdp_config.mixed_precision={floats}",
        f"actor_rollout_ref.rollout.n={K}",
        "actor_rollout_ref.rollout.name=vllm",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides).actor_rollout_ref
    OmegaConf.resolve(config)
    return config


class WatchedWorker(ContrastWorker):
    """Ours, and it tells what it saw."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self):
        super().init_model()
        self.watched = Watched(self.actor.engine)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def told(self):
        seen = {"gradients": self.watched.gradients, "passes": self.watched.passes}
        self.watched.gradients, self.watched.passes = [], 0
        return seen


def hybrid_worker(rank, world, port, folder, cases, out):
    """Every case on verl's hybrid worker."""
    join(rank, world, port)
    found = {}
    for name in dict.fromkeys(key[0] for key in cases):
        worker = WatchedWorker(configured(folder, name), role="actor")
        worker.init_model()
        for key, (_, case) in ((key, pair) for key, pair in cases.items() if key[0] == name):
            found[key] = take(worker.update_actor, worker.watched, folder, case)
    torch.save(found, f"{out}.{rank}")
    torch.distributed.destroy_process_group()


def ray_workers(folder, cases, out):
    """Every case, its rows handed out by Ray to two of verl's hybrid workers."""
    import ray
    from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup

    env = {"VERL_USE_EXTERNAL_MODULES": "verl_on_cpu", "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": env}, log_to_driver=False)
    found = {}
    for name in dict.fromkeys(key[0] for key in cases):
        made = RayClassWithInitArgs(ray.remote(WatchedWorker), config=configured(folder, name), role="actor")
        pool = RayResourcePool(process_on_nodes=[2], use_gpu=False, max_colocate_count=1)
        group = RayWorkerGroup(pool, made, device_name="cpu")
        group.init_model()
        for key, (_, case) in ((key, pair) for key, pair in cases.items() if key[0] == name):
            _, rows = with_old(folder, case.away)
            data = tensordict_of({key: x[torch.tensor(case.order)] for key, x in rows.items()}, case, 1)
            metrics = tu.get(group.update_actor(data), "metrics")
            found[key] = {"metrics": metrics} | group.told()[0]
    ray.shutdown()
    torch.save(found, f"{out}.0")
