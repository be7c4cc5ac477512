"""Decoding of Llama-family models on a CUDA device: a step is two graphs, captured once and launched whole.

    choose   logits -> token, log-prob; which rows go on
    step     the chosen tokens through all layers -> logits

The device knows by itself which rows ended, so that the next choice is under way before the host has looked at the
last. Graphs hold addresses: of the parameters, which are read as they are at each launch, and of what the rows are
about, which stays where it is. Weights that a layer multiplies one input by are copied into one matrix at each opening,
for one product instead of two or three; where that takes much memory only queries, keys and values are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from contrapose.policy.llama import Linear, Llama
from contrapose.policy.states import put
from contrapose.rollout.cached import Tokens, bytes_per_token, parts_of, read
from contrapose.rollout.past import cloned, moves
from contrapose.rollout.sampler import Sampling, sample
from contrapose.rollout.stepping import Chosen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT_SHARE = 1 / 8
"""A past of at most this share of the device's memory is kept from one generation to the next, with its graphs; copies
of gates and of what they open for are made where they take no more."""

COLUMNS = 128
"""The past has a multiple of so many columns: kernels read whole blocks of them."""


class FlatPast:
    """A ``Past`` in one piece, ``[layers, 2, R, G, S, D]``, which a kernel of our own attends to."""

    def __init__(self, llama: Llama, rows: int, columns: int) -> None:
        self.rows, self.columns, self.llama = rows, -(-columns // COLUMNS) * COLUMNS, llama
        shape = len(llama.layers), 2, rows, llama.groups, self.columns, llama.head_size
        self.layers = llama.embedding.new_empty(shape)
        self.source_N = torch.arange(rows, device=llama.device)
        self.asked_N = torch.zeros_like(self.source_N)

    def forget(self) -> None:
        """See ``Past.forget``. What is not seen is not read."""

    def write(self, layer: int, rows_N: Tensor, k_PSGD: Tensor, v_PSGD: Tensor) -> None:
        """See ``Past.write``."""
        for past, x_PSGD in zip(self.layers[layer], (k_PSGD, v_PSGD), strict=True):
            past[rows_N, :, : x_PSGD.shape[1]] = cloned(x_PSGD.transpose(1, 2), rows_N)

    def look_back(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, length_N: Tensor, seen: int) -> Tensor:
        """See ``Past.look_back``."""
        from contrapose.rollout.kernels import look_back

        keys, values = self.layers[layer]
        of = self.llama.layers[layer]
        qkv = q_NHD, k_NGD, v_NGD
        asked, (q_D, k_D) = (self.source_N, self.asked_N), of.head_norms
        norms = None if q_D is None or k_D is None else (q_D, k_D)
        return look_back(qkv, (keys, values), length_N, asked, self.llama.rope, norms, of.eps, of.window)

    def share(self, rows_N: Tensor, k: int, length_N: Tensor) -> None:
        """Let each ``k`` of ``rows`` read their prompt, of ``length`` tokens, where the first of them has it."""
        self._apart(rows_N)
        self.source_N[rows_N], self.asked_N[rows_N] = rows_N[::k].repeat_interleave(k), length_N

    def keep(self, rows: Sequence[int], seen: int) -> None:
        """See ``Past.keep``. What stands where a row was stays, and who reads it may go on."""
        if moved := moves(rows):
            from_N, to_N = (put(side, self.llama.device) for side in moved)
            self._apart(to_N)
            for x in (self.source_N, self.asked_N):
                x[to_N] = x[from_N]
            self.layers[:, :, to_N, :, :seen] = self.layers[:, :, from_N, :, :seen]

    def _apart(self, rows_N: Tensor) -> None:
        """These rows are written over: who read them reads its own."""
        written_N = torch.zeros_like(self.source_N, dtype=torch.bool).index_fill_(0, rows_N, True)
        own_N = torch.arange(self.rows, device=rows_N.device)
        self.source_N.copy_(torch.where(written_N[self.source_N], own_N, self.source_N))


class _Rows:
    """What the rows are about, on the device, at addresses that stay."""

    def __init__(self, rows: int, vocabulary: int, like: Tensor) -> None:
        self.seed_N, self.position_N, self.length_N, self.live_N, self.token_N = like.new_zeros(
            5, rows, dtype=torch.long
        )
        self.logp_N = like.new_zeros(rows, dtype=torch.float32)
        self.logits_NV = like.new_zeros(rows, vocabulary)
        self.told = [  # the host's: written to while the device goes on
            (torch.zeros(rows, dtype=torch.long, pin_memory=True), torch.zeros(rows, pin_memory=True)) for _ in range(2)
        ]

    def clear(self) -> None:
        for x in (self.position_N, self.length_N, self.live_N, self.token_N, self.logits_NV):
            x.zero_()

    def keep(self, at_N: Tensor) -> None:
        for x in (self.seed_N, self.position_N, self.length_N, self.live_N, self.token_N):
            x[: len(at_N)] = x[at_N]


class CapturedDecoder:
    """``Steps`` for models of which ``policy.llama.is_llama`` and ``fused.runs_kernels`` hold."""

    joins, late = True, 1

    def __init__(self, model: PreTrainedModel) -> None:
        self.llama = Llama(model)
        self.head: Any = model.get_output_embeddings()
        self.device = model.device
        self._parameters = list(model.parameters())
        self._most = KEPT_SHARE * torch.cuda.get_device_properties(self.device).total_memory
        layers = self.llama.layers
        together = sum(part[0].nbytes for layer in layers for part in (layer.gate, layer.up)) <= self._most
        self._qkv = [_Joint(layer.q, layer.k, layer.v) for layer in layers]
        self._wide = [[_Joint(layer.gate, layer.up)] if together else [] for layer in layers]
        self._past: FlatPast | None = None
        self._limit = torch.zeros((), dtype=torch.long, device=self.device)
        self._graphs: dict[tuple[str, int], torch.cuda.CUDAGraph] = {}
        self._made_for: tuple[object, ...] = ()

    def bytes_per_token(self) -> float:
        """See ``Decoder.bytes_per_token``."""
        return bytes_per_token(self.llama)

    def open(self, rows: int, columns: int, sampling: Sampling, eos: tuple[int, ...]) -> None:
        """See ``Steps.open``."""
        self.llama.reach(columns)
        if self._past is None or self._past.rows < rows or self._past.columns < columns:
            self._past, self._made_for = None, ()  # before there is another
            self._past = FlatPast(self.llama, rows, columns)
            self._rows = _Rows(rows, len(self.head.weight), self.llama.embedding)
        self._opened = self._count = rows
        self._seen = self._turn = 0
        self._rows.clear()
        for joint in (*self._qkv, *(joint for each in self._wide for joint in each)):
            joint.copy()
        self._limit.fill_(sampling.max_tokens)
        addresses = [x.data_ptr() for x in (*self._parameters, *self.llama.rope)]
        made_for = addresses, sampling.temperature, sampling.top_p, eos
        if self._made_for != made_for:
            self._graphs.clear()
            self._pool = torch.cuda.graph_pool_handle()
            self._sampling, self._eos_E = sampling, torch.tensor(eos, device=self.device)
            self._choose(rows)  # kernels are compiled when they first run, which may not be in a capture
            self._step(rows)
            self._rows.clear()
            self._made_for = made_for

    def admit(self, prompts: Sequence[Tokens], k: int, rows: Sequence[int], seeds: Sequence[int]) -> None:
        """See ``Steps.admit``."""
        about, past = self._rows, self._past
        assert past, "open comes first"
        self._seen = max(self._seen, *map(len, prompts))
        for start, stop in parts_of(prompts):
            asked, at_N = prompts[start:stop], self._there(rows[start * k : stop * k])
            last_PE = read(self.llama, past, asked, at_N)
            about.logits_NV[at_N] = F.linear(last_PE, self.head.weight, self.head.bias).repeat_interleave(k, 0)
            about.length_N[at_N] = length_N = self._there([len(p) for p in asked for _ in range(k)])
            past.share(at_N, k, length_N)
            about.seed_N[at_N] = self._there(seeds[start * k : stop * k])
            about.position_N[at_N], about.live_N[at_N] = 0, 1

    def choose(self, seed_N: Tensor, position_N: Tensor) -> Chosen:
        """See ``Steps.choose``."""
        if self._sampling.top_p == 1:
            self._launch("choose", self._choose)
        else:  # what sorting takes would stay the graph's
            self._choose(self._count)
        self._turn = 1 - self._turn
        count, done, (token_N, logp_N) = self._count, torch.cuda.Event(), self._rows.told[self._turn]
        token_N[:count].copy_(self._rows.token_N[:count], non_blocking=True)
        logp_N[:count].copy_(self._rows.logp_N[:count], non_blocking=True)
        done.record()

        def chosen() -> tuple[Tensor, Tensor]:
            done.synchronize()
            return token_N[:count], logp_N[:count]

        return chosen

    def step(self) -> None:
        """See ``Steps.step``."""
        self._seen += 1
        self._launch("step", self._step)

    def room(self, live: int) -> int:
        """See ``Steps.room``: what was opened, halved or three quarters of that, so that few graphs are captured."""
        sizes = [-(-self._opened * part // 4 >> halvings) for halvings in range(16) for part in (4, 3)]
        return min(size for size in (*sizes, self._count) if size >= live)

    def free(self, rows: Sequence[int]) -> None:
        """See ``Steps.free``. Of rows that ended by themselves this is known there."""
        freed_N = self._there(rows)
        self._rows.live_N[freed_N], self._rows.length_N[freed_N] = 0, 0

    def keep(self, rows: Sequence[int]) -> None:
        """See ``Steps.keep``."""
        assert self._past, "open comes first"
        self._rows.keep(self._there(rows))
        self._count = len(rows)
        self._past.keep(rows, self._seen)

    def close(self) -> None:
        """See ``Steps.close``."""
        if self._past and self._past.layers.nbytes > self._most:
            self._past, self._made_for = None, ()
            self._graphs.clear()

    def _choose(self, count: int) -> None:
        from contrapose.rollout.kernels import draw

        about, sampling = self._rows, self._sampling
        logits_NV, seed_N, position_N = about.logits_NV[:count], about.seed_N[:count], about.position_N[:count]
        if sampling.top_p == 1:
            token_N, logp_N = draw(logits_NV, seed_N, position_N, sampling.temperature)
        else:
            token_N, logp_N = sample(logits_NV, seed_N, position_N, sampling)
        about.token_N[:count], about.logp_N[:count] = token_N, logp_N
        live_N = about.live_N[:count]
        position_N += live_N
        live_N *= (position_N < self._limit) & (token_N.unsqueeze(1) != self._eos_E).all(1)
        about.length_N[:count] *= live_N  # a row that nobody asks for goes on without a past

    def _step(self, count: int) -> None:
        from contrapose.rollout.kernels import gated, normed

        assert self._past, "open comes first"
        length_N, llama = self._rows.length_N[:count], self.llama
        h_NE = F.embedding(self._rows.token_N[:count], llama.embedding)
        for number, layer in enumerate(llama.layers):
            parts = self._qkv[number](normed(h_NE, layer.norms[0], layer.eps))
            q_NHD, k_NGD, v_NGD = (x.unflatten(1, (-1, llama.head_size)) for x in parts)
            _add(h_NE, self._past.look_back(number, q_NHD, k_NGD, v_NGD, length_N, self._seen), layer.o)
            x_NE = normed(h_NE, layer.norms[1], layer.eps)
            wide = [joint(x_NE) for joint in self._wide[number]]
            gate_NI, up_NI = wide[0] if wide else (F.linear(x_NE, *layer.gate), F.linear(x_NE, *layer.up))
            _add(h_NE, layer.act(gate_NI) * up_NI if layer.act else gated(gate_NI, up_NI), layer.down)
        length_N += self._rows.live_N[:count]
        hidden_NE, logits_NV = normed(h_NE, llama.norm, llama.layers[0].eps), self._rows.logits_NV[:count]
        if self.head.bias is None:
            torch.mm(hidden_NE, self.head.weight.t(), out=logits_NV)
        else:
            torch.addmm(self.head.bias, hidden_NE, self.head.weight.t(), out=logits_NV)

    def _launch(self, name: str, work: Callable[[int], None]) -> None:
        """What ``work`` asks of the device for the present number of rows."""
        key = name, self._count
        if key not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work(self._count)
            self._graphs[key] = graph
        self._graphs[key].replay()

    def _there(self, values: Sequence[int]) -> Tensor:
        """Whole numbers on the device, which nobody waits for."""
        return put(values, self.device)


class _Joint:
    """Linear maps of one input as one."""

    def __init__(self, *parts: Linear) -> None:
        self._parts = [[x for x in kind if x is not None] for kind in zip(*parts, strict=True)]
        self._whole = [torch.cat([x.detach() for x in kind]) if kind else None for kind in self._parts]
        self._sizes = [len(weight) for weight in self._parts[0]]

    def copy(self) -> None:
        """Take the weights as they are now."""
        for kind, whole in zip(self._parts, self._whole, strict=True):
            if whole is not None:
                torch.cat(kind, out=whole)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        weight, bias = self._whole
        assert weight is not None
        parts: tuple[Tensor, ...] = F.linear(x, weight, bias).split(self._sizes, 1)
        return parts


def _add(h_NE: Tensor, x: Tensor, linear: Linear) -> None:
    """``h += linear(x)``."""
    weight, bias = linear
    if bias is not None:
        h_NE.add_(bias)
    h_NE.addmm_(x, weight.t())
