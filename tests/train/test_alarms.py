"""Each alarm speaks once, when what it stands for begins, and no other does; a sound run hears none."""

import json
import math
import random

import pytest

from contrapose.objectives.trust import KLHinge, KLOld
from contrapose.report.metrics import STEP, UPDATE
from contrapose.train.alarms import alarms

UPDATES = 4
SCALES = {
    **{"log_ratio_99": 0.3, "log_ratio_max": 1.5, "kl": 0.005, "kl_sequence_sum": 0.5, "kl_sequence": 0.5},
    **{"grad_norm": 1.5, "logp_positive": -0.05, "logp_negative": -0.2},
}


def entry(rng, **changes):
    """An update of a sound run: right rollouts gain a little, wrong ones lose more, neither every time."""
    update = dict.fromkeys(UPDATE) | {key: scale * rng.lognormvariate(0, 0.5) for key, scale in SCALES.items()}
    update["logp_positive_after"] = update["logp_positive"] + rng.gauss(5e-4, 1e-3)
    update["logp_negative_after"] = update["logp_negative"] - rng.gauss(5e-3, 2e-3)
    return update | changes


def row(step, rng=None, **changes):
    """A row of a sound run: it gets better, and its entropy falls with what is left to get better at."""
    rng = rng or random.Random(step)
    wrong = max(0.02, 0.7 * 0.98**step * rng.uniform(0.8, 1.2))
    numbers = {"step": step, "accuracy": 1 - wrong, "entropy": 0.2 * wrong * rng.uniform(0.7, 1.4), "truncated": 0.01}
    counts = {"accepted_groups": 32, "mixed_groups": min(1.0, 2 * wrong)}
    of_updates = {key: changes.pop(key) for key in [*changes] if key in UPDATE and key not in STEP}
    for key in ("grad_norm", "kl"):
        if key in changes:
            of_updates[key] = changes.pop(key)
    updates = [entry(rng, **of_updates) for _ in range(UPDATES)]
    return json.loads(json.dumps({**numbers, **counts, "updates": updates, **changes}))


def heard(rows, trust=None):
    """``(step, line)`` of all that was said."""
    return [(row["step"], line) for i, row in enumerate(rows) for line in alarms(rows[:i], row, trust)]


def run(steps, changed=range(0), **changes):
    """A run of so many steps, with ``changes`` in some."""
    return [row(step, **(changes if step in changed else {})) for step in range(1, steps + 1)]


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_run_of_two_hundred_steps_hears_nothing(seed):
    """To the end, where next to nothing is wrong and next to no entropy left."""
    rng = random.Random(seed)
    assert heard([row(step, rng) for step in range(1, 201)], KLOld()) == []


CASES = {
    "log-ratio": (range(30, 32), {"log_ratio_max": 20.1}, 30, 30, "a token's log-ratio to pi_old is 20.1 nats"),
    "log-ratio of many": (range(30, 40), {"log_ratio_99": 2.4}, 34, 30, "one token in a hundred has a log-ratio"),
    "KL": (range(30, 40), {"kl": 0.11}, 34, 30, r"KL(pi_old || pi_theta) is 0.11 nats (alarm: 0.1, 10 x its target)"),
    "entropy": (range(41, 99), {"entropy": 1e-4}, 57, 38, "entropy is 0.01 nats a token while"),
    "entropy 0": (range(41, 99), {"entropy": 0.0}, 57, 38, "entropy is 0.01 nats a token while"),
    "gradient": (range(30, 31), {"grad_norm": 60.0}, 30, 30, "the gradient's norm is 60 (alarm: "),
    "truncation": (range(30, 50), {"truncated": 0.51}, 30, 30, "51% of the rollouts were cut off (alarm: 50%)"),
    "truncation at once": (range(1, 50), {"truncated": 0.9}, 1, 1, "90% of the rollouts were cut off"),
    "no difference": (range(30, 50), {"mixed_groups": 0.0}, 39, 30, "no group trained on had rewards that differ"),
    "no group": (range(30, 50), {"accepted_groups": 0, "updates": []}, 39, 30, "no group trained on had rewards"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_begins_is_told_once_and_since_when(case):
    """One line: what, its value, the threshold, since which step, a likely cause and the key to change."""
    steps, changes, told, since, words = CASES[case]
    [(step, line)] = heard(run(100, steps, **changes), KLOld())
    assert (step, line.partition(" since step ")[2].partition(":")[0]) == (told, str(since))
    assert line.startswith(words)
    assert "(alarm: " in line and "\n" not in line
    assert any(key in line for key in ("optim.", "batch.", "data.", "rollout.", "objective."))


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (range(30, 99), {"log_ratio_max": 20.0, "log_ratio_99": 2.3}),
        (range(30, 34), {"kl": 9.0, "log_ratio_99": 9.0}),
        (range(41, 54), {"entropy": 1e-4}),
        (range(1, 99), {"entropy": 0.0}),
        (range(10, 20), {"grad_norm": 1e6}),
        (range(30, 99), {"truncated": 0.5}),
        (range(30, 39), {"mixed_groups": 0.0}),
        (range(1, 99), {"entropy": None, "kl": None, "grad_norm": None, "log_ratio_max": None}),
    ],
    ids=str,
)
def test_what_is_just_below_or_too_short_or_too_early_is_silent(steps, changes):
    assert heard(run(70, steps, **changes), KLOld()) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_small_batch_may_have_nobody_wrong(seed):
    """Eight rollouts a step, of a policy whose entropy falls in proportion to how often it is wrong."""
    rng = random.Random(seed)
    rows = []
    for step in range(1, 251):
        chance = 0.02 + 0.68 * 0.98**step
        wrong = sum(rng.random() < chance for _ in range(8)) / 8
        rows.append(row(step, rng, accuracy=1 - wrong, entropy=0.2 * chance))
    assert heard(rows) == []


def test_batches_that_teach_nothing_do_not_make_the_others_odd():
    """Most gradients are 0, because no rewards differ; then one is not."""
    rows = [row(step, grad_norm=28.0 if step % 5 == 0 else 0.0) for step in range(1, 80)]
    assert heard(rows) == []


def test_what_compares_no_rollouts_learns_from_equal_rewards_too():
    rows = run(50, range(10, 50), mixed_groups=0.0)
    assert [line for i, r in enumerate(rows) for line in alarms(rows[:i], r, compares=False)] == []


def test_what_ends_and_begins_again_is_told_again():
    rows = run(40)
    for step in (10, 11, 12, 20, 21):
        rows[step - 1]["truncated"] = 0.6
    assert [step for step, _ in heard(rows)] == [10, 20]


def test_a_policy_that_makes_no_mistake_needs_no_entropy():
    assert heard(run(100, range(30, 99), accuracy=1.0, entropy=0.0), KLOld()) == []


def test_a_policy_that_gets_better_may_lose_its_entropy_and_one_that_does_not_may_not():
    """The same entropies, one with ever fewer wrong answers and one without."""
    better, stuck = run(100), run(100)
    for step, (good, bad) in enumerate(zip(better, stuck, strict=True)):
        wrong = 0.6 * 0.95**step
        good |= {"accuracy": 1 - wrong, "entropy": 0.2 * wrong}
        bad |= {"accuracy": 0.4, "entropy": 0.2 * wrong}
    assert heard(better) == []
    [(_, line)] = heard(stuck)
    assert line.startswith("entropy is ") and "while 60% of the rollouts are wrong" in line


@pytest.mark.parametrize(
    ("trust", "key", "told"),
    [
        (KLOld(aggregate="sequence"), "kl_sequence", True),
        (KLOld(aggregate="sequence_sum"), "kl_sequence_sum", True),
        (KLOld(aggregate="sequence_sum"), "kl", False),
        (KLOld(target=9.0), "kl", False),
        (KLHinge(), "kl", False),
        (None, "kl", False),
    ],
)
def test_the_kl_that_is_watched_is_that_of_the_trust_region(trust, key, told):
    quiet = {"kl": 0.0, "kl_sequence_sum": 0.0, "kl_sequence": 0.0}
    rows = [row(step, **{**quiet, key: 50.0 if step > 30 else 0.0}) for step in range(1, 50)]
    assert [step for step, _ in heard(rows, trust)] == ([35] if told else [])


def falling(right, wrong, noise=0.0):
    """A run whose right and wrong rollouts change by so much in each update."""
    rng, rows = random.Random(0), run(30)
    for update in (u for r in rows for u in r["updates"]):
        update["logp_positive_after"] = update["logp_positive"] + rng.gauss(right, noise)
        update["logp_negative_after"] = update["logp_negative"] + rng.gauss(wrong, noise)
    return rows


def test_right_rollouts_that_fall_with_the_wrong_ones_are_told():
    [(step, line)] = heard(falling(-1e-3, -5e-3, noise=1e-4))
    assert step == 5  # four updates a step: the first twenty
    assert line.startswith("right rollouts lose 0.001 nats a token in each update, wrong ones 0.005 (alarm: both fall")
    assert "since step 1:" in line


@pytest.mark.parametrize(("right", "wrong"), [(1e-3, -5e-3), (-1e-3, 5e-3), (0.0, 0.0), (1e-3, 1e-3)])
def test_only_both_falling_is_displacement(right, wrong):
    assert heard(falling(right, wrong)) == []


def test_a_fall_that_is_lost_in_noise_is_none():
    assert heard(falling(-1e-4, -5e-3, noise=1e-2)) == []


def test_updates_that_were_not_measured_say_nothing():
    rows = falling(-1e-3, -5e-3)
    for update in (u for r in rows for u in r["updates"]):
        update["logp_positive_after"] = update["logp_negative_after"] = None
    assert heard(rows) == []


def test_every_skipped_update_speaks():
    rows = run(30)
    for step, number in ((12, 1), (12, 3), (13, 0)):
        rows[step - 1]["updates"][number] = dict.fromkeys(UPDATE) | {"skipped": "the credit is nan"}
    assert [(step, line[:35]) for step, line in heard(rows, KLOld())] == [
        (12, "update 2 was skipped: the credit is"),
        (12, "update 4 was skipped: the credit is"),
        (13, "update 1 was skipped: the credit is"),
    ]


def test_what_is_not_finite_in_memory_is_what_it_is_in_the_file():
    """A row that was just made holds nan where the file, and so a resumed run, holds null."""
    rows, odd = run(60), ("kl", "grad_norm", "log_ratio_max", "log_ratio_99")
    for value in (math.nan, math.inf, None):
        updates = [{**u, **dict.fromkeys(odd, value)} for u in rows[-1]["updates"]]
        assert alarms(rows[:-1], {**rows[-1], "entropy": value, "updates": updates}, KLOld()) == []
