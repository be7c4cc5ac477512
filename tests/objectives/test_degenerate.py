"""Groups at the edge, numbers at the edge, parts of a step, and what the public functions say of bad arguments."""

import inspect
import math
import re
import subprocess
import sys

import pytest
import textbook
import torch
from textbook import EVERY_KIND

import contrapose
from contrapose.objectives.advantage import ZScore
from contrapose.objectives.aggregate import token_sum
from contrapose.objectives.contrast import Linear
from contrapose.objectives.credit import credit_of
from contrapose.objectives.plan import Totals
from contrapose.objectives.score import LogRatio
from contrapose.objectives.trust import KLOld

D = torch.float64
CONTRASTS = {
    "rence": ("rence", {"trust": None}),
    "rence softmax": ("rence", {"trust": None, "contrast": "softmax"}),
    "rence all pairs": ("rence", {"trust": None, "contrast": "all_pairs"}),
    "rence random pair": ("rence", {"trust": None, "contrast": "random_pair"}),
    "conspo": ("conspo", {}),
    "conspo linear": ("conspo", {"contrast": "linear", "margin": None}),
    "conspo clipped_ratio": ("conspo", {"score": "clipped_ratio"}),
    "grpo": ("grpo", {}),
}
MEAN_SCORED = [case for case in CONTRASTS if not case.startswith("rence")]


def group(reward, length=None, T=3, seed=0, dtype=D):
    """One whole group: ``(logp, the rest)``."""
    reward = torch.tensor([reward], dtype=dtype)
    length = torch.full(reward.shape, T) if length is None else torch.tensor([length])
    step = textbook.step_of(length, reward, torch.ones_like(reward, dtype=torch.bool), seed, T)
    step = {key: x.to(dtype) if x.is_floating_point() else x for key, x in step.items()}
    return step.pop("logp"), step


@pytest.mark.parametrize("case", CONTRASTS)
@pytest.mark.parametrize("same", [1.0, 0.1, 0.0])
def test_a_group_of_equal_rewards_has_no_contrast(case, same):
    """All correct, all boxed but wrong, all wrong."""
    name, arguments = CONTRASTS[case]
    logp, step = group([same] * 4)
    assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()
    assert contrapose.value(name, logp, **step, **arguments) == 0


@pytest.mark.parametrize("same", [1.0, 0.0])
@pytest.mark.parametrize(
    ("name", "arguments"), [("rence", {"kl_coef": 0.5}), ("grpo", {"reference_coef": 0.5})], ids=["old", "reference"]
)
def test_the_trust_region_acts_on_dead_groups(name, arguments, same):
    logp, step = group([same] * 4)
    mask = step["mask"] == 1
    found = contrapose.credit(name, logp, **step, **arguments)
    if name == "rence":
        expected = -0.5 * torch.expm1(logp - step["old_logp"]) / mask.sum()
    else:
        expected = -0.5 * (1 - (step["reference_logp"] - logp).exp()) / step["mask"].sum(-1, keepdim=True) / 4
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-10, atol=0)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("case", CONTRASTS)
def test_a_dead_group_still_counts(case):
    """Beside a dead group, a live one gets half of its credit: the step has two prompts."""
    name, arguments = CONTRASTS[case]
    logp, step = group([1.0, 0.0, 0.0, 1.0])
    dead_logp, dead = group([0.0] * 4, seed=1)
    both = {key: torch.cat([step[key], dead[key]]) for key in step}
    seed = {"generator": torch.Generator().manual_seed(0)} if "random_pair" in arguments.values() else {}
    alone = contrapose.credit(name, logp, **step, **arguments, **seed)
    if seed:
        seed["generator"].manual_seed(0)
    beside = contrapose.credit(name, torch.cat([logp, dead_logp]), **both, **arguments, **seed)
    torch.testing.assert_close(beside[:1], alone / 2, rtol=1e-12, atol=0)
    assert (beside[1] == 0).all()


@pytest.mark.parametrize("right", [1, 7])
@pytest.mark.parametrize("case", CONTRASTS)
def test_one_against_many(case, right):
    """A single positive is pulled and a single negative pushed as hard as all the others together."""
    name, arguments = CONTRASTS[case]
    logp, step = group([1.0] * right + [0.0] * (8 - right))
    step["mask"] = torch.ones_like(step["mask"])
    logp, step["old_logp"] = logp.nan_to_num(-1.0), step["old_logp"].nan_to_num(-1.0)
    per_rollout = contrapose.credit(name, logp, old_logp=logp, **without(step, "old_logp"), **arguments).sum(-1)[0]
    assert (per_rollout[:right] >= 0).all() and (per_rollout[right:] <= 0).all()
    alone, rest = (per_rollout[:1], per_rollout[1:]) if right == 1 else (per_rollout[-1:], per_rollout[:-1])
    assert alone.abs().item() == pytest.approx(rest.abs().sum().item(), rel=1e-10)
    assert alone.abs() > 0.01


def without(step, *keys):
    return {key: x for key, x in step.items() if key not in keys}


def test_the_advantage_of_one_in_eight():
    """A+ = sqrt((1-p)/p), A- = -sqrt(p/(1-p))."""
    _, step = group([1.0] + [0.0] * 7)
    plan = contrapose.objective("grpo", std_ddof=0, std_eps=0.0).plan(batch_of(step))
    assert plan.advantage_QK[0].tolist() == pytest.approx([math.sqrt(7)] + [-math.sqrt(1 / 7)] * 7, rel=1e-12)


def batch_of(step):
    return contrapose.Batch(
        old_logp_QKT=step["old_logp"],
        mask_QKT=step["mask"],
        reward_QK=step["reward"],
        correct_QK=step["correct"],
        present_QK=step["present"],
        reference_logp_QKT=step["reference_logp"],
    )


def test_ties_at_the_best_are_all_positive():
    """Within 1e-6 of the best reward is best; 1e-5 below is not."""
    _, step = group([1.0, 1.0 - 5e-7, 1.0 - 1e-5, 0.1])
    assert contrapose.objective("rence").plan(batch_of(step)).side_QK[0].tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("rewards", [[0.3, 0.1 + 0.2], [0.5, 0.5 + 9e-7], [1e-9, 0.0]])
def test_rounding_noise_makes_no_advantage(rewards):
    logp, step = group(rewards)
    for name, arguments in (("grpo", {"std_eps": 0.0}), ("grpo", {"std_eps": 1e-8}), ("rence", {"trust": None})):
        assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()


@pytest.mark.parametrize("positives", ["best", "correct"])
def test_a_group_whose_best_is_boxed_but_wrong(positives):
    """``best`` trains the box, ``correct`` trains nothing."""
    logp, step = group([0.1, 0.0, 0.0, 0.1])
    found = contrapose.credit("rence", logp, **step, positives=positives, trust=None)[0].sum(-1)
    if positives == "correct":
        assert (found == 0).all()
    else:
        assert found[[0, 3]].min() > 0 > found[[1, 2]].max()
    assert (contrapose.credit("conspo", logp, **step) == 0).all()
    on_policy = contrapose.credit("grpo", logp, **without(step, "old_logp"))[0].sum(-1)
    assert on_policy[[0, 3]].min() > 0.1 and on_policy[[1, 2]].max() < -0.1


def test_the_format_alone_pulls_almost_as_hard():
    """With ``best``, a 0.1 among zeros gets 0.4316 where a 1 among 0.1 and 0 gets 0.4531."""
    logp = torch.zeros(1, 8, 1, dtype=D)
    found = contrapose.credit("rence", logp, reward=torch.tensor([[0.1] * 2 + [0.0] * 6]), beta=1.0, trust=None)
    assert found[0, 0].item() == pytest.approx(0.4316, abs=5e-5)


def test_grpo_of_a_single_rollout():
    """With K = 1 there is nothing to compare: no advantage, whatever ddof."""
    for ddof in (0, 1):
        logp, step = group([1.0])
        assert (contrapose.credit("grpo", logp, **step, std_ddof=ddof) == 0).all()
        assert contrapose.value("grpo", logp, **step, std_ddof=ddof) == 0


@pytest.mark.parametrize("case", CONTRASTS)
def test_an_empty_completion_has_no_score(case):
    """It is pushed nowhere. Contrasts leave it out; the z-score and the count of rollouts keep it."""
    name, arguments = CONTRASTS[case]
    logp, step = group([1.0, 0.0, 0.1, 1.0, 0.0], length=[2, 3, 1, 2, 0])
    seed = {"generator": torch.Generator().manual_seed(3)} if case == "rence random pair" else {}
    found = contrapose.credit(name, logp, **step, **arguments, **seed)
    assert (found[0, 4] == 0).all()
    dropped = {key: x[:, :4] for key, x in step.items()}
    if "linear" in case or name == "grpo":
        _, expected = getattr(textbook, name)({"logp": logp, **step}, **arguments)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=D), rtol=1e-10, atol=0)
        assert not torch.allclose(found[:, :4], contrapose.credit(name, logp[:, :4], **dropped, **arguments))
    elif case != "rence random pair":  # the lots fall differently
        expected = contrapose.credit(name, logp[:, :4], **dropped, **arguments)
        torch.testing.assert_close(found[:, :4], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", ["rence", "rence softmax", "rence all pairs", "rence random pair", "conspo"])
@pytest.mark.parametrize("length", [[0, 3, 3], [3, 0, 0]])
def test_a_side_of_empty_completions_is_no_side(case, length):
    name, arguments = CONTRASTS[case]
    logp, step = group([1.0, 0.0, 0.0], length=length)
    assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()


@pytest.mark.parametrize("case", EVERY_KIND)
def test_a_step_of_nothing_but_empty_completions(case):
    name, arguments = EVERY_KIND[case]
    logp, step = group([1.0, 0.0, 0.1], length=[0, 0, 0])
    assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()
    assert contrapose.value(name, logp, **step, **arguments).isfinite()


@pytest.mark.parametrize("case", EVERY_KIND)
def test_a_step_of_absent_rollouts(case):
    name, arguments = EVERY_KIND[case]
    logp, step = group([1.0, 0.0, 0.1])
    step["present"] = torch.zeros(1, 3, dtype=torch.bool)
    assert (contrapose.credit(name, logp, **step, **arguments) == 0).all()
    assert contrapose.value(name, logp, **step, **arguments) == 0


@pytest.mark.parametrize("case", EVERY_KIND)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_what_lies_under_a_zero_mask_does_not_matter(case, junk):
    name, arguments = EVERY_KIND[case]
    step = textbook.ragged(20, Q=3, K=5)
    hidden = step["mask"] == 0
    for key in ("old_logp", "reference_logp", "logp"):
        step[key] = step[key].nan_to_num(-1.0)
    clean = contrapose.credit(name, step["logp"], **without(step, "logp"), **arguments)
    for key in ("old_logp", "reference_logp", "logp"):
        step[key] = step[key].masked_fill(hidden, junk)
    found = contrapose.credit(name, step["logp"], **without(step, "logp"), **arguments)
    assert torch.equal(found, clean)
    assert (found[hidden] == 0).all()
    assert contrapose.value(name, step["logp"], **without(step, "logp"), **arguments).isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", EVERY_KIND)
@pytest.mark.parametrize("swap", [1, -1])
def test_extreme_log_ratios_stay_finite(case, dtype, swap):
    name, arguments = EVERY_KIND[case]
    old = torch.full((1, 4, 3), -1.0, dtype=dtype)
    moved = swap * torch.tensor([700.0, -700.0, 700.0, -700.0], dtype=dtype).view(1, 4, 1)
    kw = {"reward": torch.tensor([[1.0, 1.0, 0.0, 0.1]]), "reference_logp": old}
    assert contrapose.credit(name, old + moved, old_logp=old, **kw, **arguments).isfinite().all()
    assert contrapose.value(name, old + moved, old_logp=old, **kw, **arguments).isfinite()


@pytest.mark.parametrize("case", EVERY_KIND)
def test_dtypes_are_kept(case):
    name, arguments = EVERY_KIND[case]
    step = textbook.ragged(21, Q=3, K=5)
    exact = contrapose.credit(name, step["logp"], **without(step, "logp"), **arguments)
    single = contrapose.credit(name, step["logp"].float(), **without(step, "logp"), **arguments)
    assert (exact.dtype, single.dtype) == (torch.float64, torch.float32)
    assert contrapose.value(name, step["logp"].float(), **without(step, "logp"), **arguments).dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", EVERY_KIND)
def test_chunks_change_nothing(case, monkeypatch):
    name, arguments = EVERY_KIND[case]
    step = textbook.ragged(22, Q=5, K=4)
    logp, step = step["logp"], without(step, "logp")
    whole = contrapose.credit(name, logp, **step, **arguments)
    J = contrapose.value(name, logp, **step, **arguments).item()
    monkeypatch.setattr("contrapose.objectives.credit.CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(contrapose.credit(name, logp, **step, **arguments), whole, rtol=1e-13, atol=1e-16)
    assert contrapose.value(name, logp, **step, **arguments).item() == pytest.approx(J, rel=1e-12)


@pytest.mark.parametrize("cut", [1, 3, 4])
@pytest.mark.parametrize("case", EVERY_KIND)
def test_parts_with_the_totals_of_the_whole_add_up(case, cut):
    name, arguments = EVERY_KIND[case]
    step = textbook.ragged(23, Q=5, K=4)
    totals = Totals(prompts=textbook.prompts(step), rollouts=textbook.rollouts(step), tokens=int(step["mask"].sum()))
    logp, step = step["logp"], without(step, "logp")
    parts = [(logp[at], {key: x[at] for key, x in step.items()}) for at in (slice(cut), slice(cut, None))]
    credits = [contrapose.credit(name, x, **part, **arguments, totals=totals) for x, part in parts]
    values = [contrapose.value(name, x, **part, **arguments, totals=totals) for x, part in parts]
    whole = contrapose.credit(name, logp, **step, **arguments)
    torch.testing.assert_close(torch.cat(credits), whole, rtol=1e-12, atol=1e-16)
    assert sum(values).item() == pytest.approx(contrapose.value(name, logp, **step, **arguments).item(), rel=1e-12)
    alone = contrapose.credit(name, parts[0][0], **parts[0][1], **arguments)
    assert not torch.allclose(alone, whole[:cut])


@pytest.mark.parametrize(
    "objective",
    [
        contrapose.objective("grpo"),
        contrapose.objective("grpo", reference_coef=0.5, dual_clip=1.5),
        contrapose.objective("conspo", contrast="linear"),
        contrapose.objective("conspo", contrast="linear", score="clipped_ratio"),
        contrapose.Objective(token_sum, LogRatio(0.1), None, Linear(ZScore()), KLOld(coef=0.5, aggregate="sequence")),
    ],
    ids=["grpo", "grpo reference", "conspo linear", "conspo linear clipped_ratio", "sequence kl"],
)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_single_rollouts_give_the_credit_of_the_whole(objective, size):
    """Where no factor couples a group, its rollouts may be cut apart, shuffled and shortened to their length."""
    step = textbook.ragged(24, Q=4, K=5, absent=0.0)
    logp = step["logp"].nan_to_num(0.0)
    plan = objective.plan(batch_of(step))
    whole, J = credit_of(objective, logp, plan, objective.start())
    found, total = torch.zeros_like(logp).flatten(0, 1), 0.0
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for rows in order.split(size):
        used = (step["mask"].flatten(0, 1)[rows] == 1).any(0).nonzero()
        width = int(used.max()) + 1 if len(used) else 1
        live = logp.flatten(0, 1)[rows, :width].unsqueeze(1)
        part, part_J = credit_of(objective, live, plan.rollouts(rows, width), objective.start())
        found[rows, :width] = part.squeeze(1)
        total += part_J
    torch.testing.assert_close(found.view_as(whole), whole, rtol=1e-12, atol=1e-16)
    assert total.item() == pytest.approx(J.item(), rel=1e-12)


def test_credit_leaves_no_trace():
    """The result is detached, works without grad, and its arguments are as they were."""
    logp, step = group([1.0, 0.0, 0.1])
    logp.requires_grad_()
    before = {key: x.clone() for key, x in step.items()}
    with torch.no_grad():
        found = contrapose.credit("rence", logp, **step)
    assert not found.requires_grad and found.abs().max() > 0
    assert not contrapose.value("rence", logp, **step).requires_grad
    assert logp.grad is None
    for key, x in before.items():
        torch.testing.assert_close(step[key], x, rtol=0, atol=0, equal_nan=True)


def test_token_weights_scale_the_credit_alone():
    logp, step = group([1.0, 0.0, 0.1])
    weight = torch.rand(logp.shape, generator=torch.Generator().manual_seed(0), dtype=D)
    found = contrapose.credit("rence", logp, **step, token_weight=weight)
    assert torch.equal(found, weight * contrapose.credit("rence", logp, **step))
    weighted = contrapose.value("rence", logp, **step, token_weight=weight)
    assert weighted == contrapose.value("rence", logp, **step)


def test_arguments_that_may_be_left_out():
    """``correct`` is reward >= 1, ``reward`` is ``correct``, everything is masked in; bool and int will do."""
    logp = -torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=D)
    right = torch.tensor([[True, False, True], [False, False, True]])
    full = {"reward": right.to(D), "correct": right, "mask": torch.ones_like(logp)}
    for name in ("rence", "conspo", "grpo"):
        expected = contrapose.credit(name, logp, **full)
        for kw in (
            {"correct": right},
            {"reward": right.to(D)},
            {"reward": right.int()},
            {"correct": right, "mask": torch.ones(2, 3, 4, dtype=torch.bool)},
            {"correct": right.int(), "present": torch.ones(2, 3, dtype=torch.int)},
        ):
            assert torch.equal(contrapose.credit(name, logp, **kw), expected)
    boxed = torch.where(right, 1.0, 0.1)
    assert torch.equal(contrapose.credit("conspo", logp, reward=boxed), contrapose.credit("conspo", logp, **full))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "text"),
    [
        ("renc", {}, ValueError, "objective: 'renc' is unknown (did you mean 'rence'?)"),
        ("rence", {"btea": 0.1}, TypeError, "objective.btea: not a hyper-parameter of rence (did you mean 'beta'?)"),
        ("conspo", {"warm_up": 0.1}, TypeError, "did you mean 'warmup'?"),
        ("grpo", {"tau": 1.0}, TypeError, "objective.tau: not a hyper-parameter of grpo"),
        ("rence", {"contrast": "softmx"}, ValueError, "objective.contrast: 'softmx' is not a choice"),
        ("rence", {"contrast": "softmx"}, ValueError, "did you mean 'softmax'?"),
        ("rence", {"contrast": None}, ValueError, "objective.contrast: None is not a choice"),
        ("rence", {"margin": "reward_gaps"}, ValueError, "did you mean 'reward_gap'?"),
        ("rence", {"positives": "corect"}, ValueError, "did you mean 'correct'?"),
        ("rence", {"trust": "k1"}, ValueError, "did you mean 'kl'?"),
        ("rence", {"kl_aggregate": "token_men"}, ValueError, "did you mean 'token_mean'?"),
        ("conspo", {"margin": "cosin"}, ValueError, "did you mean 'cosine'?"),
        ("conspo", {"score": "logprob"}, ValueError, "did you mean 'log_prob'?"),
        ("conspo", {"contrast": "liner"}, ValueError, "did you mean 'linear'?"),
    ],
)
def test_bad_names_are_answered_with_the_nearest(name, arguments, error, text):
    with pytest.raises(error) as caught:
        contrapose.objective(name, **arguments)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    logp, step = group([1.0, 0.0])
    with pytest.raises(error):
        contrapose.credit(name, logp, **step, **arguments)


def test_a_name_like_no_other_is_answered_with_all():
    with pytest.raises(ValueError, match=r"one of: .*rence.*conspo.*grpo"):
        contrapose.objective("zzzz")


def test_hyper_parameters_go_with_a_name():
    logp, step = group([1.0, 0.0])
    built = contrapose.objective("rence", beta=0.3)
    assert torch.equal(contrapose.credit(built, logp, **step), contrapose.credit("rence", logp, **step, beta=0.3))
    with pytest.raises(TypeError, match="beta"):
        contrapose.credit(built, logp, **step, beta=0.3)


def test_a_reward_is_needed():
    with pytest.raises(TypeError, match="reward"):
        contrapose.credit("rence", torch.zeros(1, 2, 3))


def test_a_reference_is_needed():
    logp, step = group([1.0, 0.0])
    with pytest.raises(ValueError, match="reference_logp"):
        contrapose.credit("grpo", logp, **without(step, "reference_logp"), reference_coef=0.1)


@pytest.mark.parametrize("name", ["rence", "conspo", "grpo"])
@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("mask", (3, 3, 2)),
        ("mask", (3, 3)),
        ("old_logp", (2, 3, 3)),
        ("old_logp", (3, 3)),
        ("reward", (3, 2)),
        ("reward", (3, 3, 3)),
        ("correct", (3,)),
        ("correct", (3, 3, 3)),
        ("present", (2, 3)),
        ("present", (3, 3, 3)),
        ("reference_logp", (3, 3)),
    ],
)
def test_shapes_are_checked(name, key, shape):
    """Q = K = T = 3, so that a tensor of the wrong rank would broadcast into nonsense."""
    logp = torch.full((3, 3, 3), -1.0)
    kw = {"reward": torch.eye(3), key: torch.ones(shape)}
    with pytest.raises(ValueError, match="expected"):
        contrapose.credit(name, logp, **kw)


def test_log_probs_have_three_dimensions():
    with pytest.raises(ValueError, match="expected"):
        contrapose.credit("rence", torch.zeros(2, 3), reward=torch.ones(3))


def test_the_catalogue():
    catalogue = contrapose.objectives()
    assert " ".join(catalogue) == (
        "rence conspo grpo dapo dr_grpo gspo gmpo cispo sapo disco disco_b dpo rloo reinforce"
    )
    for name, info in catalogue.items():
        assert info.name == name
        assert "\n" not in info.paper + info.credit + info.disagreement
        assert re.search(r"\((arXiv \d{4}\.\d{5}|Williams 1992)", info.paper)
        assert "J = " in info.equation and info.credit and info.disagreement
        assert set(info.factors) == set(info.kinds) == {"aggregate", "score", "margin", "contrast", "trust"}
        assert all(isinstance(x, str) and x for x in info.factors.values())
        assert all("0x" not in x and "nan" not in x for x in info.factors.values())
        needed = dict.fromkeys(info.required, 10)
        assert contrapose.objective(name, **needed, **info.defaults) == contrapose.objective(name, **needed)
    assert catalogue["rence"].defaults["beta"] == 0.1
    assert catalogue["conspo"].factors["aggregate"] == "rollout_mean"
    assert catalogue["grpo"].factors["margin"] == catalogue["conspo"].factors["trust"] == "-"
    assert catalogue["grpo"].factors["contrast"] == "Linear(ZScore(ddof=1, eps=1e-06), of='reward')"
    assert catalogue["rloo"].kinds["contrast"] == "Linear(leave_one_out)"
    assert (catalogue["dr_grpo"].required, catalogue["dr_grpo"].factors["aggregate"]) == (
        ("length",),
        "ConstantLength(length)",
    )


def test_the_catalogue_is_also_the_package():
    assert inspect.ismodule(contrapose.objectives)
    assert contrapose.objectives.credit.credit is contrapose.credit


def test_the_public_names():
    assert set(contrapose.__all__) <= set(dir(contrapose))
    for name in contrapose.__all__:
        assert getattr(contrapose, name) is not None
    with pytest.raises(AttributeError, match="credits"):
        _ = contrapose.credits


def test_importing_contrapose_does_not_import_torch():
    code = "import sys, contrapose; dir(contrapose); print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("rence", {"beta": "fast"}),
        ("rence", {"beta": True}),
        ("rence", {"beta": 0.0}),
        ("rence", {"kl_target": 0}),
        ("rence", {"kl_horizon": -1.0}),
        ("rence", {"kl_coef": float("nan")}),
        ("rence", {"margin": 3}),
        ("conspo", {"tau": 0.0}),
        ("conspo", {"tau": -1.0}),
        ("conspo", {"epsilon": 2.0}),
        ("grpo", {"std_ddof": 0.5}),
        ("grpo", {"std_ddof": 2}),
        ("grpo", {"clip_low": None}),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused_by_name(name, hyperparameters):
    with pytest.raises((TypeError, ValueError)) as refused:
        contrapose.objective(name, **hyperparameters)
    assert "objective" in str(refused.value)


def test_a_coefficient_without_a_trust_region_is_refused():
    with pytest.raises(ValueError, match="kl_coef"):
        contrapose.credit("grpo", torch.zeros(1, 2, 3), reward=torch.tensor([[1.0, 0.0]]), kl_coef=0.5)


def test_half_precision_is_widened_inside():
    """The credit of bfloat16 log-probs is that of the same numbers in float32, rounded once."""
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(2, 4, 1500, generator=generator).to(torch.bfloat16)
    reward = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    found = contrapose.credit("conspo", logp, reward=reward, tau=0.1)
    exact = contrapose.credit("conspo", logp.float(), reward=reward, tau=0.1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.to(torch.bfloat16), rtol=0, atol=0)
