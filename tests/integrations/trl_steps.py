"""TRL's trainer with our objectives, watched: at each optimizer step its gradient beside that of -J, taken at once.

The reference knows nothing of the trainer's own rows but their tokens: it groups them by prompt, takes rewards and
log-probs of its own through the model's plain forward pass, and goes backward once through all of the step's rollouts.
Run as a script it is one rank of several; each writes what it found as JSON.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig

from contrapose.integrations.trl import ContrastiveTrainer
from contrapose.objectives.trust import kl_seen
from contrapose.types import Batch
from models import tiny, tokenizer

K, VOCAB, EOS = 8, 24, 23


def right(ids):
    return sum(ids) % 3 == 0


def shaped(completion_ids, **_):
    return [1.0 if right(ids) else 0.1 * (ids[0] % 2) for ids in completion_ids]


def correct(completion_ids, **_):
    return [float(right(ids)) for ids in completion_ids]


def saved_model(folder, family="qwen3"):
    """A tiny model on disk: TRL loads its reference from where the policy came from."""
    tiny(family, vocab=VOCAB, eos_token_id=EOS).save_pretrained(folder)
    return str(folder)


def arguments(folder, **settings):
    quiet = {"report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    here = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    far = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    sizes = {"num_generations": K, "max_completion_length": 12, "max_steps": 4, "reward_weights": [1.0, 0.0]}
    return GRPOConfig(str(folder), **{**quiet, **here, **far, **sizes, **settings})


def prompts(count=64):
    """All different, and of different lengths."""
    return Dataset.from_dict({"prompt": [f"t{2 + i % 20} t{2 + i // 20}" + " t9" * (i % 4) for i in range(count)]})


def trainer_of(model, folder, objective, settings=None, kind=ContrastiveTrainer, **rest):
    made = kind(
        model,
        [shaped, correct],
        arguments(folder, **(settings or {})),
        **{"objective": objective, "correct": "correct", **rest},
        train_dataset=prompts(),
        processing_class=tokenizer(VOCAB, EOS),
    )
    for loud in (PrinterCallback, ProgressCallback):
        made.remove_callback(loud)
    return made


class Watched(ContrastiveTrainer):
    """``found``: of each optimizer step the relative error of its gradient, and the KL from pi_old."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.found, self.old, self.initial = [], {}, {}
        self.expected_now = self.objective.start()
        self.updates = self.args.steps_per_generation * self.num_iterations // self.args.gradient_accumulation_steps
        self.add_callback(AtEachStep(self))

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        rows = sorted(set(rows_of(batch)))
        with torch.no_grad():
            self.old = dict(zip(rows, self.plain_logp(rows), strict=True))
            if self.objective.reads_reference:
                self.initial |= zip(rows, self.reference_logp(rows), strict=True)
        return batch

    def reference_logp(self, rows):
        if self.ref_model is not None:
            return self.plain_logp(rows, self.ref_model)
        with self.model.disable_adapter():
            return self.plain_logp(rows)

    def plain_logp(self, rows, model=None):
        """Of the chosen tokens of each row."""
        tokens = [torch.tensor(asked + chosen) for asked, chosen in rows]
        ids = pad_sequence(tokens, batch_first=True)
        there = pad_sequence([torch.ones_like(x) for x in tokens], batch_first=True)
        logits = (model or self.model)(ids, attention_mask=there).logits[:, :-1].float() / self.temperature
        logp = logits.log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
        return [x[len(asked) - 1 :][: len(chosen)] for x, (asked, chosen) in zip(logp, rows, strict=True)]

    def window(self):
        """The rows of all ranks of the optimizer step that is about to be taken, with old and initial log-probs."""
        count = self.args.gradient_accumulation_steps
        start = (self._step - count) % self.args.steps_per_generation
        mine = [row for batch in self._buffered_inputs[start : start + count] for row in rows_of(batch)]
        rows = gather_object([(row, self.old[row], self.initial.get(row)) for row in mine])
        return sorted(rows, key=lambda found: found[0][0])  # by prompt

    def compare(self):
        rows = self.window()
        logp = self.plain_logp([row for row, _, _ in rows])
        chosen = [row[1] for row, _, _ in rows]
        batch = Batch(
            old_logp_QKT=dense([old for _, old, _ in rows]),
            mask_QKT=dense([torch.ones(len(x)) for x in logp]),
            reward_QK=torch.tensor(shaped(chosen)).view(-1, K),
            correct_QK=torch.tensor(correct(chosen)).view(-1, K).bool(),
            present_QK=torch.ones(len(rows) // K, K, dtype=torch.bool),
            reference_logp_QKT=dense([x for _, _, x in rows]) if self.objective.reads_reference else None,
        )
        now = replace(self.expected_now, progress=self.state.global_step / self.state.max_steps)
        plan, logp_QKT = self.objective.plan(batch), dense(logp)
        J = self.objective(plan.masked(logp_QKT), plan, now)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(-J, weights)])
        found = torch.cat([p.grad.flatten() for p in weights])
        kl = kl_seen(logp_QKT.detach(), plan)
        if self.objective.trust and len(self.found) % self.updates:
            self.expected_now = self.objective.trust.adapt(now, kl, len(rows))
        assert found.norm() > 0
        error = float((found - expected).norm() / expected.norm())
        self.found.append({"error": error, "kl": kl["token_mean"], "J": J.item(), "kl_coef": now.kl_coef})


class AtEachStep(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, *_, **__):
        self.trainer.compare()


def dense(rows):
    return pad_sequence(rows, batch_first=True).unflatten(0, (-1, K))


def rows_of(batch):
    """``(prompt, completion)`` as tuples of token ids."""

    def ids(x, mask):
        return [tuple(row[kept.bool()].tolist()) for row, kept in zip(x, mask, strict=True)]

    asked = ids(batch["prompt_ids"], batch["prompt_mask"])
    return list(zip(asked, ids(batch["completion_ids"], batch["completion_mask"]), strict=True))


if __name__ == "__main__":
    out, model, objective, told = sys.argv[1:]
    settings, hyperparameters = json.loads(told)
    trainer = trainer_of(model, Path(out) / "run", objective, settings, kind=Watched, **hyperparameters)
    trainer.train()
    (Path(out) / f"{trainer.accelerator.process_index}.json").write_text(json.dumps(trainer.found))
