"""The catalogue as a page for people. ``docs/objectives.md`` is this text; the command line shows the same entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from contrapose.objectives import methods
from contrapose.objectives.objective import Objective
from contrapose.objectives.zoo import ObjectiveInfo

FACTORS = tuple(field.name for field in fields(Objective))

INTRODUCTION = """\
# Objectives

*This page is what `contrapose objectives --page` prints: it is read off the functions that build the objectives.*

An objective is five factors over log-probs `[Q, K, T]` (prompts, rollouts of each, response tokens):

    w = aggregate      which token counts how much
    s = score          how much the policy likes a rollout; a leash (clip, gate, cap) lives here
    s += margin        on negatives: how far apart right and wrong must be
    v = contrast       who is pushed against whom, one number a group
    J = mean(v) - trust

Its derivative is the credit of each token, and that is all a training loop needs:

```python
import contrapose

credit = contrapose.credit("rence", logp, old_logp=old_logp, mask=mask, reward=reward, beta=0.2)
(-(credit * logp).sum()).backward()
```

All denominators are those of the whole optimizer step. A call that holds only part of it is given the step's
`totals`; a group must be whole, and its tokens may then be spread over any micro-batches:

```python
import contrapose

objective = contrapose.objective("disco")
totals = contrapose.Totals(prompts=4, rollouts=32, tokens=9000, log_ratio=-1.5)  # summed over all parts
credit = contrapose.credit(objective, logp, old_logp=old_logp, mask=mask, reward=reward, totals=totals)
```

Your own objective is a composition too. Score, contrast and trust say what they couple (`token`, `rollout`, `group`,
`step`); up to `rollout`, training needs no first pass for scores:

```python
from dataclasses import dataclass
from typing import ClassVar

import contrapose
from contrapose.objectives.aggregate import rollout_mean
from contrapose.objectives.contrast import NCE


@dataclass(frozen=True)
class Probability:
    coupling: ClassVar[str] = "token"

    def __call__(self, logp_QKT, plan):
        return (plan.weight_QKT * logp_QKT.exp()).sum(-1)


mine = contrapose.Objective(rollout_mean, Probability(), margin=None, contrast=NCE("correct", tau=0.5), trust=None)
credit = contrapose.credit(mine, logp, mask=mask, reward=reward)
```

Groups that a contrast cannot use (no positive, no negative, equal rewards) get no credit from it and stay in the
denominator (`reinforce` has no baseline and uses them all); trust terms still act on their tokens. An empty completion
has no score and no credit.

At theta = pi_old, that is with one update a batch, the ratio objectives are alike: up to its weight for a token, the
credit of GRPO, DAPO, GSPO, GMPO, CISPO and SAPO is the same.
"""


def markdown(known: Mapping[str, ObjectiveInfo]) -> str:
    """The whole page."""
    rows = [["name", *FACTORS], ["---"] * 6]
    rows += [[f"[{i.name}](#{i.name})", *(i.kinds[factor] for factor in FACTORS)] for i in known.values()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    letters = (methods.__doc__ or "").strip().split("\n\n")[-1].replace("``", "`")
    entries = "\n\n".join(f"## {entry(info)}" for info in known.values())
    return f"{INTRODUCTION}\n{table}\n\n{letters}\n\n{entries}\n"


def entry(info: ObjectiveInfo) -> str:
    """One objective: its name, then at most twelve lines."""
    equation = "\n".join(f"    {line}" for line in info.equation.splitlines())
    defaults = [*(f"{key} (required)" for key in info.required), *(f"{k}={v!r}" for k, v in info.defaults.items())]
    facts = {
        "Factors": ", ".join(info.factors[factor] for factor in FACTORS if info.factors[factor] != "-"),
        "Credit": info.credit,
        "Defaults": ", ".join(defaults) or "none to set",
        "Disagreement": info.disagreement,
    }
    return f"{info.name}\n\n{info.paper}\n\n{equation}\n\n" + "\n".join(f"- {k}: {v}" for k, v in facts.items())
