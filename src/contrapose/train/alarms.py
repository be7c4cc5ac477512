"""What a person should look at: drift that no single number tells. Each alarm speaks once, when it begins, in one line.

A rule looks at rows of ``metrics.jsonl`` and says what is wrong at the last of them, or nothing; where it needs more
rows than there are, nothing. Everything follows from rows already written, so a resumed run hears what it would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from contrapose.objectives.trust import KLOld, Trust
from contrapose.train.measure import KL_KEYS

Row = Mapping[str, Any]
Rule = Callable[[Sequence[Row]], str | None]

MAX_LOG_RATIO = 20.0
"""nats: a token is e^20 times likelier, or less likely, than when it was sampled."""

MAX_LOG_RATIO_99, FAR_STEPS = math.log(10), 5
"""nats: one token in a hundred is ten times likelier, or less likely, than when it was sampled, so many steps in a row.
A single step that goes too far is what the next one mends; sound runs have some."""

KL_FACTOR = 10.0
"""So many times the trust region's target, as many steps in a row: its coefficient does not hold it."""

ENTROPY_SHARE, ENTROPY_STEPS = 0.2, 20
"""Entropy beside the share still wrong is below this share of its mean over the run's first steps, so many steps in a
row. A policy that gets better needs less, in proportion; one that collapses has none left for what it cannot do."""

NORM_FACTOR, NORM_STEPS = 20.0, 20
"""So many times the median of the gradients' norms over so many steps before."""

MAX_TRUNCATED = 0.5
"""Share of rollouts that came to no end."""

IDLE_STEPS = 10
"""Steps in a row in which no group trained on had a better and a worse rollout: nothing was learned."""

FALLING_UPDATES, FALLING_ERRORS = 20, 4.0
"""Over so many updates, the mean change is below 0 by more than so many of its standard errors: so many that chance,
which has a try in every step, does not get there."""


def alarms(before: Sequence[Row], row: Row, trust: Trust | None = None, compares: bool = True) -> list[str]:
    """What is wrong at this row, and was not at the last one ``before``. ``trust`` is the objective's trust region, and
    ``compares`` whether it learns only from groups whose rewards differ."""
    rules = [_log_ratio, _log_ratio_99, _kl(trust), _entropy, _gradient, _truncated, _falling]
    rules += [_idle] if compares else []
    rows = [*before, row]
    return [*_skipped(row), *(line for rule in rules if (line := rule(rows)) and not rule(before))]


def _skipped(row: Row) -> list[str]:
    """Every one of them speaks: they are few, or the run stops."""
    return [
        f"update {number} was skipped: {update['skipped']}; what it was made of is in faults/"
        for number, update in enumerate(row["updates"], 1)
        if update.get("skipped")
    ]


def _log_ratio(rows: Sequence[Row]) -> str | None:
    found = max(_of_updates(rows[-1:], "log_ratio_max"), default=0.0)
    if found <= MAX_LOG_RATIO:
        return None
    why = "one step's updates drive the policy away from its own samples; lower optim.lr or batch.updates"
    return _line(f"a token's log-ratio to pi_old is {found:.3g} nats", f"{MAX_LOG_RATIO:g}", rows[-1], why)


def _log_ratio_99(rows: Sequence[Row]) -> str | None:
    last = rows[-FAR_STEPS:]
    found = [max(_of_updates([row], "log_ratio_99"), default=0.0) for row in last]
    if len(found) < FAR_STEPS or min(found) <= MAX_LOG_RATIO_99:
        return None
    what = f"one token in a hundred has a log-ratio to pi_old above {found[-1]:.3g} nats"
    why = "each step's updates move the whole policy too far; lower optim.lr or batch.updates"
    return _line(what, f"{MAX_LOG_RATIO_99:.2g}", last[0], why)


def _kl(trust: Trust | None) -> Rule:
    if not isinstance(trust, KLOld):
        return lambda rows: None
    key, most = KL_KEYS[trust.aggregate], KL_FACTOR * trust.target

    def rule(rows: Sequence[Row]) -> str | None:
        last = rows[-FAR_STEPS:]
        found = [values[-1] for row in last if (values := _of_updates([row], key))]
        if len(found) < FAR_STEPS or min(found) <= most:
            return None
        why = "the trust region does not hold; lower optim.lr, or raise objective.kl_coef"
        limit = f"{most:g}, {KL_FACTOR:g} x its target"
        return _line(f"KL(pi_old || pi_theta) is {found[-1]:.3g} nats", limit, last[0], why)

    return rule


def _entropy(rows: Sequence[Row]) -> str | None:
    known = [row for row in rows if _number(row, "entropy") is not None]
    first, last = known[:ENTROPY_STEPS], known[-ENTROPY_STEPS:]
    wrong = sum(1 - row["accuracy"] for row in last)
    if len(known) < 2 * ENTROPY_STEPS or wrong == 0 or (begun := sum(1 - row["accuracy"] for row in first)) == 0:
        return None
    least = ENTROPY_SHARE * sum(row["entropy"] for row in first) / begun  # of sums: a small batch may have none wrong
    if (found := sum(row["entropy"] for row in last)) >= least * wrong:
        return None
    what = f"entropy is {found / len(last):.2g} nats a token while {wrong / len(last):.0%} of the rollouts are wrong"
    limit = f"{least * wrong / len(last):.2g}, {ENTROPY_SHARE:g} x what the first {ENTROPY_STEPS} steps had for as many"
    why = "the policy no longer explores what it cannot do; lower optim.lr, or draw from other prompts (data.path)"
    return _line(what, limit, last[0], why)


def _gradient(rows: Sequence[Row]) -> str | None:
    found = max(_of_updates(rows[-1:], "grad_norm"), default=0.0)
    usual = [norm for norm in _of_updates(rows[-NORM_STEPS - 1 : -1], "grad_norm") if norm > 0]
    if len(rows) <= NORM_STEPS or len(usual) < NORM_STEPS // 2 or found <= (most := NORM_FACTOR * median(usual)):
        return None
    limit = f"{most:.3g}, {NORM_FACTOR:g} x the median of the {NORM_STEPS} steps before"
    why = "a batch unlike the others (see the step's groups in rollouts.jsonl), or a policy that breaks; lower optim.lr"
    return _line(f"the gradient's norm is {found:.3g}", limit, rows[-1], why)


def _truncated(rows: Sequence[Row]) -> str | None:
    if not rows or rows[-1]["truncated"] <= MAX_TRUNCATED:
        return None
    what = f"{rows[-1]['truncated']:.0%} of the rollouts were cut off"
    why = "answers do not fit, or the policy does not end them; raise rollout.max_tokens, or set reward.truncated"
    return _line(what, f"{MAX_TRUNCATED:.0%}", rows[-1], why)


def _idle(rows: Sequence[Row]) -> str | None:
    last = rows[-IDLE_STEPS:]
    if len(last) < IDLE_STEPS or any(row["accepted_groups"] and row.get("mixed_groups") != 0 for row in last):
        return None
    why = (
        "all problems are too hard or too easy, or the grader says the same of everything (see verdicts); change "
        "data.path, rollout.k or the filter"
    )
    return _line("no group trained on had rewards that differ", f"{IDLE_STEPS} steps", last[0], why)


def _falling(rows: Sequence[Row]) -> str | None:
    """Likelihood displacement. The same rollouts before and after each update: other batches do not show in it."""
    measured = [
        (row, right, wrong)
        for row in rows[-FALLING_UPDATES:]
        for update in row["updates"]
        if (right := _change(update, "logp_positive")) is not None
        and (wrong := _change(update, "logp_negative")) is not None
    ][-FALLING_UPDATES:]
    if len(measured) < FALLING_UPDATES:
        return None
    since, rights, wrongs = zip(*measured, strict=True)
    if not (_is_falling(rights) and _is_falling(wrongs)):
        return None
    what = f"right rollouts lose {-fmean(rights):.2g} nats a token in each update, wrong ones {-fmean(wrongs):.2g}"
    why = (
        "pushing the wrong ones down takes the right ones along; lower optim.lr, or choose an objective.name that "
        "pulls its positives up"
    )
    return _line(what, f"both fall over {FALLING_UPDATES} updates", since[0], why)


def _is_falling(changes: Sequence[float]) -> bool:
    return fmean(changes) < -FALLING_ERRORS * stdev(changes) / math.sqrt(len(changes))


def _change(update: Row, key: str) -> float | None:
    before, after = _number(update, key), _number(update, f"{key}_after")
    return None if before is None or after is None else after - before


def _of_updates(rows: Sequence[Row], key: str) -> list[float]:
    """The finite values of ``key`` in the updates of ``rows``, in order."""
    return [value for row in rows for update in row["updates"] if (value := _number(update, key)) is not None]


def _number(row: Row, key: str) -> float | None:
    """A finite number, or None: what is not finite is null in the file."""
    value = row.get(key)
    return value if value is not None and math.isfinite(value) else None


def _line(what: str, limit: str, since: Row, why: str) -> str:
    return f"{what} (alarm: {limit}) since step {since['step']}: {why}"
