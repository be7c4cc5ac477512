"""What decoders sample, and how far their log-probs are from the trainer's."""

import torch

from contrapose.policy.logprobs import LogProbs, Row
from contrapose.rollout.growing import grow

PROMPTS = [(5, 9, 3), (8,), (11, 2, 3, 4, 5, 6, 40, 9, 9, 12, 1, 33), (63, 22), (17, 33, 8, 9, 0, 0, 5, 44)]
"""Of lengths on both sides of the windows."""


def grown(decoder, k, sampling, eos=(64,), prompts=PROMPTS, wave=None, dropped=()):
    """``(tokens, log-probs)`` of each rollout, in order."""
    steps = grow(decoder, prompts, k, list(range(len(prompts) * k)), sampling, eos, wave or len(prompts), dropped)
    ended = {number: (tokens, logp) for step in steps for number, tokens, logp in step}
    assert sorted(ended) == list(range(len(prompts) * k))
    return [ended[number] for number in sorted(ended)]


def apart(model, found, prompts=PROMPTS, temperature=1.0):
    """How far the decoder's log-probs are from the trainer's, token by token."""
    k = len(found) // len(prompts)
    rows = [Row(prompts[i // k], tuple(tokens)) for i, (tokens, _) in enumerate(found)]
    expected = LogProbs(model, temperature).without_grad(rows)[0].cpu()
    parts = [torch.tensor(logp) - line[: len(logp)] for (_, logp), line in zip(found, expected, strict=True)]
    return torch.cat(parts).abs()
