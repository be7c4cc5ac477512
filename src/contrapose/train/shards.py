"""What of a policy goes into a checkpoint, and comes back wherever its weights lie then, by torch's distributed
checkpoints in safetensors: each rank reads its parts of what others wrote.

    model/                       where weights are whole: a Hugging Face folder; where split: config and tokenizer
    model/shard-*.safetensors    and a file of each rank's parts; of an adapter alone, where one is trained
    optimizer.safetensors        moments by parameter name; where split: optimizer/shard-*.safetensors

Moments of 8 bits are written as the numbers that they stand for. Packed anew these may be others by a last bit, so the
run that goes on packs them anew as well: one that is taken up from here is the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from contrapose.policy.model import save_about, save_model
from contrapose.report.log import WriteFailed, room
from contrapose.rollout.ranks import Ranks
from contrapose.types import told

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_policy(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks,
    in_parts: bool,
) -> None:
    """Write what of the model is trained, and the optimizer, to ``folder``, which is there. ``in_parts`` every rank
    writes its own."""
    moments = moments_of(model, optimizer)
    if not in_parts:
        if ranks.leads:
            save_model(model, tokenizer, folder / "model")
            save_file({key: x.contiguous() for key, x in moments.items()}, folder / "optimizer.safetensors")
        _repack(optimizer)
        return
    if ranks.leads:
        save_about(model, tokenizer, folder / "model")
        (folder / "optimizer").mkdir()
    ranks.wait()
    _save_shards(folder / "model", trained(model))
    if moments:
        _save_shards(folder / "optimizer", moments)
    _repack(optimizer)


def load_optimizer(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved moments back; the rates and other settings stay those of ``optimizer``."""
    where = folder / "optimizer" if (folder / "optimizer").is_dir() else folder
    learning = list(trained(model).items())
    saved: dict[str, dict[str, Any]] = {}
    for key, about in _listed(where).items():
        name, _, kind = key.rpartition("/")
        saved.setdefault(name, {})[kind] = about
    state = {
        number: {kind: _room(parameter, about) for kind, about in saved[name].items()}
        for number, (name, parameter) in enumerate(learning)
        if name in saved
    }
    load_shards(where, {f"{learning[i][0]}/{kind}": x for i, of in state.items() for kind, x in of.items()})
    pack: Any = getattr(optimizer, "_new_buffer", None)  # torchao's, for moments of 8 bits
    for number, of in state.items() if pack else ():
        for kind in set(of) - {"step"}:
            of[kind] = pack(learning[number][1], kind == "exp_avg").copy_(of[kind])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """What of the model is trained, by its name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def holds_shards(folder: Path) -> bool:
    """Whether weights lie in ``folder`` as parts."""
    return any(folder.glob("shard-*.safetensors"))


def load_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill ``tensors``, or the parts of them that are here, in place, from the safetensors in ``folder``."""
    with _plainly(folder, "read"):
        named = {name: x.detach() for name, x in tensors.items()}
        _library().load(named, storage_reader=_library().HuggingFaceStorageReader(str(folder)))


@contextmanager
def _plainly(folder: Path, what: str) -> Iterator[None]:
    """In one process too, and with the first rank's failure in one line: the library's own is no ``Exception``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except _library().CheckpointException as error:
            cause = told(next(iter(error.failures.values()))[0]).partition("\n")[0]
            raise WriteFailed(f"{folder}: cannot be {what}: {cause} ({room(folder)})") from None


def _library() -> Any:
    import torch.distributed.checkpoint as library

    return library


def _save_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    writer = _library().HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _plainly(folder, "written"):
        _library().save(tensors, storage_writer=writer)


def _listed(folder: Path) -> dict[str, Any]:
    return dict(_library().HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def moments_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer keeps, by the parameter's name and its kind."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {f"{names[at]}/{kind}": _numbers(x) for at, of in optimizer.state.items() for kind, x in of.items()}


def _repack(optimizer: torch.optim.Optimizer) -> None:
    for x in (x for of in optimizer.state.values() for x in of.values() if _packed(x)):
        x.copy_(_numbers(x))


def _packed(x: Any) -> bool:
    return hasattr(x.to_local() if hasattr(x, "to_local") else x, "codes")


def _numbers(x: Any) -> Tensor:
    """What a moment stands for, split as it is."""
    if not _packed(x):
        plain: Tensor = x
        return plain
    if not hasattr(x, "to_local"):
        unpacked: Tensor = x.dequantize()
        return unpacked
    from torch.distributed.tensor import DTensor

    local = x.to_local().dequantize()
    return DTensor.from_local(local, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())


def _room(parameter: Tensor, about: Any) -> Tensor:
    """Room for a moment of ``parameter``, split as that is; counts have no dimension and lie in the host's memory."""
    dtype = about.properties.dtype
    return torch.zeros_like(parameter, dtype=dtype) if len(about.size) else torch.zeros((), dtype=dtype)
