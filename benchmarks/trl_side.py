"""What benchmarks/speed.py times of TRL: its GRPOTrainer with transformers' ``generate``, at contrapose's settings.

The reward is a text comparison of the last box, so that judging costs this side nothing; layers are not recomputed in
the backward pass, which TRL does unless told otherwise and which is slower.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from contrapose.settings import Config
from contrapose.types import Prompt

BOX = re.compile(r"\\boxed\{([^}]*)\}")

transformers.utils.logging.set_verbosity_error()


def exact(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """1 for every completion whose last box holds the answer."""
    return [float(BOX.findall(text)[-1:] == [gold]) for text, gold in zip(completions, answer, strict=True)]


class Timed(GRPOTrainer):
    """A trainer that sums the seconds it spends on generation and on rewards, and the tokens it is to train on."""

    generating = judging = 0.0
    sampled = 0

    def _generate(self, prompts: list[Any]) -> Any:
        start = time.perf_counter()
        found = super()._generate(prompts)
        self.generating += time.perf_counter() - start
        self.sampled += sum(map(len, found[1]))
        return found

    def _calculate_rewards(self, *args: Any) -> Any:
        start = time.perf_counter()
        found = super()._calculate_rewards(*args)
        self.judging += time.perf_counter() - start
        return found

    def taken(self) -> dict[str, float]:
        """The sums since the last call."""
        sums = {"generate": self.generating, "judge": self.judging, "tokens": self.sampled}
        self.generating, self.judging, self.sampled = 0.0, 0.0, 0
        return sums


class Told(GRPOTrainer):
    """A trainer that is told what was sampled: ``told`` has the token ids of prompts and answers of each batch."""

    told: list[tuple[list[list[int]], list[list[int]]]]

    def _generate(self, prompts: list[Any]) -> Any:
        asked, answers = self.told.pop(0)
        return asked, answers, None, [""] * len(answers), None, {}, None, None


class EveryBatch(TrainerCallback):
    """Calls ``each`` with the number of every rollout batch that was trained on; True ends the training."""

    def __init__(self, updates: int, each: Callable[[int], bool]) -> None:
        self.updates, self.each = updates, each

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.updates == 0 and self.each(state.global_step // self.updates):
            control.should_training_stop = True


def arguments(config: Config, folder: str, batches: int, rows: int, **more: Any) -> GRPOConfig:
    """The settings of contrapose in TRL's words; ``rows`` go through the model at once."""
    rollouts, updates, optim = config.batch.prompts * config.rollout.k, config.batch.updates, config.optim
    same = {
        "num_generations": config.rollout.k,
        "max_completion_length": config.rollout.max_tokens,
        "temperature": config.rollout.temperature,
        "learning_rate": optim.lr,
        "adam_beta1": optim.betas[0],
        "adam_beta2": optim.betas[1],
        "adam_epsilon": optim.eps,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.clip,
        "seed": config.seed,
    }
    return GRPOConfig(
        folder,
        **same,
        per_device_train_batch_size=rows,
        steps_per_generation=rollouts // rows,
        gradient_accumulation_steps=rollouts // rows // updates,
        max_steps=batches * updates,
        num_iterations=1,
        loss_type="grpo",
        beta=0.0,
        lr_scheduler_type="constant",
        shuffle_dataset=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        **{"gradient_checkpointing": False, "use_cpu": True, "bf16": False, **more},
    )


def train_batches(
    config: Config,
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    batches: int,
    rows: int,
    each: Callable[[int, Any], bool] = lambda number, model: False,
    **more: Any,
) -> list[dict[str, float]]:
    """Seconds and trained tokens of each rollout batch. ``each`` sees the model after each, off the clock; True ends
    it."""
    data = Dataset.from_dict({"prompt": [p.problem for p in prompts], "answer": [p.answer for p in prompts]})
    found: list[dict[str, float]] = []
    start = 0.0

    def note(number: int) -> bool:
        nonlocal start
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        row = {"seconds": time.perf_counter() - start, **trainer.taken()}
        row["update"] = row["seconds"] - row["generate"] - row["judge"]
        found.append(row)
        done = each(number, trainer.model)
        start = time.perf_counter()
        return done

    with tempfile.TemporaryDirectory() as folder:
        args = arguments(config, folder, batches, rows, **more)
        rest = {
            "train_dataset": data,
            "processing_class": tokenizer,
            "callbacks": [EveryBatch(config.batch.updates, note)],
        }
        trainer = Timed(model, exact, args, **rest)
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
    return found


def told_batches(
    config: Config,
    model: Any,
    tokenizer: Any,
    told: Sequence[tuple[list[list[int]], list[list[int]]]],
    rows: int,
    mark: Callable[[], None],
    **more: Any,
) -> None:
    """The updates on given tokens, old log-probs and all; ``mark`` is called after those of each batch."""
    data = Dataset.from_dict({"prompt": ["1"] * (len(told) * config.batch.prompts)})

    def note(_: int) -> bool:
        mark()
        return False

    def every_other(completions: Sequence[str], **_: Any) -> list[float]:
        return [float(i % 2) for i in range(len(completions))]

    with tempfile.TemporaryDirectory() as folder:
        args = arguments(config, folder, len(told), rows, **more)
        rest = {"train_dataset": data, "processing_class": tokenizer}
        trainer = Told(model, every_other, args, callbacks=[EveryBatch(config.batch.updates, note)], **rest)
        trainer.told = list(told)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
