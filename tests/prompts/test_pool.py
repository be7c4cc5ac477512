"""Which question now: fates, mastery, epochs, the cache, and going on after a stop."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.types import FAULTS, ContraposeError, Group, PoolExhausted, Prompt, Rollout, Verdict

K = 8
ROLLOUT = Rollout((1,), (1,), (-1.0,), "x", "stop")


def prompts(count):
    return [Prompt(f"p{i}", f"{i}=", str(i)) for i in range(count)]


def group(prompt, correct, boxed=0, k=K, scheme=(1.0, 0.1, 0.0)):
    """A group of ``correct`` right answers, ``boxed`` boxed but wrong ones, and the rest without a box."""
    right, wrong, none = scheme
    verdicts = (
        [Verdict(right, True, "1", "correct", 0.0)] * correct
        + [Verdict(wrong, False, "2", "wrong", 0.0)] * boxed
        + [Verdict(none, False, None, "no_answer", 0.0)] * (k - correct - boxed)
    )
    return Group(prompt, (ROLLOUT,) * k, tuple(verdicts))


def rounds(pool, count, draws):
    return [[p.id for p in pool.draw(count)] for _ in range(draws)]


# --- the filter table -------------------------------------------------------------------------------------------------

FATES = {"T": {"train"}, "s": {"too_hard", "too_easy"}, "X": {"mastered"}}
COLUMNS = {
    "correct": Thresholds(),
    "argmax_literal": Thresholds(rho="argmax_literal"),
    "t_easy_99": Thresholds(t_easy=0.99),
    "dapo_acc": Thresholds(t_easy=0.99, t_master=1.0),
    "dapo_reward": Thresholds(mode="variance", t_master=1.0),
}


def letter(column, c, b):
    """The table's entry for a group of ``c`` correct and ``b`` boxed but wrong rollouts of eight."""
    if column == "dapo_acc":
        return "T" if 0 < c < K else "s"
    if column == "dapo_reward":
        return "s" if K in (c, b, K - c - b) else "T"
    if c == 0:
        if column != "argmax_literal":
            return "s"
        return "X" if b in (0, 7, 8) else "T" if b <= 4 else "s"
    if c <= 4:
        return "T"
    if c <= 6:
        return "T" if column == "t_easy_99" else "s"
    return "X"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("c", "b"), [(c, b) for c in range(K + 1) for b in range(K + 1 - c)])
def test_the_filter_table(column, c, b):
    assert COLUMNS[column].fate(group(prompts(1)[0], c, b)) in FATES[letter(column, c, b)]


@pytest.mark.parametrize(
    ("c", "fate"),
    [(0, "too_hard"), *((c, "train") for c in (1, 2, 3, 4)), (5, "too_easy"), (6, "too_easy"), (7, "mastered")],
)
def test_what_is_skipped_was_too_hard_or_too_easy(c, fate):
    assert Thresholds().fate(group(prompts(1)[0], c)) == fate


def test_punished_length_is_variance_of_the_reward_and_not_of_correctness():
    """An all-correct group whose rewards differ by length passes DAPO's filter by reward, not by correctness."""
    right = group(prompts(1)[0], K)
    verdicts = (Verdict(0.5, True, "1", "correct", 0.0), *right.verdicts[1:])
    shaped = Group(right.prompt, right.rollouts, verdicts)
    assert COLUMNS["dapo_reward"].fate(shaped) == "train"
    assert COLUMNS["dapo_acc"].fate(shaped) == COLUMNS["dapo_reward"].fate(right) == "too_easy"
    assert COLUMNS["dapo_reward"].fate(group(prompts(1)[0], 0)) == "too_hard"


def test_variance_takes_the_place_of_the_band_alone():
    """Mastery and require_correct hold as they do with the band."""
    assert Thresholds(mode="variance").fate(group(prompts(1)[0], 7)) == "mastered"
    assert Thresholds(mode="variance", t_hard=0.7, t_easy=0.8).fate(group(prompts(1)[0], 5)) == "train"
    assert Thresholds(mode="variance").fate(group(prompts(1)[0], 0, boxed=2)) == "train"
    assert Thresholds(mode="variance", require_correct=True).fate(group(prompts(1)[0], 0, boxed=2)) == "too_hard"


@pytest.mark.parametrize("c", range(K + 1))
def test_rho_is_the_share_correct_whatever_the_rewards(c):
    for scheme in [(1.0, 0.1, 0.0), (1.0, 0.0, 0.0), (1.0, -1.0, -1.0)]:
        assert Thresholds().rho_of(group(prompts(1)[0], c, min(2, K - c), scheme=scheme)) == c / K


def test_rho_of_the_letter_counts_the_best_reward_up_to_rounding():
    literal = Thresholds(rho="argmax_literal")
    assert literal.rho_of(group(prompts(1)[0], 0, 3)) == 3 / K
    assert literal.rho_of(group(prompts(1)[0], 2, 3)) == 2 / K
    assert literal.rho_of(group(prompts(1)[0], 0, 0)) == 1
    assert literal.rho_of(group(prompts(1)[0], 3, 5, scheme=(0.3, 0.1 + 0.2, 0.0))) == 1


def test_the_thresholds_are_strict_below_and_inclusive_above():
    thresholds = Thresholds(t_hard=0.25, t_easy=0.5, t_master=0.75)
    fates = [thresholds.fate(group(prompts(1)[0], c)) for c in range(K + 1)]
    assert fates == ["too_hard"] * 3 + ["train"] * 2 + ["too_easy"] * 2 + ["mastered"] * 2


def test_mastery_is_tested_before_selection():
    overlapping = Thresholds(t_easy=1.0, t_master=0.5)
    assert [overlapping.fate(group(prompts(1)[0], c)) for c in (4, 5, 8)] == ["train", "mastered", "mastered"]


def test_t_master_of_one_switches_mastery_off():
    assert Thresholds(t_master=1.0).fate(group(prompts(1)[0], K)) == "too_easy"
    assert Thresholds(t_easy=1.0, t_master=1.0).fate(group(prompts(1)[0], K)) == "train"


@pytest.mark.parametrize("status", FAULTS)
def test_a_group_with_an_answer_beyond_the_graders_limits_is_never_mastered(status):
    """Its prompt would be removed for good although nobody knows what became of that answer."""
    prompt = prompts(1)[0]
    whole = group(prompt, 7, 1)
    hostile = replace(whole.verdicts[-1], status=status)
    tainted = replace(whole, verdicts=(*whole.verdicts[:-1], hostile))
    assert Thresholds().fate(whole) == "mastered"
    assert Thresholds().fate(tainted) == "too_easy"
    assert Thresholds(mode="variance").fate(tainted) == "train"
    assert Thresholds(t_easy=0.9).fate(tainted) == "train"
    pool = PromptPool([prompt], Thresholds(patience=2))
    assert [pool.judge(g) for g in (whole, tainted, whole)] == ["too_easy"] * 3
    assert pool.mastered == 0


@pytest.mark.parametrize("b", range(K + 1))
def test_require_correct_keeps_failed_groups_out_of_training_and_mastery(b):
    literal = Thresholds(rho="argmax_literal", require_correct=True)
    assert literal.fate(group(prompts(1)[0], 0, b)) == "too_hard"
    assert Thresholds(t_hard=-1.0, require_correct=True).fate(group(prompts(1)[0], 0, b)) == "too_hard"


def test_require_correct_changes_nothing_once_one_is_right():
    for c in range(1, K + 1):
        one = group(prompts(1)[0], c, min(2, K - c))
        for rho in ("correct", "argmax_literal"):
            assert Thresholds(rho=rho, require_correct=True).fate(one) == Thresholds(rho=rho).fate(one)


@pytest.mark.parametrize("c", range(K + 1))
def test_mode_none_trains_every_group_and_masters_none(c):
    pool = PromptPool(prompts(1), Thresholds(mode="none"))
    assert pool.judge(group(pool.draw(1)[0], c)) == "train"
    assert pool.mastered == 0


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"t_hard": 0.5}, "filter.t_hard"),
        ({"t_hard": 0.6, "t_easy": 0.5}, "filter.t_hard"),
        ({"t_easy": 0.0}, "filter.t_hard"),
        ({"t_master": 0.0}, "filter.t_master"),
        ({"t_master": -0.1}, "filter.t_master"),
        ({"t_master": 1.1}, "filter.t_master"),
        ({"t_hard": math.nan}, "filter.t_hard"),
        ({"t_master": math.nan}, "filter.t_master"),
    ],
)
def test_impossible_thresholds_are_refused_in_one_line(wrong, key):
    with pytest.raises(ContraposeError, match=key) as error:
        Thresholds(**wrong)
    assert "\n" not in str(error.value)


def test_unusual_but_possible_thresholds_are_kept():
    Thresholds(t_hard=-0.5, t_easy=2.0, t_master=0.01)


# --- mastery ----------------------------------------------------------------------------------------------------------


def test_a_mastered_prompt_is_never_drawn_again():
    pool = PromptPool(prompts(6), Thresholds(), seed=1)
    gone = set()
    for _ in range(30):
        drawn = pool.draw(2)
        assert not gone & {p.id for p in drawn}
        if len(gone) < 5:
            assert pool.judge(group(drawn[0], K)) == "mastered"
            gone.add(drawn[0].id)
            assert pool.mastered == len(gone)
    assert len(gone) == 5
    assert {p.id for p in pool.prompts()} == {f"p{i}" for i in range(6)}


def test_a_prompt_mastered_while_cached_leaves_the_cache_too():
    pool = PromptPool(prompts(2), Thresholds())
    one, other = pool.draw(2)
    pool.put_back([one, other])
    pool.judge(group(one, K))
    assert {p.id for draw in range(4) for p in pool.draw(1)} == {other.id}


def test_a_prompt_put_back_twice_is_drawn_once():
    pool = PromptPool(prompts(5), Thresholds())
    one, other = pool.draw(2)
    pool.put_back([one, other])
    pool.put_back([other, one])
    assert [p.id for p in pool.draw(2)] == [one.id, other.id]
    assert not {p.id for p in pool.draw(3)} & {one.id, other.id}


def test_a_mastered_prompt_is_not_put_back():
    pool = PromptPool(prompts(2), Thresholds())
    one, other = pool.draw(2)
    pool.judge(group(one, K))
    pool.put_back([one, other])
    assert rounds(pool, 1, 3) == [[other.id]] * 3


def test_patience_counts_visits_in_a_row():
    pool = PromptPool(prompts(2), Thresholds(patience=3))
    p = pool.draw(1)[0]
    fates = [pool.judge(group(p, c)) for c in (8, 7, 5, 8, 8)]
    assert fates == ["too_easy"] * 5  # the third visit broke the row
    assert pool.mastered == 0
    assert pool.judge(group(p, 7)) == "mastered"
    assert pool.mastered == 1


def test_patience_is_counted_prompt_by_prompt():
    pool = PromptPool(prompts(2), Thresholds(patience=2))
    one, other = pool.draw(2)
    assert [pool.judge(group(p, K)) for p in (one, other, other)] == ["too_easy", "too_easy", "mastered"]
    assert pool.judge(group(one, K)) == "mastered"


def test_the_pool_is_exhausted_when_all_are_mastered():
    pool = PromptPool(prompts(3), Thresholds())
    for p in pool.draw(3):
        pool.judge(group(p, K))
    with pytest.raises(PoolExhausted, match="all 3 prompts are mastered") as error:
        pool.draw(1)
    assert "\n" not in str(error.value)
    assert error.value.exit_code != ContraposeError.exit_code


def test_mastery_can_be_undone_by_hand():
    pool = PromptPool(prompts(4), Thresholds())
    drawn = pool.draw(4)
    for p in drawn:
        pool.judge(group(p, K))
    assert pool.readmit([drawn[1].id]) == [drawn[1].id]
    assert pool.mastered == 3
    assert rounds(pool, 2, 3) == [[drawn[1].id]] * 3
    assert pool.readmit(["all"]) == sorted({p.id for p in drawn} - {drawn[1].id})
    assert {p.id for p in pool.draw(4)} == {p.id for p in drawn}
    assert pool.mastered == 0


def test_after_readmission_patience_counts_anew():
    pool = PromptPool(prompts(1), Thresholds(patience=2))
    [p] = pool.draw(1)
    assert [pool.judge(group(p, K)) for _ in range(2)] == ["too_easy", "mastered"]
    pool.readmit([p.id])
    assert [pool.judge(group(p, K)) for _ in range(2)] == ["too_easy", "mastered"]


def test_only_what_is_mastered_can_be_readmitted():
    pool = PromptPool(prompts(12), Thresholds())
    for p in pool.draw(11):
        pool.judge(group(p, K))
    [kept] = {f"p{i}" for i in range(12)} - set(pool.state_dict()["mastered"])
    with pytest.raises(ContraposeError, match=rf"--readmit: '{kept}' is not mastered"):
        pool.readmit(["p0" if kept != "p0" else "p1", kept])
    with pytest.raises(ContraposeError, match="--readmit: 'all' is not mastered"):
        pool.readmit(["all", "p0"])
    assert pool.mastered == 11


# --- mixing -----------------------------------------------------------------------------------------------------------


def mixed(**sizes):
    return [Prompt(f"{source}/{i}", f"{source} {i}", "0", source) for source, n in sizes.items() for i in range(n)]


def test_sources_are_drawn_from_in_proportion_to_their_weights():
    """Whatever their sizes: after every draw each source has its share to within one prompt."""
    weights = {"a": 3.0, "b": 1.0, "c": 0.5}
    pool, seen = PromptPool(mixed(a=500, b=700, c=90), Thresholds(), weights=weights), Counter()
    for size in (1, 5, 2, 90, 7, 30, 1, 1, 64):
        seen.update(p.source for p in pool.draw(size))
        for source, weight in weights.items():
            assert abs(seen[source] - seen.total() * weight / 4.5) <= 1


def test_a_small_source_begins_anew_and_repeats_none_within_a_draw():
    pool = PromptPool(mixed(a=400, b=6), Thresholds(), weights={"a": 1, "b": 1})
    drawn = [[p.id for p in pool.draw(10)] for _ in range(30)]
    assert all(len(set(draw)) == 10 for draw in drawn)
    small = Counter(i for draw in drawn for i in draw if i.startswith("b"))
    assert len(small) == 6 and max(small.values()) - min(small.values()) <= 1
    assert 150 - 6 <= small.total() <= 150  # its share, to within an epoch of its own
    assert max(Counter(i for draw in drawn for i in draw if i.startswith("a")).values()) == 1


def test_a_source_that_could_not_give_owes_one_epoch_at_most():
    """A small source gives what it has in every draw; a mastered one that comes back fills no draw after draw."""
    pool = PromptPool(mixed(a=1000, b=5), Thresholds(), weights={"a": 1, "b": 1})
    assert [Counter(p.source for p in pool.draw(64))["b"] for _ in range(3)] == [5, 5, 5]
    for i in range(5):
        pool.judge(group(Prompt(f"b/{i}", "", ""), K))
    for _ in range(3):
        pool.draw(64)
    pool.readmit(["all"])
    assert Counter(p.source for p in pool.draw(5)) == {"b": 5}
    assert Counter(p.source for p in pool.draw(8)) == {"a": 4, "b": 4}


def test_a_source_with_a_weight_must_have_prompts():
    with pytest.raises(ContraposeError, match=r"data\.weights: b has no prompt left"):
        PromptPool(mixed(a=3), Thresholds(), weights={"a": 1, "b": 1})


def test_a_draw_that_the_cache_begins_ends_with_the_epoch():
    pool = PromptPool(prompts(3), Thresholds())
    first, *_ = pool.draw(3)
    pool.put_back([first])
    assert pool.draw(3) == [first]


def test_when_a_source_is_spent_the_others_fill_the_draw():
    pool = PromptPool(mixed(a=30, b=3), Thresholds(), weights={"a": 1, "b": 1})
    assert Counter(p.source for p in pool.draw(20)) == {"a": 17, "b": 3}
    for i in range(3):
        pool.judge(group(Prompt(f"b/{i}", "", ""), K))
    assert {p.source for p in pool.draw(9)} == {"a"}


def test_without_weights_all_prompts_are_alike():
    pool = PromptPool(mixed(a=30, b=10), Thresholds(), seed=4)
    assert Counter(p.source for p in pool.draw(40)) == {"a": 30, "b": 10}


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 10, 13])
def test_every_prompt_is_drawn_once_an_epoch(count):
    pool = PromptPool(prompts(10), Thresholds(), seed=5)
    for _ in range(3):
        drawn = []
        while len(drawn) < 10:
            drawn += [p.id for p in pool.draw(count)]
        assert sorted(drawn) == sorted(p.id for p in pool.prompts())


def test_epochs_are_different_permutations():
    pool = PromptPool(prompts(20), Thresholds(), seed=5)
    epochs = rounds(pool, 20, 4)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)


def test_the_order_is_a_function_of_the_seed():
    orders = [rounds(PromptPool(prompts(20), Thresholds(), seed=seed), 7, 6) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_a_draw_holds_prompts_once_and_the_prompts_themselves():
    given = prompts(5)
    pool = PromptPool(given, Thresholds())
    for _ in range(20):
        drawn = pool.draw(3)
        assert 1 <= len(drawn) <= 3
        assert len({p.id for p in drawn}) == len(drawn)
        assert all(p is given[int(p.id[1:])] for p in drawn)


def test_a_draw_across_the_end_of_an_epoch_repeats_none():
    pool = PromptPool(prompts(5), Thresholds(), seed=2)
    for _ in range(40):
        drawn = pool.draw(4)
        pool.put_back(drawn[:1])
        assert len({p.id for p in drawn}) == len(drawn)


@pytest.mark.parametrize("seed", range(8))
def test_a_cached_prompt_that_still_waits_in_the_epoch_comes_once_in_a_draw(seed):
    pool = PromptPool(prompts(4), Thresholds(), seed=seed)
    before = pool.draw(4)
    (started,) = pool.draw(1)  # a new epoch, in which the others still wait
    pool.put_back([p for p in before if p != started][:2])
    drawn = pool.draw(3)
    assert len({p.id for p in drawn}) == 3
    assert started not in drawn


def test_the_cache_is_drawn_first_and_once():
    pool = PromptPool(prompts(10), Thresholds())
    first = pool.draw(6)
    pool.put_back(first[2:5])
    after = pool.draw(4)
    assert [p.id for p in after[:3]] == [p.id for p in first[2:5]]
    assert after[3].id not in {p.id for p in first}
    assert not {p.id for p in pool.draw(3)} & {p.id for p in [*first, *after]}


def test_a_cache_larger_than_the_draw_is_kept_for_the_next():
    pool = PromptPool(prompts(10), Thresholds())
    surplus = [p.id for p in pool.draw(5)]
    pool.put_back(p for p in pool.prompts() if p.id in surplus)
    first, second = rounds(pool, 3, 2)
    assert sorted(first + second[:2]) == sorted(surplus)
    assert second[2] not in surplus


def test_without_a_cache_surplus_prompts_wait_for_the_next_epoch():
    pool = PromptPool(prompts(6), Thresholds(), cache=False)
    first = pool.draw(3)
    pool.put_back(first)
    assert not {p.id for p in pool.draw(3)} & {p.id for p in first}


def test_drawing_none_gives_none():
    assert PromptPool(prompts(2), Thresholds()).draw(0) == []


def test_prompts_must_have_ids_of_their_own():
    with pytest.raises(ContraposeError, match="share an id"):
        PromptPool([*prompts(3), prompts(1)[0]], Thresholds())


# --- how many to draw -------------------------------------------------------------------------------------------------


def test_needed_follows_the_share_accepted():
    pool = PromptPool(prompts(1), Thresholds())
    assert pool.needed(0) == 0
    assert pool.needed(10) == 20  # half, until something is known
    for _ in range(60):
        pool.observe(accepted=1, drawn=4)
    assert pool.needed(10) == pytest.approx(40, abs=1)
    for _ in range(60):
        pool.observe(accepted=4, drawn=4)
    assert pool.needed(10) in (10, 11)


def test_needed_is_bounded_when_nothing_is_accepted():
    pool = PromptPool(prompts(1), Thresholds())
    for _ in range(200):
        pool.observe(accepted=0, drawn=10)
    assert pool.needed(3) == 60


def test_needed_is_the_number_missing_when_all_are_trained():
    assert PromptPool(prompts(1), Thresholds(mode="none")).needed(7) == 7


# --- going on ---------------------------------------------------------------------------------------------------------


def live(pool, draws, start=0):
    """What a run does with a pool; returns everything it saw."""
    seen = []
    for i in range(start, start + draws):
        drawn = pool.draw(pool.needed(2))
        fates = [pool.judge(group(p, (hash_of(p.id) + i) % (K + 1))) for p in drawn]
        pool.observe(fates.count("train"), len(drawn))
        pool.put_back([p for p, fate in zip(drawn, fates, strict=True) if fate == "train"][1:])
        seen.append(([p.id for p in drawn], fates, pool.mastered, pool.needed(5)))
    return seen


def hash_of(text):
    return sum(text.encode())


@pytest.mark.parametrize("through_json", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 4, 9])
@pytest.mark.parametrize("weights", [None, {"a": 2.0, "b": 1.0}])
def test_a_restored_pool_goes_on_as_if_nothing_had_happened(stop, through_json, weights):
    def fresh():
        return PromptPool(mixed(a=30, b=10), Thresholds(patience=2), seed=3, weights=weights)

    whole = live(fresh(), 14)
    pool = fresh()
    assert live(pool, stop) == whole[:stop]
    state = pool.state_dict()
    if through_json:
        state = json.loads(json.dumps(state))
    restored = fresh()
    restored.load_state_dict(state)
    assert restored.state_dict() == pool.state_dict()
    assert live(restored, 14 - stop, stop) == whole[stop:]


def test_the_state_is_a_copy():
    pool = PromptPool(prompts(5), Thresholds(patience=2))
    pool.put_back(pool.draw(2))
    pool.judge(group(prompts(1)[0], K))
    state = pool.state_dict()
    frozen = json.dumps(state)
    other = PromptPool(prompts(5), Thresholds(patience=2))
    other.load_state_dict(state)
    other.draw(4)
    other.judge(group(prompts(1)[0], K))
    pool.draw(3)
    assert json.dumps(state) == frozen


def test_prompts_are_known_by_id_not_by_place():
    pool = PromptPool(prompts(8), Thresholds(), seed=2)
    for p in pool.draw(3):
        pool.judge(group(p, K))
    restored = PromptPool([Prompt("new", "0=", "0"), *reversed(prompts(8))], Thresholds(), seed=2)
    restored.load_state_dict(pool.state_dict())
    assert restored.mastered == 3
    assert [p.id for p in restored.draw(5)] == [p.id for p in pool.draw(5)]


@pytest.mark.parametrize("where", ["orders", "cache", "mastered", "mastered_visits"])
def test_a_state_that_names_absent_prompts_is_refused(where):
    state = PromptPool(prompts(4), Thresholds(patience=2)).state_dict()
    strange = {"mastered_visits": {"gone/1": 1}, "orders": {"": {"epoch": 0, "left": ["gone/1"], "turns": 0}}}
    state[where] = strange.get(where, ["gone/1"])
    pool = PromptPool(prompts(4), Thresholds(patience=2))
    with pytest.raises(ContraposeError, match=r"1 prompts? of the checkpoint .*gone/1") as error:
        pool.load_state_dict(state)
    assert "\n" not in str(error.value)
    assert pool.state_dict() == PromptPool(prompts(4), Thresholds(patience=2)).state_dict()


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of draws, verdicts, returns and restarts keeps the pool's promises."""

    @initialize(count=st.integers(1, 8), seed=st.integers(0, 3), cache=st.booleans(), patience=st.integers(1, 2))
    def start(self, count, seed, cache, patience):
        self.make = lambda: PromptPool(prompts(count), Thresholds(patience=patience), seed=seed, cache=cache)
        self.pool, self.count = self.make(), count
        self.cache: list[str] = []
        self.keeps = cache
        self.drawn: list[Prompt] = []
        self.gone: set[str] = set()

    @rule(count=st.integers(1, 6))
    def draw(self, count):
        if len(self.gone) == self.count:
            with pytest.raises(PoolExhausted):
                self.pool.draw(count)
            return
        drawn = self.pool.draw(count)
        ids = [p.id for p in drawn]
        self.drawn += [p for p in drawn if p not in self.drawn]
        assert 1 <= len(ids) <= count
        assert max(Counter(ids).values()) == 1
        assert not self.gone & set(ids)
        waiting = [i for i in dict.fromkeys(self.cache) if i not in self.gone]
        assert ids[: len(waiting)] == waiting[: len(ids)]
        self.cache = [i for i in waiting if i not in ids]

    @rule(correct=st.lists(st.integers(0, K), max_size=8))
    def judge(self, correct):
        for p, c in zip(self.drawn, correct, strict=False):
            if self.pool.judge(group(p, c)) == "mastered":
                self.gone.add(p.id)
                assert c >= 7

    @rule(skip=st.integers(0, 8))
    def put_back(self, skip):
        self.pool.put_back(self.drawn[skip:])
        if self.keeps:
            self.cache += [p.id for p in self.drawn[skip:] if p.id not in self.gone]
        self.drawn = []  # a prompt is put back once

    @rule()
    def restart(self):
        state = json.loads(json.dumps(self.pool.state_dict()))
        self.pool = self.make()
        self.pool.load_state_dict(state)

    @invariant()
    def mastery_only_grows(self):
        if hasattr(self, "pool"):
            assert self.pool.mastered == len(self.gone)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
