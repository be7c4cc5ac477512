"""Algorithm 1's inner loop, with an engine whose answers are written beforehand."""

from dataclasses import replace

import pytest

from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.rollout.engine import StaleEngine
from contrapose.rollout.sampler import Sampling
from contrapose.train.collect import collect
from contrapose.train.measure import step_row, verifier_alarm
from contrapose.train.record import ledger_rows
from contrapose.types import UNVERSIONED, PoolExhausted, Prompt, Stopped
from contrapose.verify.grading import Grading
from contrapose.verify.processes import Limits
from contrapose.verify.verifier import Verifier
from train_scripted import ScriptedEngine, at_once, rollout


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", f"problem {i}", str(i), tokens=(3,)) for i in range(count)]


def gather(pool, engine, **kw):
    settings = {"wanted": 4, "k": 8, "seed": 0, "version": 0, "sampling": Sampling(), "refill": True, "max_rounds": 9}
    return collect(pool, engine, Verifier("format"), **{**settings, **kw})


def by_index(table):
    """Right answers of prompt pN: ``table[N]``."""
    return ScriptedEngine(lambda prompt, _: table[int(prompt.id[1:]) % len(table)])


def test_each_prompt_drawn_gets_one_fate():
    """0 right: too hard; 1 to 4: train; 5, 6: too easy; 7, 8: mastered."""
    engine = by_index(range(9))
    pool = PromptPool(prompts(9), Thresholds(), cache=False)
    drawn = gather(pool, engine, wanted=4, max_rounds=20)
    fates = {g.prompt.id: fate for g, fate, _ in drawn.judged}
    expected = ["too_hard", *["train"] * 4, *["too_easy"] * 2, *["mastered"] * 2]
    assert len(fates) >= 8
    assert all(fate == expected[int(prompt[1:])] for prompt, fate in fates.items())
    assert len(drawn.accepted) == 4
    ledger = [(row["prompt"], row["fate"]) for row in ledger_rows(1, drawn, pool.thresholds)]
    assert ledger == [(g.prompt.id, fate) for g, fate, _ in drawn.judged]


def test_hostile_answers_are_wrong_ones_and_cost_their_neighbours_nothing():
    """Six right answers and one that hangs its grader: no mastery, and every other verdict as it should be."""

    class Hostile(ScriptedEngine):
        def generate(self, prompts, k, seed, sampling, cancelled=()):
            for prompt in prompts:
                texts = ["right"] * 7 + ["sleep" if prompt.id == "p1" else "exit 1" if prompt.id == "p2" else "wrong"]
                yield at_once(prompt, [rollout(text) for text in texts])

    verifier = Verifier("format", grading=Grading("grader_functions:act", "text"), limits=Limits(seconds=0.3))
    settings = {"wanted": 4, "k": 8, "seed": 0, "version": 0, "sampling": Sampling(), "refill": False, "max_rounds": 1}
    drawn = collect(PromptPool(prompts(4), Thresholds()), Hostile(lambda *_: 0), verifier, **settings)
    fates = {group.prompt.id: fate for group, fate, _ in drawn.judged}
    assert fates == {"p0": "mastered", "p1": "too_easy", "p2": "too_easy", "p3": "mastered"}
    last = {group.prompt.id: group.verdicts[-1] for group, _, _ in drawn.judged}
    assert {i: v.status for i, v in last.items()} == {"p0": "wrong", "p1": "timeout", "p2": "crashed", "p3": "wrong"}
    assert {v.reward for v in last.values()} == {0.1}
    assert all(v.correct and v.reward == 1.0 for group, _, _ in drawn.judged for v in group.verdicts[:-1])
    groups = [group for group, _, _ in drawn.judged]
    assert verifier_alarm(groups, rate=2 / 32) is None
    alarm = verifier_alarm(groups, rate=0.06)
    assert alarm.startswith("6.2% of the answers")
    assert "timeout for p1: 'sleep'" in alarm
    row = step_row(1, drawn, 0, None, [])
    assert row["verdicts"] == {"correct": 28, "wrong": 2, "timeout": 1, "crashed": 1}
    assert (row["verifier_faults"], row["unparsed"], row["no_answer"]) == (2 / 32, 0.0, 0.0)


def test_groups_are_kept_in_the_order_of_drawing_not_of_finishing():
    engine = by_index([2])
    drawn = gather(PromptPool(prompts(50), Thresholds()), engine)
    order = [i for r in engine.rounds for i in r]
    assert [g.prompt.id for g in drawn.accepted] == order[:4]
    assert [g.prompt.id for g, _, _ in drawn.judged] == order


def test_surplus_prompts_are_rolled_out_again_first():
    """The cache keeps prompts, not rollouts."""
    engine, pool = by_index([2]), PromptPool(prompts(50), Thresholds())
    first = gather(pool, engine)  # at an expected acceptance of a half, eight are drawn for four
    surplus = [g.prompt.id for g in first.surplus]
    assert len(surplus) == 4
    second = gather(pool, engine)
    assert [g.prompt.id for g in second.accepted] == surplus


def test_surplus_is_forgotten_without_the_cache():
    engine, pool = by_index([2]), PromptPool(prompts(50), Thresholds(), cache=False)
    surplus = [g.prompt.id for g in gather(pool, engine).surplus]
    gather(pool, engine)
    assert not set(engine.rounds[-1]) & set(surplus)


def test_it_refills_until_the_batch_is_full():
    engine = by_index([0, 0, 0, 2])
    drawn = gather(PromptPool(prompts(400), Thresholds()), engine, wanted=10)
    assert len(drawn.accepted) == 10
    assert drawn.rounds == len(engine.rounds) > 1


def test_it_draws_no_more_than_the_recent_acceptance_calls_for():
    """After a few steps at an acceptance of a half, about twice the batch is drawn, not more."""
    engine, pool = by_index([0, 2]), PromptPool(prompts(4000), Thresholds(), cache=False)
    for _ in range(6):
        drawn = gather(pool, engine, wanted=16)
    assert len(drawn.judged) <= 3 * 16


def test_without_refill_one_round_is_all():
    engine = by_index([0, 2])
    drawn = gather(PromptPool(prompts(100), Thresholds()), engine, refill=False)
    assert len(drawn.judged) == 4
    assert drawn.rounds == 1
    assert 0 <= len(drawn.accepted) <= 4


def test_without_refill_an_epochs_end_does_not_make_a_step_short():
    """Ten prompts, four a step: the third step draws two of the old epoch and two of the new."""
    engine, pool = by_index([2]), PromptPool(prompts(10), Thresholds(mode="none"))
    drawn = [gather(pool, engine, refill=False) for _ in range(3)]
    assert [len(d.judged) for d in drawn] == [4, 4, 4]
    assert [len(r) for r in engine.rounds] == [4, 4, 2, 2]


def test_no_filter_trains_on_every_drawn_group():
    """GRPO and ConSPO: all wrong and all right groups stay in the batch."""
    engine = by_index([0, 8, 3])
    drawn = gather(PromptPool(prompts(100), Thresholds(mode="none")), engine)
    assert len(drawn.accepted) == len(drawn.judged) == 4


def test_a_batch_that_cannot_be_filled_says_what_to_change():
    with pytest.raises(PoolExhausted, match=r"0 of 4 groups.*3 rounds.*batch\.prompts"):
        gather(PromptPool(prompts(100), Thresholds()), by_index([0]), max_rounds=3)


def test_mastered_prompts_run_out():
    with pytest.raises(PoolExhausted, match=r"all 20 prompts are mastered"):
        gather(PromptPool(prompts(20), Thresholds()), by_index([8]), max_rounds=50)


def test_a_stop_is_answered_between_groups():
    def stop():
        raise Stopped

    with pytest.raises(Stopped):
        gather(PromptPool(prompts(20), Thresholds()), by_index([2]), each=stop)


@pytest.mark.parametrize(
    ("stamped", "said"), [(6, "version 6"), (8, "version 8"), (UNVERSIONED, "no version")], ids=["old", "new", "none"]
)
def test_rollouts_of_other_weights_are_refused_before_one_is_judged(stamped, said):
    """The engine missed a sync, is ahead, or never heard of versions; the step never happened."""
    engine, pool = by_index([2]), PromptPool(prompts(50), Thresholds())
    before, finished = pool.state_dict(), []
    engine.sync(None, stamped)
    with pytest.raises(StaleEngine) as error:
        gather(pool, engine, version=7, each=lambda: finished.append(1))
    assert f"of {said}, the policy is at version 7" in str(error.value)
    assert f"rollout 0 of {engine.rounds[0][-1]!r}" in str(error.value)
    assert error.value.exit_code == 69
    assert (finished, pool.state_dict()) == ([], before)
    engine.sync(None, 7)
    assert len(gather(pool, engine, version=7).accepted) == 4


def test_one_stale_rollout_among_fresh_ones_is_found():
    class Mixed(ScriptedEngine):
        def generate(self, prompts, k, seed, sampling, cancelled=()):
            for step in super().generate(prompts, k, seed, sampling):
                yield [*step[:5], replace(step[5], rollout=rollout("", version=3)), *step[6:]]

    with pytest.raises(StaleEngine, match=r"rollout 5 of .* version 3, the policy is at version 0"):
        gather(PromptPool(prompts(50), Thresholds()), Mixed(lambda *_: 2))


def steps(pool, engine, count, each=lambda: None):
    """Fates, batch and pool of some steps in a row."""
    seen = []
    for _ in range(count):
        drawn = gather(pool, engine, each=each)
        seen.append(([(g.prompt.id, fate, kept) for g, fate, kept in drawn.judged], drawn.rounds, pool.state_dict()))
    return seen


def test_a_step_that_was_stopped_in_the_middle_of_a_round_never_happened():
    """Stopped after any number of groups, also in a later round, and gone on with from the saved pool: the same steps,
    with every fate and prompts from the cache among them."""

    def fresh():
        return PromptPool(prompts(300), Thresholds(), seed=5)

    whole = steps(fresh(), by_index(range(9)), 6)
    assert {fate for judged, _, _ in whole for _, fate, _ in judged} == {"train", "too_hard", "too_easy", "mastered"}
    assert any(state["cache"] for _, _, state in whole) and max(rounds for _, rounds, _ in whole) > 1
    for groups in range(1, sum(len(judged) for judged, _, _ in whole), 5):
        pool, left = fresh(), iter(range(groups))

        def stop(left=left):
            if next(left, None) is None:
                raise Stopped

        done = []
        with pytest.raises(Stopped):
            while True:
                done += steps(pool, by_index(range(9)), 1, stop)
        resumed = fresh()
        resumed.load_state_dict(pool.state_dict())
        assert done + steps(resumed, by_index(range(9)), 6 - len(done)) == whole


def test_a_prompt_that_was_cut_short_may_be_drawn_again_in_the_same_step():
    """Two prompts, an epoch a round: decided early in the first round, undecided in the second."""

    class Slow(ScriptedEngine):
        def generate(self, prompts, k, seed, sampling, cancelled=()):
            for step in super().generate(prompts, k, seed, sampling):
                yield step[:-1]
                [last] = step[-1:]
                cut = last.prompt.id in cancelled
                yield [replace(last, rollout=rollout("", finished="cancelled"))] if cut else [last]

    engine = Slow(lambda prompt, round_: 5 if round_ == 0 else 2)
    drawn = gather(PromptPool(prompts(2), Thresholds()), engine, wanted=2, early_stop=True)
    assert [(len(g.cancelled), fate) for g, fate, _ in drawn.judged] == [(1, "too_easy")] * 2 + [(0, "train")] * 2


def test_after_exhaustion_the_pool_is_as_before_the_step():
    pool = PromptPool(prompts(20), Thresholds())
    before = pool.state_dict()
    with pytest.raises(PoolExhausted):
        gather(pool, by_index([8]), max_rounds=50)
    assert pool.state_dict() == before


def test_the_step_counts_everything_drawn_before_filtering():
    engine = by_index([0, 2, 8])
    drawn = gather(PromptPool(prompts(300), Thresholds()), engine)
    row = step_row(1, drawn, 0, None, [])
    right, total = sum(g.correct for g, _, _ in drawn.judged), 8 * len(drawn.judged)
    assert row["accuracy"] == pytest.approx(right / total)
    assert row["reward_mean"] == pytest.approx((right + 0.1 * (total - right)) / total)
    assert row["drawn_groups"] == len(drawn.judged)
    assert row["accepted_groups"] == 4
    assert row["generated_tokens"] == 24 * len(drawn.judged)
    assert row["kept_tokens"] == 24 * 4
