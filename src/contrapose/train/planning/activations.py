"""What an update takes beside what is there anyway, for the largest micro-batch.

What autograd keeps of a layer follows from ``policy/llama.py``, ``policy/fused.py`` and ``policy/attention.py``; what
the loss takes, from ``policy/logprobs.py`` and ``policy/softmax.py``. Dimensions: E hidden, F inner.
"""

from __future__ import annotations

from contrapose.policy.logprobs import CHUNK_LOGITS, CHUNK_LOGITS_CUDA
from contrapose.policy.states import SHORT
from contrapose.train.planning.job import Job
from contrapose.train.planning.shape import Shape


def kept_per_token(shape: Shape, bytes_: int, *, gpu: bool, short: bool) -> float:
    """What autograd keeps of a layer for a token.

    The layer's input and its norm, after attention both again (4E); queries and keys as projected, where a norm or our
    own rotation reads them on the way back; what attention read and gave; the gate, what it opens for, their product
    (3F), and on a GPU the gate's activation. Scales of norms and attention's sums are float32.
    """
    size, heads, groups, inner = shape.head_size, shape.heads, shape.groups, shape.inner
    projected = (heads + groups) * size if shape.head_norms or not gpu else 0
    given = heads * size * (1 if short else 2)  # as attention gave it, and put back in order
    values = 4 * shape.hidden + projected + (heads + 2 * groups) * size + given + 3 * inner
    scales = 2 + (heads + groups) * (shape.head_norms or not gpu) + heads * (not short)
    if gpu:  # angles, of queries and of keys
        values += inner + 4 * size
    return float(values * bytes_ + scales * max(4, bytes_))


def activations(job: Job) -> dict[str, float]:
    """What the largest micro-batch takes at its peak: while the loss is taken, or where the way back begins."""
    shape, n, gpu = job.shape, job.narrow, job.devices.gpu
    rows, tokens = job.micro
    short = not gpu and n == 4 and job.prompt + job.length <= SHORT
    layer = tokens * kept_per_token(shape, n, gpu=gpu, short=short)
    if gpu and n > 2 and shape.groups != shape.heads:  # torch has no kernel for it, and keeps every share
        layer += rows * shape.heads * (job.prompt + job.length) ** 2 * n
    stream = tokens * shape.hidden * n
    recompute = job.config.model.gradient_checkpointing
    kept = shape.layers * (stream if recompute else layer) + stream
    forth, states = _loss(job, rows)
    back = states + tokens * n * 2 * (shape.hidden + shape.inner) + (layer if recompute else 0)
    name = "activations, of a layer's inputs" if recompute else "activations"
    ends = "the last layers, on the way back" if back > forth else "logits, the head's gradient"
    return {name: float(kept), ends: float(max(forth, back))}


def _loss(job: Job, rows: int) -> tuple[float, float]:
    """What there is while the loss is taken, and of that what the way back begins with: states and their gradients.

    Logits of a piece and what the softmax makes of them, while those of the piece before are still there; or one of
    these and a term of the head's gradient, which has room of its own until it is given its type and handed on.
    """
    shape, n, gpu = job.shape, job.narrow, job.devices.gpu
    wide, answered = max(4, n), rows * job.length
    piece = min(answered, max(1, (CHUNK_LOGITS_CUDA if gpu else CHUNK_LOGITS) // shape.vocabulary)) * shape.vocabulary
    before = answered * shape.vocabulary > piece
    if gpu:  # kernels of our own work on the logits in place
        one, most = n, n * (1 + before)
    else:
        one = wide + (n if n < wide else 0)
        most = one + n + wide * before + wide * (job.config.rollout.temperature != 1)
    head = 0 if job.config.lora.rank else shape.table
    states = 2 * answered * shape.hidden * n
    forth = head * wide + max(piece * most, piece * one + head * n, head * (n if n < wide else 0))
    return float(forth + states), float(states)
