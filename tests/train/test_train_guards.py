"""What is not finite never reaches a weight, and an engine that samples from other weights is caught in time."""

import copy
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import contrapose
from contrapose.objectives.diagnose import scored
from contrapose.objectives.trust import kl_seen
from contrapose.objectives.zoo import ZOO, objective
from contrapose.policy.logprobs import LogProbs
from contrapose.report.metrics import UPDATE
from contrapose.rollout.decode import EmbeddedEngine
from contrapose.rollout.engine import StaleEngine
from contrapose.rollout.sampler import Sampling
from contrapose.train.collate import Minibatch, collate
from contrapose.train.folders import damage
from contrapose.train.guards import MAX_DRIFT, NumericalStop, check_drift, check_skips, dump, engine_logp
from contrapose.train.measure import skipped_row, update_row
from contrapose.train.passes import Passes
from contrapose.train.update import Updated, update
from contrapose.types import Group, Prompt
from contrapose.verify.grading import Grading
from contrapose.verify.verifier import Verifier
from models import PLAIN, tiny, tokenizer
from train_scripted import by_prompt, rollout, verdict

NAN, INF = math.nan, math.inf
K = 4


def group(number, right=(True, False, False, True), tokens=(5, 6, 1)):
    prompt = Prompt(f"p{number}", f"problem {number}", "1", tokens=(3, number + 2))
    return Group(prompt, (rollout("text", tokens),) * len(right), tuple(map(verdict, right)))


GROUPS = (group(0), group(1, tokens=(7, 8)), group(2, (True, False, False, False)))


class Case:
    """A tiny policy with its optimizer, a batch it is ready to learn from, and an objective."""

    def __init__(self, name="rence", groups=GROUPS, **settings):
        self.model = tiny("qwen3", vocab=20)
        self.passes = Passes(LogProbs(self.model), 64)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batch, _ = collate(groups, self.passes, reference=self.passes)
        self.objective = objective(name, **settings)
        self.now = self.objective.start()

    def with_batch(self, **fields):
        self.batch = replace(self.batch, batch=replace(self.batch.batch, **fields))
        return self

    def update(self) -> Updated:
        parts = self.passes, self.optimizer, self.objective, self.batch, self.now
        return update(*parts, fresh=False, clip=1.0)

    def tensors(self):
        moments = [x for state in self.optimizer.state.values() for x in state.values()]
        return [*self.model.parameters(), *moments]

    def row(self, done):
        kl = kl_seen(done.pushed.logp_QKT, done.plan)
        found = scored(self.objective, done.pushed.logp_QKT, done.plan, self.now)
        return update_row(self.objective, done.plan, done.pushed, found, self.now, kl, done.norm)


def put(x, at, value):
    x = x.clone()
    x[at] = value
    return x


def replacing(value):
    """The head gives ``value`` for one logit of every position."""
    return lambda module, given, logits: put(logits, (..., 2), value)


def nan_logits(case):
    case.model.lm_head.register_forward_hook(replacing(NAN))


def inf_logits(case):
    case.model.lm_head.register_forward_hook(replacing(INF))


def nan_while_learning(case):
    """The pass without grad is sound, that with grad is not."""
    states = case.passes.logprobs.states

    def broken(rows):
        found = states(rows)
        return replace(found, state_ME=found.state_ME * NAN) if torch.is_grad_enabled() else found

    case.passes.logprobs.states = broken


def nan_reward(case):
    case.with_batch(reward_QK=put(case.batch.batch.reward_QK, (1, 2), NAN))


def inf_reward(case):
    case.with_batch(reward_QK=put(case.batch.batch.reward_QK, (2, 0), INF))


def nan_old_logp(case):
    case.with_batch(old_logp_QKT=put(case.batch.batch.old_logp_QKT, (2, 3, 1), NAN))


def nan_reference(case):
    case.with_batch(reference_logp_QKT=put(case.batch.batch.reference_logp_QKT, (0, 1, 2), NAN))


def inf_weight_of_a_token(case):
    case.batch = replace(case.batch, token_weight_QKT=put(torch.ones(3, K, 3), (0, 0, 1), INF))


def inf_gradient(case):
    case.model.lm_head.weight.register_hook(lambda grad: put(grad, (3, 4), -INF))


def gradient_beyond_squares(case):
    case.model.model.norm.weight.register_hook(lambda grad: put(grad, 5, -1e30))


SKIPPED = {
    nan_logits: r"the log-prob of token 0 of rollout 0 of 'p0' is nan",
    inf_logits: r"the log-prob of token 0 of rollout 0 of 'p0' is nan",
    nan_while_learning: r"the (gradient of \S+|log-prob of token 0 of rollout 0 of 'p0') is nan",
    nan_reward: r"the reward of rollout 2 of 'p1' is nan",
    inf_reward: r"the reward of rollout 0 of 'p2' is inf",
    nan_old_logp: r"the old log-prob of token 1 of rollout 3 of 'p2' is nan",
    nan_reference: r"the reference's log-prob of token 2 of rollout 1 of 'p0' is nan",
    inf_weight_of_a_token: r"the credit of token 1 of rollout 0 of 'p0' is -?inf",
    inf_gradient: r"the gradient of lm_head\.weight is -inf",
    gradient_beyond_squares: r"the gradient of model\.norm\.weight is 1e\+30",
}


@pytest.mark.parametrize("name", ["rence", "conspo", "grpo"])
@pytest.mark.parametrize("inject", SKIPPED, ids=lambda f: f.__name__)
def test_a_fault_is_named_and_costs_one_update(inject, name):
    """No weight moves, and neither the optimizer nor a later backward pass hears of it."""
    case = Case(name)
    before = copy.deepcopy(case.model.state_dict())
    inject(case)
    fault = case.update().fault
    assert re.fullmatch(SKIPPED[inject], str(fault))
    assert all(p.grad is None for p in case.model.parameters())
    assert not case.optimizer.state
    assert all(torch.equal(x, before[key]) for key, x in case.model.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(ZOO) - {"dr_grpo"}))
@pytest.mark.parametrize("inject", [nan_reward, inf_reward, nan_logits], ids=lambda f: f.__name__)
def test_no_objective_takes_a_step_on_it(inject, name):
    """Whether an objective looks at rewards or at correctness, and whether it needs a first pass."""
    case = Case(name)
    inject(case)
    assert case.update().fault is not None
    assert not case.optimizer.state


HARMLESS = {
    "an empty group": ((*GROUPS[:2], group(2, tokens=())), {}),
    "nothing but empty completions": (tuple(group(q, tokens=()) for q in range(3)), {}),
    "an empty completion": ((replace(GROUPS[0], rollouts=(rollout("", ()), *GROUPS[0].rollouts[1:])), *GROUPS[1:]), {}),
    "an all-positive group": ((group(0, (True,) * K), *GROUPS[1:]), {}),
    "all-positive groups": (tuple(group(q, (True,) * K) for q in range(3)), {}),
    "an all-negative group": ((group(0, (False,) * K), *GROUPS[1:]), {}),
    "all-negative groups": (tuple(group(q, (False,) * K) for q in range(3)), {}),
    "a log-ratio of 700": (GROUPS, {"shift": -700.0}),
    "a log-ratio of -700": (GROUPS, {"shift": 700.0}),
    "a KL spike": (GROUPS, {"shift": -30.0}),
    "entropy 0": (GROUPS, {"sharpness": 1e6}),
}


@pytest.mark.parametrize("fresh_objective", [("rence", {"kl_coef": 1.0}), ("conspo", {"tau": 1e-6}),
                                             ("grpo", {}), ("disco", {})], ids=str)  # fmt: skip
@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_odd_but_finite_does_no_harm(case, fresh_objective):
    """Two updates in a row: everything stays finite, what the metrics say included."""
    name, settings = fresh_objective
    groups, odd = HARMLESS[case]
    case = Case(name, groups, **settings)
    if "sharpness" in odd:
        with torch.no_grad():
            case.model.lm_head.weight *= odd["sharpness"]
    case.with_batch(old_logp_QKT=case.batch.batch.old_logp_QKT + odd.get("shift", 0.0) * case.batch.batch.mask_QKT)
    for _ in range(2):
        done = case.update()
        assert done.fault is None
        row = case.row(done)
        assert all(x is None or math.isfinite(x) for x in row.values())
        assert row.keys() == {key for key in UPDATE if not key.endswith("_after")}
        if case.objective.trust:
            case.now = case.objective.trust.adapt(
                case.now, kl_seen(done.pushed.logp_QKT, done.plan), done.plan.totals.rollouts
            )
            assert math.isfinite(case.now.kl_coef)
    assert all(x.isfinite().all() for x in case.tensors())
    assert len(case.optimizer.state) > 0


@pytest.mark.parametrize(("groups", "moves"), [(GROUPS, True), (HARMLESS["all-positive groups"][0], False),
    (HARMLESS["all-negative groups"][0], False), (HARMLESS["nothing but empty completions"][0], False)])  # fmt: skip
@pytest.mark.parametrize("name", ["rence", "conspo", "grpo"])
def test_what_teaches_nothing_has_no_credit(groups, moves, name):
    assert bool(Case(name, groups).update().pushed.credit_QKT.any()) == moves


def test_log_ratios_are_measured_before_they_are_clamped():
    case = Case()
    far = put(case.batch.batch.old_logp_QKT, (1, 1, 0), -700.0)
    row = case.with_batch(old_logp_QKT=far).row(case.update())
    assert 690 < row["log_ratio_max"] <= 700
    assert row["log_ratio_99"] == row["log_ratio_max"]  # 32 tokens: the 99 % quantile is the largest
    assert row["skipped"] is None


@pytest.mark.parametrize(("reply", "status"), [("nan", "crashed"), ("two", "crashed")])
def test_a_reward_that_is_no_number_never_leaves_the_grader(reply, status):
    """A user's function that says nan, or more than 1: the answer counts as wrong, and its verdict says why."""
    found = Verifier("format", grading=Grading("grader_functions:act", "text")).grade("1", f"return {reply}")
    assert (found.status, found.reward, found.correct) == (status, 0.1, False)


def corrupt(name, at):
    def inject(case):
        with torch.no_grad():
            dict(case.model.named_parameters())[name][at] = NAN

    return inject


@pytest.mark.parametrize(
    ("name", "at"), [("model.layers.1.mlp.up_proj.weight", (2, 3)), ("model.embed_tokens.weight", (19, 0))]
)
def test_a_weight_that_is_not_finite_stops_the_run(name, at):
    """One that shows in every log-prob, and one of a token that nobody used."""
    case = Case()
    corrupt(name, at)(case)
    with pytest.raises(
        NumericalStop, match=rf"a weight of {name} is nan, and nothing was saved since the last checkpoint"
    ) as error:
        case.update()
    assert error.value.exit_code == 5


def test_a_step_that_breaks_a_weight_stops_the_run():
    case = Case()
    case.optimizer.param_groups[0]["lr"] = INF
    with pytest.raises(NumericalStop, match=r"a weight of model\.embed_tokens\.weight is (nan|-?inf)"):
        case.update()


def test_a_third_skip_within_twenty_updates_stops_the_run(tmp_path):
    def entries(pattern):
        return [{"skipped": "the credit is nan" if c == "x" else None} for c in pattern]

    for fine in ("", "x", "xx", "x" + 18 * "." + "x", "xx" + 18 * "." + "x", ("x" + 9 * ".") * 9):
        check_skips(entries(fine), tmp_path)
    check_skips([{}] * 30, tmp_path)  # rows of a version that did not count
    for bad in ("xxx", "xx" + 17 * "." + "x", "." * 99 + "x.x.x"):
        with pytest.raises(NumericalStop, match=f"3 of the last .*the credit is nan: see {tmp_path}, and lower"):
            check_skips(entries(bad), tmp_path)


def test_the_entry_of_a_skipped_update_has_every_key():
    case = Case()
    nan_old_logp(case)
    row = skipped_row(case.update().fault)
    assert row.pop("skipped") == "the old log-prob of token 1 of rollout 3 of 'p2' is nan"
    assert row == dict.fromkeys(UPDATE.keys() - {"skipped"})


@pytest.mark.parametrize("name", ["rence", "conspo", "grpo"])
def test_the_dump_is_enough_to_find_the_fault_again(tmp_path, name):
    case = Case(name, (*GROUPS[:2], group(2, tokens=(9,))))
    inf_weight_of_a_token(case)
    done = case.update()
    arguments = (tmp_path, 12, 3, done.fault, case.batch, done.pushed, case.now)
    folder = dump(*arguments, {"objective": {"name": name}})
    assert folder == tmp_path / "faults" / "step-000012-update-03"
    told = json.loads((folder / "fault.json").read_text())
    assert told["line"] == str(done.fault) == f"the credit of token 1 of rollout 0 of 'p0' is {told['value']}"
    assert (told["prompt"], told["rollout"], told["token"]) == ("p0", 0, 1)
    assert [g["problem"] for g in told["groups"]] == ["problem 0", "problem 1", "problem 2"]
    assert {r["text"] for g in told["groups"] for r in g["rollouts"]} == {"text"}
    held = load_file(folder / "batch.safetensors")
    assert torch.equal(held["engine_logp"], -held["mask"])  # as scripted
    assert held["tokens"].split(held["tokens_lengths"].tolist())[K].tolist() == [7, 8]
    assert held["prompt_tokens"].split(held["prompt_tokens_lengths"].tolist())[2].tolist() == [3, 4]
    given = {key: held[key] for key in ("old_logp", "mask", "reward", "correct", "present", "token_weight")}
    credit = contrapose.credit(
        told["settings"]["objective"]["name"], held["logp"], **given, reference_logp=held["reference_logp"],
        progress=told["progress"], **({"kl_coef": told["kl_coef"]} if case.objective.trust else {}),
    )  # fmt: skip
    torch.testing.assert_close(credit, held["credit"], rtol=0, atol=0)
    assert (~credit.isfinite()).nonzero().tolist() == [[0, 0, 1]]
    assert dump(*arguments, {}) == folder  # a resumed run meets it again
    assert [f.name for f in folder.parent.iterdir()] == [folder.name]
    assert damage(folder) is None


PROMPTS = [Prompt(f"p{i}", "", "", tokens=(3, *range(4, 5 + i))) for i in range(4)]


def drawn(engine, k=K, seed=0):
    """Groups whose verdicts alternate."""
    found = by_prompt(engine.generate(PROMPTS, k, seed, Sampling(max_tokens=16)))
    return [Group(p, found[p.id], tuple(verdict(i % 2 == 0) for i in range(k))) for p in PROMPTS]


def batch_of(engine, model) -> Minibatch:
    return collate(drawn(engine), Passes(LogProbs(model), 1024))[0]


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize(("dtype", "room"), [("float64", 50), ("float32", 50), ("bfloat16", 5)])
def test_an_honest_engine_is_far_within_the_canarys_reach(family, dtype, room):
    model = tiny(family).to(getattr(torch, dtype))
    batch = batch_of(EmbeddedEngine(model, tokenizer(), (1, 7)), model)
    drift = drift_of(batch, model.dtype, 1)
    assert 0 < room * drift < MAX_DRIFT[model.dtype]


class Never(EmbeddedEngine):
    """Says that it took the weights, and keeps those it began with."""

    def sync(self, model, version):
        self.version = version
        self.take(model)

    def take(self, model):
        self.model = self.model if self.version else copy.deepcopy(model)


class Half(Never):
    """Takes every other tensor."""

    def take(self, model):
        mine = self.model.state_dict() if self.version else {}
        self.model = copy.deepcopy(model)
        self.model.load_state_dict({**model.state_dict(), **dict(list(mine.items())[::2])})


class Late(Never):
    """Takes the weights of the sync before."""

    def take(self, model):
        self.model = self.next if self.version else copy.deepcopy(model)
        self.next = copy.deepcopy(model)


def drift_of(batch, dtype, step=1):
    """As of a batch whose old log-probs are the trainer's."""
    return check_drift(batch, batch.batch.old_logp_QKT, dtype, step)


def after_one_update(engine_type, lr, dtype=torch.float32):
    """What the canary sees before the first update, and after it."""
    model = tiny("qwen3").to(dtype)
    engine = engine_type(model, tokenizer(), (1, 7))
    logprobs, built = LogProbs(model), objective("rence")
    engine.sync(model, 0)
    batch = batch_of(engine, model)
    drift_of(batch, dtype, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    update(Passes(logprobs, 1024), optimizer, built, batch, built.start(), fresh=True, clip=1.0)
    engine.sync(model, 1)
    return batch_of(engine, model)


@pytest.mark.parametrize("sabotaged", [Never, Half, Late])
@pytest.mark.parametrize(("lr", "dtype"), [(1e-4, "float32"), (1e-4, "float64"), (1e-5, "float32"), (1e-2, "bfloat16")])
def test_an_engine_that_lies_about_its_weights_is_caught_before_the_next_update(sabotaged, lr, dtype):
    batch = after_one_update(sabotaged, lr, getattr(torch, dtype))
    with pytest.raises(
        StaleEngine, match=r"step 2: the engine's log-probs are \S+ nats .*rollout \d of 'p\d'"
    ) as error:
        drift_of(batch, getattr(torch, dtype), 2)
    assert error.value.exit_code == 69


def test_what_is_below_the_canarys_reach():
    """An update that moves log-probs by less than its bound: only the version can tell. In bfloat16 this is much."""
    assert drift_of(after_one_update(Never, 1e-7), torch.float32, 2) < MAX_DRIFT[torch.float32]
    assert drift_of(after_one_update(Never, 1e-4, torch.bfloat16), torch.bfloat16, 2) < MAX_DRIFT[torch.bfloat16]


def test_the_canary_names_the_worst_rollout_and_sees_trained_tokens_alone():
    model = tiny("qwen3")
    batch = batch_of(EmbeddedEngine(model, tokenizer(), (1, 7)), model)
    worst = replace(batch.groups[3].rollouts[2], logp=tuple(x - 3 for x in batch.groups[3].rollouts[2].logp))
    rollouts = (*batch.groups[3].rollouts[:2], worst, *batch.groups[3].rollouts[3:])
    groups = (*batch.groups[:3], replace(batch.groups[3], rollouts=rollouts), *batch.groups[4:])
    with pytest.raises(StaleEngine, match=r"rollout 2 of 'p3' \(3\)"):
        drift_of(replace(batch, groups=groups), model.dtype, 1)
    hidden = replace(batch.batch, mask_QKT=put(batch.batch.mask_QKT, (3, 2), 0.0))
    assert drift_of(replace(batch, groups=groups, batch=hidden), model.dtype, 1) < 1e-5


def test_an_engine_that_says_nan_is_refused_and_a_trainer_that_does_is_another_matter():
    model = tiny("qwen3")
    batch = batch_of(EmbeddedEngine(model, tokenizer(), (1, 7)), model)
    first = batch.groups[0]
    silent = replace(first.rollouts[1], logp=(NAN,) * len(first.rollouts[1].tokens))
    groups = (replace(first, rollouts=(first.rollouts[0], silent, *first.rollouts[2:])), *batch.groups[1:])
    with pytest.raises(StaleEngine, match=r"nan nats .*rollout 1 of 'p0' \(inf\)"):
        drift_of(replace(batch, groups=groups), model.dtype, 1)
    broken = replace(batch.batch, old_logp_QKT=put(batch.batch.old_logp_QKT, (0, 0, 0), NAN))
    assert drift_of(replace(batch, batch=broken), model.dtype, 1) < 1e-5


def test_the_engines_own_log_probs_are_found_again():
    model = tiny("qwen3")
    batch = batch_of(EmbeddedEngine(model, tokenizer(), (1, 7)), model)
    stated = [r.logp for g in batch.groups for r in g.rollouts]
    for found, expected in zip(engine_logp(batch).flatten(0, 1), stated, strict=True):
        torch.testing.assert_close(found[: len(expected)], torch.tensor(expected), rtol=0, atol=0)
        assert not found[len(expected) :].any()
