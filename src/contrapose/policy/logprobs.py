"""Tokens -> log-probs of the chosen tokens, and the gradient of their sum weighed by a credit.

Logits are formed a chunk at a time and never kept: ``[tokens, vocabulary]`` would be the largest tensor of an update.
The credit is known before the gradient pass, so the head's gradient is taken chunk by chunk as logits are formed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from contrapose.policy.fused import once
from contrapose.policy.llama import Llama, is_llama
from contrapose.policy.softmax import Softmax, normal, softmax
from contrapose.policy.states import Row, put, states_of
from contrapose.types import ContraposeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LogProbs", "Row", "States"]

CHUNK_LOGITS, CHUNK_LOGITS_CUDA = 1 << 22, 1 << 29
"""Logits are formed this many at a time (16 MiB in float32, and 1 GiB in bfloat16)."""


class LogProbs:
    """Log-probs (nats) of response tokens under a causal language model, with logits divided by ``temperature``.

    Logits become float32 (or stay float64) before the log-softmax. With ``checkpointing`` the layers' activations are
    computed again on the way back instead of kept.
    """

    def __init__(self, model: PreTrainedModel, temperature: float = 1.0, *, checkpointing: bool = False) -> None:
        self.model, self.device = model, model.device  # split weights may lie elsewhere
        self.temperature = temperature
        self._llama = Llama(model, checkpointing) if is_llama(model, adapters=True) else None
        self._checkpointing = checkpointing
        self.split: Any = None  # the model, where its weights are split
        if checkpointing and self._llama is None and not layers_of(model):
            raise ContraposeError(
                f"model.gradient_checkpointing: {type(model).__name__} has no layers to recompute: turn it off"
            )
        self._plain_head = _head_is_plain(model)
        if not self._plain_head:
            logging.getLogger(__name__).warning(
                "%s changes its logits after the head: log-probs come from its full logits, which takes more memory",
                type(model).__name__,
            )

    def without_grad(self, rows: Sequence[Row], *, entropy: bool = False) -> tuple[Tensor, Tensor]:
        """``logp_NT``, zero beyond each response, and, if asked for, the policy's entropy (nats) there; else zeros."""
        with torch.no_grad():
            states = self.states(rows)
            logp_M, entropy_M = states.logp(entropy=entropy)
            if self.split:
                self.split.reshard()  # the head was kept for this; the next step's is another
            return states.dense(logp_M), states.dense(entropy_M)

    def compute_within_layers(self) -> None:
        """Let the hooks of a model that was split see every pass: of each layer, and of all that is around them."""
        from torch.distributed.fsdp import register_fsdp_forward_method

        self.split = model = cast(Any, self.model)
        model.compute = _ask
        register_fsdp_forward_method(model, "compute")
        if self._llama:
            for number, layer in enumerate(self._llama.layers):
                layer.module.compute = self._llama.compute[number]
                register_fsdp_forward_method(layer.module, "compute")
                self._llama.compute[number] = layer.module.compute

    def states(self, rows: Sequence[Row]) -> States:
        """The states that choose the response tokens of ``rows``, differentiable unless grad is off.

        Rows are padded on the right, where causal attention never looks. Raises ValueError for one without a prompt.
        """
        if not all(row.prompt for row in rows):
            raise ValueError("a row needs a prompt: its first response token is chosen by the state before it")
        device = self.device
        lengths = [len(row.response) for row in rows]
        row_M = put([row for row, length in enumerate(lengths) for _ in range(length)], device)
        t_M = put([t for length in lengths for t in range(length)], device)
        chosen_M = put([token for row in rows for token in row.response], device)
        head = self.model.get_output_embeddings() if self._plain_head else None
        state_ME: Tensor = (
            self.split.compute(partial(self._states, rows, row_M, t_M))
            if self.split
            else self._states(rows, row_M, t_M)
        )
        return States(state_ME, chosen_M, (row_M, t_M), (len(rows), max(lengths)), self.temperature, head)

    def _states(self, rows: Sequence[Row], row_M: Tensor, t_M: Tensor) -> Tensor:
        return states_of(self._llama, rows) if self._llama else self._foreign(rows, row_M, t_M)

    def _foreign(self, rows: Sequence[Row], row_M: Tensor, t_M: Tensor) -> Tensor:
        """Hidden states, or where the head is not plain logits, from the model's own forward pass."""
        width = max(row.length for row in rows)
        ids_NS = torch.tensor([[*r.prompt, *r.response, *[0] * (width - r.length)] for r in rows], device=row_M.device)
        before_N = torch.tensor([len(row.prompt) - 1 for row in rows], device=row_M.device)
        run = self.model.base_model if self._plain_head else self.model
        with _checkpointed(self.model) if self._checkpointing and torch.is_grad_enabled() else nullcontext():
            found = run(input_ids=ids_NS, use_cache=False)
        every_NSE: Tensor = found.last_hidden_state if self._plain_head else found.logits
        return every_NSE[row_M, before_N[row_M] + t_M]  # the token at position s is chosen by the state at s - 1


@dataclass(frozen=True)
class States:
    """What chooses M response tokens of N rows: hidden states under ``head``, or where that is None their logits."""

    state_ME: Tensor
    chosen_M: Tensor
    place: tuple[Tensor, Tensor]
    shape: tuple[int, int]
    temperature: float
    head: Any
    kept: list[Softmax] = field(default_factory=list, repr=False)
    """Of one piece that is all there is, from ``logp`` to ``loss``."""

    def logp(self, *, entropy: bool = False) -> tuple[Tensor, Tensor]:
        """``(logp_M, entropy_M)`` of the response tokens, without grad; entropies are zero where not asked for."""
        logp, entropies = [], []
        with torch.no_grad():
            for state_CE, chosen_C in self.chunks():
                found = softmax(self.logits(state_CE), chosen_C, self.temperature)
                if not entropy and self.state_ME.requires_grad and len(chosen_C) == len(self.chosen_M):
                    self.kept.append(found)
                logp.append(found.logp_C)
                entropies.append(found.entropy() if entropy else torch.zeros_like(found.logp_C))
        return torch.cat(logp), torch.cat(entropies)

    def loss(self, credit_NT: Tensor) -> Tensor:
        """``-(credit * logp).sum()``: its gradient is all that an update needs."""
        return self.loss_and_logp(credit_NT)[0]

    def loss_and_logp(self, credit_NT: Tensor) -> tuple[Tensor, Tensor]:
        """``loss``, and the ``logp_M`` that it met, without grad."""
        wide = torch.promote_types(self.state_ME.dtype, torch.float32)
        credit_M = credit_NT[self.place].to(wide)
        if self.head is None:
            normal_MV = normal(self.state_ME, self.temperature)
            logp_M = normal_MV.gather(1, self.chosen_M.unsqueeze(1)).squeeze(1)
            return -(credit_M * logp_M).sum(), logp_M.detach()
        return _Loss.apply(self.state_ME, self.head.weight, self.head.bias, credit_M, self)  # type: ignore[no-any-return]

    def dense(self, values_M: Tensor) -> Tensor:
        """Values of response tokens as ``[N, T]``, zero beyond each response."""
        return values_M.new_zeros(self.shape).index_put(self.place, values_M)

    def chunks(self, *more: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Pieces of the states, of the chosen tokens and of ``more`` values a token, together."""
        vocabulary = self.state_ME.shape[1] if self.head is None else len(self.head.weight)
        size = max(1, (CHUNK_LOGITS_CUDA if self.state_ME.is_cuda else CHUNK_LOGITS) // vocabulary)
        return zip(*(x.split(size) for x in (self.state_ME, self.chosen_M, *more)), strict=True)

    def logits(self, state_CE: Tensor) -> Tensor:
        """Logits of a piece of the states."""
        logits_CV: Tensor = state_CE if self.head is None else self.head(state_CE)
        return logits_CV


class _Loss(torch.autograd.Function):
    """``States.loss_and_logp``, which takes its gradient while it forms the logits."""

    @staticmethod
    def forward(
        ctx: Any, _state_ME: Tensor, weight_VE: Tensor, bias_V: Tensor | None, credit_M: Tensor, of: States
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(weight_VE.dtype, torch.float32)
        d_weight_VE = torch.zeros_like(weight_VE, dtype=wide) if ctx.needs_input_grad[1] else None
        d_bias_V = torch.zeros_like(bias_V, dtype=wide) if bias_V is not None and ctx.needs_input_grad[2] else None
        d_state, logp, loss = [], [], credit_M.new_zeros(())
        for state_CE, chosen_C, credit_C in of.chunks(credit_M):
            found = of.kept.pop() if of.kept else softmax(of.logits(state_CE), chosen_C, of.temperature)
            logp.append(found.logp_C)
            loss -= (credit_C * found.logp_C).sum()
            d_CV = found.slope(credit_C)
            d_state.append(d_CV @ weight_VE)
            if d_weight_VE is not None:
                d_weight_VE += d_CV.t() @ state_CE
            if d_bias_V is not None:
                d_bias_V += d_CV.sum(0)
        ctx.gradients = torch.cat(d_state), d_weight_VE, d_bias_V
        ctx.dtype, logp_M = weight_VE.dtype, torch.cat(logp)
        ctx.mark_non_differentiable(logp_M)
        return loss, logp_M

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradients, ctx.gradients = ctx.gradients, ()  # the largest would live on until the next micro-batch has its own
        return *(None if d is None else d.mul_(grad).to(ctx.dtype) for d in gradients), None, None


def _ask(work: Callable[[], Tensor]) -> Tensor:
    """So that hooks look for tensors among none of the arguments: rows are thousands of numbers."""
    return work()


@contextmanager
def _checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Within, the layers of a foreign model keep no activations. They are not told that they train: dropout stays off,
    and decoding keeps its cache."""
    before = [(layer, vars(layer).get("forward")) for layer in layers_of(model)]
    for layer, _ in before:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, own in before:
            del layer.forward
            if own is not None:
                layer.forward = own


def layers_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The blocks that a model's hidden states go through one after the other."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@torch.no_grad()
def _head_is_plain(model: PreTrainedModel) -> bool:
    """Whether the head is a linear map of the last hidden state to the model's logits: measured, not assumed.

    Soft-capped or scaled logits (Gemma, Cohere, Granite) would otherwise be silently wrong.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    ids_NS = torch.arange(4, device=model.device).unsqueeze(0)
    expected = model(input_ids=ids_NS, use_cache=False).logits
    found = head(model.base_model(input_ids=ids_NS, use_cache=False).last_hidden_state)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
