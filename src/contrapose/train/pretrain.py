"""Supervised warm start: teach a model to write given answers. It builds the abacus base model, or anyone's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.policy.model import save_model
from contrapose.prompts import abacus

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Example = tuple[list[int], list[int]]
"""Token ids of a prompt and of the answer to learn, EOS included."""


def pretrain(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    steps: int = 800,
    batch: int = 128,
    lr: float = 2e-3,
    warmup: int = 50,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Minimise the mean negative log-likelihood (nats a token) of the answers given their prompts, in place.

    AdamW; the rate warms up over ``warmup`` steps and then falls linearly to a tenth.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    order = random.Random(seed)
    for step in range(steps):
        decay = 1 - 0.9 * max(0, step - warmup) / max(1, steps - warmup)
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / warmup, decay)
        loss = _answer_loss(model, order.choices(examples, k=batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, loss.item())


def _answer_loss(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(prompt + answer) for prompt, answer in examples]
    labels = [torch.tensor([-100] * len(prompt) + answer) for prompt, answer in examples]
    ids_NT = pad_sequence(ids, batch_first=True).to(model.device)
    labels_NT = pad_sequence(labels, batch_first=True, padding_value=-100).to(model.device)
    logits_NTV = model(input_ids=ids_NT, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits_NTV[:, :-1].flatten(0, 1), labels_NT[:, 1:].flatten())


def build_abacus(
    folder: Path, *, seed: int = 0, steps: int = 800, progress: Callable[[int, float], None] = lambda step, loss: None
) -> None:
    """Train the abacus base model from nothing and write it to ``folder`` (0.36 M parameters, half precision)."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = abacus.tokenizer()
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=24,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    texts = abacus.corpus(seed, 64_000)
    examples = [(tokenizer.encode(q), [*tokenizer.encode(a), tokenizer.eos_token_id]) for q, a in texts]
    pretrain(model, examples, steps=steps, seed=seed, progress=progress)
    save_model(model.half(), tokenizer, folder)
