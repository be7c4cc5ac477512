"""Groups that are decided stop early, and nothing else changes: fates, batch, weights; not on a slow grader either."""

import json
import random
from concurrent.futures import Future
from threading import Timer

import pytest

from contrapose.config import resolve
from contrapose.prompts.pool import PromptPool, Thresholds
from contrapose.rollout.sampler import Sampling
from contrapose.train.collect import collect
from contrapose.train.loop import train
from contrapose.train.measure import step_row
from contrapose.train.record import group_row, ledger_rows
from contrapose.train.run import Run
from contrapose.types import Prompt, Sampled
from contrapose.verify.verifier import Verifier
from contrapose.verify.workers import Workers
from train_scripted import by_prompt, rollout, verdict
from user import few_sums

K = 8
BANDS = [
    Thresholds(),
    Thresholds(t_easy=0.99),
    Thresholds(t_master=1.0),
    Thresholds(t_hard=0.25, t_easy=0.75, t_master=0.8),
    Thresholds(t_hard=-1.0, t_easy=0.5, t_master=0.3),
    Thresholds(require_correct=True, t_hard=-1.0, t_easy=1.0, t_master=1.0),
]


def whole_fates(thresholds, right, wrong, fault=False):
    """The fates of all ways to finish a group of ``K``, by looking at each."""
    open_ = K - right - wrong
    found = set()
    for more in range(open_ + 1):
        counts = [True] * (right + more) + [False] * (K - right - more)
        rho = sum(counts) / K
        if thresholds.require_correct and not any(counts):
            found.add("too_hard")
        elif rho > thresholds.t_master and not fault:
            found.add("mastered")
        elif rho <= thresholds.t_hard:
            found.add("too_hard")
        else:
            found.add("train" if rho <= thresholds.t_easy else "too_easy")
    return found


@pytest.mark.parametrize("fault", [False, True])
@pytest.mark.parametrize("thresholds", BANDS)
def test_a_group_is_decided_when_all_ways_to_finish_it_agree(thresholds, fault):
    for right in range(K + 1):
        for wrong in range(int(fault), K + 1 - right):
            verdicts = [verdict(True)] * right + [verdict(False)] * wrong
            if fault:
                verdicts[-1] = verdict(False, status="timeout")
            fates = whole_fates(thresholds, right, wrong, fault)
            expected = next(iter(fates)) if len(fates) == 1 and fates != {"train"} else None
            assert thresholds.decided(verdicts, K) == expected


def test_five_right_and_two_wrong_decide_and_so_do_seven_right():
    """ReNCE's own numbers: 4 of 8 are trained on, 7 of 8 are mastered."""
    decided = {
        (right, wrong): fate
        for right in range(K)
        for wrong in range(K - right)
        if (fate := Thresholds().decided([verdict(True)] * right + [verdict(False)] * wrong, K))
    }
    assert decided == {(5, 2): "too_easy", (7, 0): "mastered"}


@pytest.mark.parametrize("mode", ["none", "variance"])
def test_only_counts_of_right_answers_decide_early(mode):
    assert Thresholds(mode=mode).decided([verdict(True)] * 7, K) is None
    assert Thresholds(rho="argmax_literal").decided([verdict(True)] * 7, K) is None


class Timed:
    """Answers that end at scripted times; what is cancelled stands where the clock stands."""

    def __init__(self, seed=0):
        self.seed = seed
        self.asked = []

    def script(self, prompt, k):
        """``(length, right)`` of each rollout: lengths log-normal, right with the prompt's own chance."""
        rng = random.Random(f"{self.seed}/{prompt.id}")
        chance = rng.random()
        return [(1 + int(rng.lognormvariate(3, 1)), rng.random() < chance) for _ in range(k)]

    def generate(self, prompts, k, seed, sampling, cancelled=()):
        growing = {}
        for prompt in prompts:
            self.asked.append(prompt)
            for index, (length, right) in enumerate(self.script(prompt, k)):
                growing[prompt, index] = length, rf"\boxed{{{prompt.answer if right else -1}}}"
        for now in sorted({length for length, _ in growing.values()}):
            ended = [key for key, (length, _) in growing.items() if length == now]
            if step := [Sampled(*key, rollout(growing.pop(key)[1], [5] * now)) for key in ended]:
                yield step
            if cut := [key for key in growing if key[0].id in cancelled]:
                for key in cut:
                    del growing[key]
                yield [Sampled(*key, rollout("", [5] * now, "cancelled")) for key in cut]


def gathered(early_stop, thresholds=BANDS[0], seed=0):
    pool = PromptPool([Prompt(f"p{i}", f"problem {i}", str(i), tokens=(3,)) for i in range(400)], thresholds)
    engine = Timed(seed)
    settings = {"wanted": 40, "k": K, "seed": 0, "version": 0, "sampling": Sampling(), "refill": True, "max_rounds": 9}
    return engine, pool, collect(pool, engine, Verifier("format"), early_stop=early_stop, **settings)


def saved_by_enumeration(engine, thresholds):
    """Rollouts cancelled, tokens spent on them and tokens saved, group by group: no group knows of another."""
    count = spent = saved = 0
    for prompt in engine.asked:
        script = engine.script(prompt, K)
        for now in sorted(length for length, _ in script):
            over = [right for length, right in script if length <= now]
            fates = whole_fates(thresholds, sum(over), len(over) - sum(over))
            if len(fates) == 1 and fates != {"train"}:
                rest = [length for length, _ in script if length > now]
                count, spent, saved = count + len(rest), spent + now * len(rest), saved + sum(rest) - now * len(rest)
                break
    return count, spent, saved


@pytest.mark.parametrize("thresholds", BANDS)
def test_what_is_cancelled_is_what_an_enumeration_says(thresholds):
    for seed in range(3):
        engine, pool, drawn = gathered(True, thresholds, seed)
        _, other_pool, whole = gathered(False, thresholds, seed)
        assert [(g.prompt, fate, kept) for g, fate, kept in drawn.judged] == [
            (g.prompt, fate, kept) for g, fate, kept in whole.judged
        ]
        assert [(g.prompt, g.rollouts, g.cancelled) for g in drawn.accepted] == [
            (g.prompt, g.rollouts, ()) for g in whole.accepted
        ]
        assert pool.state_dict() == other_pool.state_dict()
        row, whole_row = (step_row(1, x, 0, None, []) for x in (drawn, whole))
        count, spent, saved = saved_by_enumeration(engine, thresholds)
        assert (row["cancelled_rollouts"], row["cancelled_tokens"]) == (count, spent)
        assert whole_row["generated_tokens"] - row["generated_tokens"] == saved
        assert whole_row["cancelled_rollouts"] == whole_row["saved_tokens"] == 0
        assert bool(count) == any(g.cancelled for g, _, _ in drawn.judged)


def test_every_token_is_accounted_for():
    _, pool, drawn = gathered(True, seed=1)
    row = step_row(1, drawn, 0, None, [])
    filtered = row["filtered_tokens"]
    assert set(filtered) == {"too_hard", "too_easy", "mastered"} and all(filtered.values())
    assert row["surplus_tokens"] > 0
    assert row["generated_tokens"] == row["kept_tokens"] + row["surplus_tokens"] + sum(filtered.values())
    ledger = list(ledger_rows(1, drawn, pool.thresholds))
    assert sum(r["tokens"] for r in ledger) == row["generated_tokens"]
    assert sum(r["tokens"] for r in ledger if r["fate"] == "mastered") == filtered["mastered"]
    early = {r["prompt"] for r in ledger if r.get("decided_early")}
    assert early == {g.prompt.id for g, _, _ in drawn.judged if g.cancelled}
    assert all(r["fate"] in ("too_easy", "mastered") for r in ledger if r.get("decided_early"))
    for group, fate, _ in drawn.judged:
        written = group_row(1, group, fate)
        assert written.get("cancelled", []) == [len(r.tokens) for r in group.cancelled]
        assert len(written["rollouts"]) + len(group.cancelled) == K


def test_a_cancelled_rollout_counts_as_the_rest_of_its_group():
    _, _, drawn = gathered(True)
    row = step_row(1, drawn, 0, None, [])
    shares = [g.correct / len(g.verdicts) for g, _, _ in drawn.judged]
    assert row["accuracy"] == pytest.approx(sum(shares) / len(shares))
    assert row["saved_tokens"] > 0


def test_what_was_saved_is_estimated_from_what_finished():
    """Cut short at 3 tokens, where others grew to 5 and 9: four more on average."""
    from contrapose.train.measure import _saved

    assert _saved([3, 9], [2, 5, 9]) == 4.0
    assert _saved([], [2]) == 0


def test_a_group_cut_short_while_it_is_open_is_an_error():
    _, _, drawn = gathered(True)
    group = next(g for g, _, _ in drawn.judged if g.cancelled)
    undecided = type(group)(group.prompt, group.rollouts[:2], group.verdicts[:2], group.cancelled * 6)
    with pytest.raises(ValueError, match="before its fate was decided"):
        Thresholds().fate(undecided)


def test_slow_verdicts_change_nothing(monkeypatch):
    """Cancelling waits for what is being graded, however long that takes."""
    _, pool, drawn = gathered(True)
    submit, rng = Workers.submit, random.Random(0)

    def late(self, gold, text):
        found, later = submit(self, gold, text), Future()
        Timer(0.005 * rng.random(), lambda: later.set_result(found.result())).start()
        return later

    monkeypatch.setattr(Workers, "submit", late)
    _, slow_pool, slow = gathered(True)
    assert [(g.prompt, g.rollouts, g.cancelled, f, k) for g, f, k in slow.judged] == [
        (g.prompt, g.rollouts, g.cancelled, f, k) for g, f, k in drawn.judged
    ]
    assert slow_pool.state_dict() == pool.state_dict()


def abacus(folder, early_stop, *overrides):
    """Weights, ledger and metrics of a run with or without early stopping."""
    settings = ["eval.data=''", "diagnose.every=0", f"filter.early_stop={str(early_stop).lower()}", *overrides]
    with few_sums(), Run(resolve("abacus", settings)[0], folder) as run:
        train(run)
        weights = run.finish() / "model.safetensors"
    ledger, metrics, rollouts = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("ledger", "metrics", "rollouts")
    )
    trained = [row for row in rollouts if row["fate"] == "train"]
    fates = [(row["step"], row["prompt"], row["fate"], row.get("surplus")) for row in ledger]
    return weights.read_bytes(), fates, trained, metrics, ledger


@pytest.mark.parametrize(("steps", "scale"), [(8, 2), pytest.param(20, 32, marks=pytest.mark.slow)])
def test_a_run_of_abacus_is_the_same_with_and_without(tmp_path, steps, scale):
    size = [f"steps={steps}", f"batch.prompts={scale}", f"batch.updates={max(1, scale // 8)}", "optim.lr=3e-4"]
    weights, fates, trained, metrics, ledger = abacus(tmp_path / "on", True, *size)
    weights_off, fates_off, trained_off, metrics_off, _ = abacus(tmp_path / "off", False, *size)
    assert len(metrics) == steps
    assert weights == weights_off
    assert fates == fates_off
    assert trained == trained_off
    spent, spent_off = (sum(row["generated_tokens"] for row in rows) for rows in (metrics, metrics_off))
    assert sum(row["cancelled_rollouts"] for row in metrics) == sum("decided_early" in row for row in ledger) > 0
    assert spent < spent_off
    assert [row["kept_tokens"] for row in metrics] == [row["kept_tokens"] for row in metrics_off]


def test_the_engine_cancels_between_decode_steps():
    """What is cancelled ends at the length of the step, and the others are what they would have been."""
    from contrapose.rollout.decode import EmbeddedEngine
    from models import tiny, tokenizer

    prompts = [Prompt(f"p{i}", "", "", tokens=(5 + i, 9, 3)) for i in range(4)]
    engine, sampling = EmbeddedEngine(tiny("qwen3"), tokenizer(), (1, 7, 30)), Sampling(max_tokens=24)
    whole = by_prompt(engine.generate(prompts, 4, 0, sampling))
    cancelled, steps, at = set(), [], 0
    for step in engine.generate(prompts, 4, 0, sampling, cancelled):
        steps.append(step)
        if not cancelled and any(s.prompt.id == "p2" for s in step):
            cancelled.add("p2")
            at = len(step[0].rollout.tokens)
    found = by_prompt(steps)
    for other in ("p0", "p1", "p3"):
        assert [r.tokens for r in found[other]] == [r.tokens for r in whole[other]]
    cut = [r for r in found["p2"] if r.finished == "cancelled"]
    assert cut and all(len(r.tokens) == at for r in cut)
    for short, full in zip(found["p2"], whole["p2"], strict=True):
        assert short.tokens == (full.tokens[:at] if short.finished == "cancelled" else full.tokens)
