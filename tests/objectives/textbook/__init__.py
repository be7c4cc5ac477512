"""The papers' closed-form values and credits, written out with loops over plain floats. Nothing of contrapose is here.

A *step* is a dict of the arguments of ``contrapose.credit``: ``logp``, ``old_logp``, ``reference_logp`` and
``mask`` are ``[Q, K, T]``, ``reward``, ``correct`` and ``present`` are ``[Q, K]``. A transcription has the name and the
hyper-parameters of its objective and returns ``(J, credit)``, the credit as a nested list.

    step.py             random steps, and how a step is read
    contrastive.py      right against wrong: ReNCE, ConSPO, DisCO, DPO
    policy_gradient.py  advantage times score: GRPO and its kin

Letters: ``l`` a log-prob, ``d = l - l_old``, ``rho = e^d``, ``i`` a positive, ``j`` a negative, ``c`` a rollout's
credit dJ/ds, ``w`` a token's, ``A`` an advantage.
"""

from textbook.contrastive import conspo, disco, disco_b, dpo, rence
from textbook.policy_gradient import cispo, dapo, dr_grpo, gmpo, grpo, gspo, reinforce, rloo, sapo

__all__ = [
    "cispo",
    "conspo",
    "dapo",
    "disco",
    "disco_b",
    "dpo",
    "dr_grpo",
    "gmpo",
    "grpo",
    "gspo",
    "reinforce",
    "rence",
    "rloo",
    "sapo",
]
