"""What ContrastiveTrainer learns beside contrapose: abacus from the base model, 20 steps of 4 updates, same settings.

    python benchmarks/trl_trainer.py FOLDER              # conspo and rence, 3 seeds, about 2 minutes each on one thread
    python benchmarks/trl_trainer.py FOLDER conspo grpo  # others

TRL trains on every group that it samples, so contrapose does here too (``filter.mode = "none"``). Both sides draw their
own prompts and rollouts; both are asked the 800 test problems, twice each, by contrapose. Runs that are already in
FOLDER are not repeated.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SEEDS = (0, 1, 2)
REWARD = {"rence": "format"}
"""Whose recipe has another reward than 1 for what is right and 0 for what is not."""


def ours(run: Path, name: str, seed: int) -> None:
    """A run of contrapose; its weights are in ``run / "model"``."""
    settings = {"objective.name": name, "reward.scheme": REWARD.get(name, "binary"), "filter.mode": "none"}
    sets = [word for key, value in {**settings, "eval.data": ""}.items() for word in ("--set", f"{key}={value}")]
    command(["train", *sets, "--seed", str(seed), "--out", str(run)])


def theirs(run: Path, name: str, seed: int) -> None:
    """The same with TRL."""
    from datasets import Dataset
    from trl import GRPOConfig

    from contrapose.integrations.trl import ContrastiveTrainer, verified
    from contrapose.prompts.abacus import BASE_MODEL, problems

    sums = problems("train", 8192)
    trainer = ContrastiveTrainer(
        objective=name,
        model=str(BASE_MODEL),
        reward_funcs=verified(REWARD.get(name, "binary")),
        args=GRPOConfig(
            str(run),
            seed=seed,
            num_generations=8,
            max_completion_length=64,
            per_device_train_batch_size=64,
            gradient_accumulation_steps=1,
            steps_per_generation=4,
            max_steps=80,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": [p.problem for p in sums], "answer": [p.answer for p in sums]}),
    )
    trainer.train()
    trainer.save_model(str(run / "model"))


def command(words: list[str]) -> None:
    """``contrapose ...`` in a process of its own, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "contrapose", *words], env=environment, check=True, stdout=subprocess.DEVNULL)


def accuracy(run: Path, seed: int) -> float:
    """Of what lies in ``run / "model"``."""
    out = run / "test"
    if not (out / "eval.json").exists():
        asked = [
            "--data",
            "abacus",
            "--samples",
            "2",
            "--temperature",
            "1",
            "--max-tokens",
            "64",
            "--template",
            "plain",
        ]
        command(["eval", str(run / "model"), *asked, "--seed", str(seed), "--out", str(out)])
    return float(json.loads((out / "eval.json").read_text())[-1]["accuracy"]["value"])


if __name__ == "__main__":
    folder, names = Path(sys.argv[1]), sys.argv[2:] or ["conspo", "rence"]
    for name in names:
        for side in (ours, theirs):
            found = []
            for seed in SEEDS:
                run, start = folder / f"{name}-{side.__name__}-{seed}", time.perf_counter()
                if not (run / "model").is_dir():
                    side(run, name, seed)
                print(f"{name} {side.__name__} {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
                found.append(accuracy(run, seed))
            print(f"{name:<8} {side.__name__:<8}", ", ".join(f"{a:.3f}" for a in found), flush=True)
