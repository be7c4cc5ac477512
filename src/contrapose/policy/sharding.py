"""A policy whose weights are split over processes (FSDP2): gathered layer by layer while they compute, then let go.

What is split computes what the whole did. Its gradients are sums over the ranks, of float32 numbers, as if one process
had met all rows: a rank's loss counts ``ranks`` times, because the library takes means.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrapose.policy.adapters import INSIDE, merged
from contrapose.policy.logprobs import LogProbs, layers_of
from contrapose.types import ContraposeError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel


def shard(logprobs: LogProbs, mesh: DeviceMesh, compute: torch.dtype | None = None, offload: bool = False) -> None:
    """Split the model of ``logprobs``, in place, over ``mesh``: of one dimension, or of copies by parts.

    ``compute`` is the type of gathered weights and activations (None: the model's own); what is split keeps its own,
    and gradients are added up in it. With ``offload`` it lies in the host's memory. Raises ContraposeError for a model
    without layers.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    model, layers = logprobs.model, layers_of(logprobs.model)
    if not layers:
        raise ContraposeError(f"parallel.shard: {type(model).__name__} has no layers to split: set it to 1")
    how: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=model.dtype),
        "offload_policy": CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy(),
    }
    for layer in layers:
        fully_shard(layer, **how)
    fully_shard(model, **how)
    logprobs.compute_within_layers()


def sampling_copy(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A whole copy of ``model`` that nobody trains, for an engine that reads weights where they lie.

    Only weights take ``dtype``: angles of rotary embeddings stay what they are.
    """
    weights = {id(w): torch.nn.Parameter(w.detach().to(dtype, copy=True), False) for w in model.parameters()}
    return deepcopy(model, weights)  # type: ignore[arg-type]


@torch.no_grad()
def copy_weights(model: PreTrainedModel, to: PreTrainedModel) -> None:
    """Give ``to`` the present weights of ``model``, wherever they are. All ranks do so together."""
    places = dict(to.named_parameters())
    for name, weight in whole_weights(model):
        if name in places:  # a tied head is there under its other name
            places[name].copy_(weight)


@torch.no_grad()
def whole_weights(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its name in the model as it was loaded: gathered where it is split, an adapter merged into it.

    All ranks ask for all of them, one after the other.
    """
    for name, weight in model.named_parameters():
        if (known := merged(model, name, whole(weight.detach()), whole)) is not None:
            yield name.replace(INSIDE, ""), known


def whole(x: Tensor) -> Tensor:
    """A tensor as it is where nothing is split; all ranks ask together."""
    full: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x  # a DTensor, whose class takes long to import
    return full
