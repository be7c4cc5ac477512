"""What the softmax over the vocabulary says of chosen tokens, and how it changes with the logits.

In torch, or on a GPU by kernels that pass over the logits once for each. C tokens of a chunk.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from contrapose.policy.fused import runs_kernels


class Softmax(Protocol):
    """Of ``softmax(logits / temperature)``: ``logp_C`` of the chosen tokens, and one of the two others, once."""

    logp_C: Tensor

    def entropy(self) -> Tensor:
        """Nats, ``[C]``."""
        ...

    def slope(self, credit_C: Tensor) -> Tensor:
        """``d -(credit * logp).sum() / d logits``: ``credit * (softmax - one at the chosen token) / temperature`` with
        its sign, ``[C, V]`` in the type of the logits."""
        ...


class _InTorch:
    def __init__(self, logits_CV: Tensor, chosen_C: Tensor, temperature: float) -> None:
        self._chosen_C1, self._temperature, self._dtype = chosen_C.unsqueeze(1), temperature, logits_CV.dtype
        self._normal_CV = normal(logits_CV, temperature)
        self.logp_C = self._normal_CV.gather(1, self._chosen_C1).squeeze(1)

    def entropy(self) -> Tensor:
        entropy_C: Tensor = torch.special.entr(self._normal_CV.exp_()).sum(-1)
        return entropy_C

    def slope(self, credit_C: Tensor) -> Tensor:
        slope_C1 = (credit_C / self._temperature).unsqueeze(1)
        d_CV = self._normal_CV.exp_().mul_(slope_C1).scatter_add_(1, self._chosen_C1, -slope_C1)
        return d_CV.to(self._dtype)


class _InKernels:
    def __init__(self, logits_CV: Tensor, chosen_C: Tensor, temperature: float) -> None:
        from contrapose.policy.kernels import weigh

        self._logits_CV, self._chosen_C, self._temperature = logits_CV, chosen_C, temperature
        self._sum_C, self.logp_C, self._entropy_C = weigh(logits_CV, chosen_C, temperature)

    def entropy(self) -> Tensor:
        return self._entropy_C

    def slope(self, credit_C: Tensor) -> Tensor:
        from contrapose.policy.kernels import slope_

        return slope_(self._logits_CV, self._chosen_C, self._sum_C, credit_C, self._temperature)


def softmax(logits_CV: Tensor, chosen_C: Tensor, temperature: float) -> Softmax:
    """Without grad; the logits are the function's to overwrite."""
    return (_InKernels if runs_kernels(logits_CV) else _InTorch)(logits_CV, chosen_C, temperature)


def normal(logits_CV: Tensor, temperature: float) -> Tensor:
    """Log-probs of the whole vocabulary, in at least float32."""
    logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
    if temperature != 1:
        logits_CV = logits_CV / temperature
    return logits_CV.log_softmax(-1)
