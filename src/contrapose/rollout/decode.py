"""The embedded engine: decodes on the policy's own parameters. One prefill a prompt, its cache cloned K times."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrapose.policy.model import context_length, eos_ids, load_model, load_tokenizer
from contrapose.rollout.sampler import Sampling, sample, seed_of
from contrapose.types import UNVERSIONED, ContraposeError, Prompt, Rollout, Sampled

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

RETIRE_BELOW = 0.75
"""The cache is compacted when the share of its rows still growing falls to this."""


class EmbeddedEngine:
    """A ``RolloutEngine`` in the trainer's own process.

    Side by side it decodes at most ``max_rows`` rollouts, and no more than a cache of ``cache_gib`` would hold if
    all of them ran to the limit; never less than one group. Raises ContraposeError for a model whose past it
    cannot clone and cut (state-space and linear-attention models).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos: tuple[int, ...],
        max_rows: int = 256,
        cache_gib: float = 8.0,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos = eos
        self.max_rows = max_rows
        self.version = UNVERSIONED
        self._cache_tokens = int(cache_gib * 2**30 / _cache_bytes_per_token(model))

    @classmethod
    def load(cls, path: str, dtype: str = "float32") -> EmbeddedEngine:
        """The engine over the model and tokenizer of a folder or hub name."""
        tokenizer, model = load_tokenizer(path), load_model(path, dtype)
        return cls(model, tokenizer, eos_ids(model, tokenizer))

    def room_after(self, prompts: Iterable[Prompt]) -> int | None:
        """How many tokens the model's context leaves after the longest prompt; None where it has no limit.

        Raises ContraposeError for a prompt with a token that the model has not.
        """
        prompts, limit, rows = list(prompts), context_length(self.model), self.model.config.get_text_config().vocab_size
        for prompt in prompts:
            if max(prompt.tokens) >= rows:
                token = self.tokenizer.convert_ids_to_tokens(max(prompt.tokens))
                raise ContraposeError(
                    f"model.path: the prompt of {prompt.id!r} holds the token {token!r}, and the model has none of its "
                    f"{rows} tokens for it: give the tokenizer that belongs to it"
                )
        return None if limit is None else limit - max(len(p.tokens) for p in prompts)

    def sync(self, model: PreTrainedModel, version: int = UNVERSIONED) -> None:
        """Take ``model``; it is decoded in place, so its weights are always the present ones."""
        self.model, self.version = model, version

    def side_by_side(self, prompts: Sequence[Prompt], k: int, sampling: Sampling) -> int:
        """How many of ``prompts`` are rolled out together."""
        longest = max((len(p.tokens) for p in prompts), default=0) + sampling.max_tokens
        return max(1, min(self.max_rows, self._cache_tokens // longest) // k)

    def generate(
        self, prompts: Sequence[Prompt], k: int, seed: int, sampling: Sampling, cancelled: Collection[str] = ()
    ) -> Iterator[list[Sampled]]:
        """See ``RolloutEngine.generate``. Rollout i of a prompt is drawn with the seed of ``(seed, prompt id, i)``."""
        wave = self.side_by_side(prompts, k, sampling)
        for start in range(0, len(prompts), wave):
            part = prompts[start : start + wave]
            seeds = [seed_of(seed, p.id, i) for p in part for i in range(k)]
            growing = [True] * len(part)
            dropped: set[int] = set()  # rows that decode is to hand over before its next step
            for ended in decode(self.model, [p.tokens for p in part], k, seeds, sampling, self.eos, dropped):
                cut_short = frozenset(dropped)
                dropped.clear()
                yield [
                    Sampled(part[row // k], row % k, self._rollout(tokens, logp, row in cut_short))
                    for row, tokens, logp in ended
                ]
                for number, prompt in enumerate(part):
                    if growing[number] and prompt.id in cancelled:
                        growing[number] = False
                        dropped.update(range(number * k, number * k + k))

    def _rollout(self, tokens: list[int], logp: list[float], cancelled: bool) -> Rollout:
        stopped = tokens[-1] in self.eos
        text = self.tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=True)
        return Rollout(
            tokens=tuple(tokens),
            mask=(1,) * len(tokens),
            logp=tuple(logp),
            text=text if isinstance(text, str) else "".join(text),
            finished="cancelled" if cancelled else "stop" if stopped else "length",
            version=self.version,
        )


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    k: int,
    seeds: Sequence[int],
    sampling: Sampling,
    eos: tuple[int, ...],
    dropped: Collection[int] = (),
) -> Iterator[list[tuple[int, list[int], list[float]]]]:
    """Yield ``(row, tokens, logp)`` of the rows that finish, step by step; rows ``p * k`` to ``p * k + k - 1`` answer
    prompt ``p``. Rows that stand in ``dropped`` after a yield are yielded as they are, and go no further."""
    device = model.device
    eos_E = torch.tensor(eos, device=device)
    rows = len(prompts) * k
    logits_NV, cache, attend_NS = _prefill(model, prompts, k)
    token_NT = torch.zeros(rows, sampling.max_tokens, dtype=torch.long, device=device)
    logp_NT = torch.zeros(rows, sampling.max_tokens, dtype=torch.float32, device=device)
    seed_N = torch.tensor(seeds, dtype=torch.long, device=device)
    row_N = torch.arange(rows, device=device)  # which row each line of the cache belongs to
    live_N = torch.ones(rows, dtype=torch.bool, device=device)
    for t in range(sampling.max_tokens):
        chosen_N, chosen_logp_N = sample(logits_NV, seed_N[row_N], t, sampling)
        token_NT[row_N, t], logp_NT[row_N, t] = chosen_N, chosen_logp_N.float()
        last = t + 1 == sampling.max_tokens
        ended_N = live_N & (torch.isin(chosen_N, eos_E) | last)
        while ended_N.any():
            yield [(r, token_NT[r, : t + 1].tolist(), logp_NT[r, : t + 1].tolist()) for r in row_N[ended_N].tolist()]
            live_N = live_N & ~ended_N
            ended_N = live_N & torch.isin(row_N, torch.tensor(sorted(dropped), device=device, dtype=row_N.dtype))
        growing = int(live_N.sum())
        if growing == 0:
            return
        if growing <= RETIRE_BELOW * len(live_N):
            kept = live_N.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            row_N, live_N, chosen_N, attend_NS = row_N[kept], live_N[kept], chosen_N[kept], attend_NS[kept]
        attend_NS = torch.cat([attend_NS, attend_NS.new_ones(len(attend_NS), 1)], dim=1)
        logits_NV = model(
            input_ids=chosen_N.unsqueeze(1),
            attention_mask=attend_NS,
            position_ids=attend_NS.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]


@torch.inference_mode()
def _cache_bytes_per_token(model: PreTrainedModel) -> float:
    """Measured on a prompt of two tokens, cloned to two rows; also shows whether the model's past can be cloned."""
    try:
        cache: Any = _prefill(model, [(0, 1)], 2)[1]
        cache.batch_select_indices(torch.tensor([0], device=model.device))
        past: list[Tensor] = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        return sum(t.numel() * t.element_size() for t in past) / 2
    except (AttributeError, TypeError, ValueError, NotImplementedError) as error:
        name = type(model).__name__
        raise ContraposeError(f"model.path: the embedded engine needs a key-value cache, {name} has none") from error


def _prefill(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]], k: int) -> tuple[Tensor, DynamicCache, Tensor]:
    """Logits after each prompt, its cache and its attention mask, each cloned to ``k`` rows (left-padded)."""
    from transformers import DynamicCache

    width = max(len(p) for p in prompts)
    ids_PS = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    attend_PS = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    cache = DynamicCache(config=model.config)
    logits_PV = model(
        input_ids=ids_PS,
        attention_mask=attend_PS,
        position_ids=(attend_PS.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    cache.batch_repeat_interleave(k)
    return logits_PV.repeat_interleave(k, 0), cache, attend_PS.repeat_interleave(k, 0)
