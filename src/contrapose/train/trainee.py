"""The policy that is trained, however its weights lie: whole in one process, whole in each, or split over all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contrapose.evaluate.exam import weights_digest
from contrapose.objectives.objective import Objective
from contrapose.policy.adapters import adapt, save_adapter
from contrapose.policy.logprobs import LogProbs
from contrapose.policy.model import blank_model, eos_ids, load_model, save_model, torch_dtype
from contrapose.policy.sharding import copy_weights, sampling_copy, shard, whole, whole_weights
from contrapose.prompts.abacus import model_folder
from contrapose.rollout.ranks import Ranks
from contrapose.rollout.sampler import seed_of
from contrapose.settings import Config
from contrapose.train.parts import make_optimizer, make_reference
from contrapose.train.passes import Passes
from contrapose.train.shards import holds_shards, load_shards, trained
from contrapose.types import ContraposeError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Trainee:
    """Model, optimizer, and the frozen ``reference`` where the objective has one.

    ``folder`` is where the model is: one, or that of a checkpoint. All ranks do everything together.
    """

    def __init__(
        self,
        config: Config,
        folder: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        objective: Objective,
        ranks: Ranks,
    ) -> None:
        self.config, self.tokenizer, self.ranks = config, tokenizer, ranks
        lora = config.lora
        self.split = config.splits(ranks.world)
        self.in_parts = self.split or lora.rank > 0
        if self.split and lora.rank and config.model.dtype == "bfloat16":
            mend = 'set model.dtype = "float32" and model.compute = "bfloat16"'
            raise ContraposeError(f"lora.rank: an adapter in float32 cannot be split beside bfloat16 weights: {mend}")
        saved = Path(folder) if holds_shards(Path(folder)) else None
        base = model_folder(config.model.path) if lora.rank else folder
        self.model = (blank_model if saved and not lora.rank else load_model)(base, config.model.dtype)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.eos = eos_ids(self.model, tokenizer)
        reference = make_reference(config, objective, self.model)
        self._reference_digest = weights_digest(reference) if reference else None
        self._copy: PreTrainedModel | None = None
        if self.in_parts:
            self._copy = sampling_copy(self.model, self.computes)
        seed = seed_of(config.seed, "adapter")
        self.adapter = adapt(self.model, lora.rank, lora.alpha, lora.targets, str(base), seed) if lora.rank else None
        self.passes = self._passes(self.model)
        self.reference = self._passes(reference) if reference else None
        ranks.wait()  # for who loads longest, here and not in what follows
        if self.split:
            mesh = ranks.mesh(config.shard(ranks.world))
            for passes in filter(None, (self.passes, self.reference)):
                shard(passes.logprobs, mesh, self.computes if self._mixed else None, config.parallel.offload)
        if saved:
            load_shards(saved, trained(self.model))
        self.optimizer = make_optimizer(config, self.model)

    def facts(self) -> dict[str, str]:
        """What of it a result depends on beside its settings."""
        return {"reference": self._reference_digest} if self._reference_digest else {}

    def place(self) -> str:
        """In which type and where it computes, for a person."""
        dtype, device = self.config.model.dtype, self.passes.logprobs.device
        computes = f" (computing in {self.config.model.compute})" if self._mixed else ""
        world, shard = self.ranks.world, self.config.shard(self.ranks.world)
        parts = f", split over {shard} of {world} processes" if self.split else f", whole in each of {world} processes"
        offloaded = ", offloaded" if self.config.parallel.offload else ""
        learning = sum(x.numel() for x in trained(self.model).values())
        adapter = f", {learning:,} of an adapter are trained" if self.adapter else ""
        return f"{dtype}{computes} on {device}{parts if world > 1 else ''}{offloaded}{adapter}"

    @property
    def computes(self) -> torch.dtype:
        """The type of its activations."""
        return torch_dtype(self.config.model.computes)

    @property
    def _mixed(self) -> bool:
        """Whether it computes in another type than its weights have."""
        return self.computes != torch_dtype(self.config.model.dtype)

    def _passes(self, model: PreTrainedModel) -> Passes:
        recompute = self.config.model.gradient_checkpointing
        logprobs = LogProbs(model, self.config.rollout.temperature, checkpointing=recompute)
        return Passes(logprobs, self.config.batch.max_tokens, self.ranks)

    @property
    def sampled(self) -> PreTrainedModel:
        """The model as an engine reads it, all of it in this process, with the weights of the last ``whole``."""
        return self._copy or self.model

    def whole(self) -> PreTrainedModel:
        """``sampled`` with the present weights."""
        if self._copy is not None:
            copy_weights(self.model, self._copy)
        return self.sampled

    def save(self, folder: Path | None) -> None:
        """Write a model folder that anyone loads; a rank that does not lead only helps to gather it."""
        weights = None
        if self.in_parts:  # one after the other: who does not write has room for no more
            weights = {name: x.cpu() for name, x in whole_weights(self.model) if self.ranks.leads}
        if folder and self.ranks.leads:
            save_model(self.model, self.tokenizer, folder, weights)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter alone."""
        weights = {name: whole(x).cpu() for name, x in trained(self.model).items()}
        if self.adapter and self.ranks.leads:
            save_adapter(weights, self.adapter, folder)
