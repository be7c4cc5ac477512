"""Numbers worked out once for one hand-made group; they pin every objective's value and credit to 1e-8."""

import math

import pytest
import torch

import contrapose

LENGTHS = [2, 3, 1, 2]
OLD = [[-0.5, -1.0], [-0.2, -0.7, -1.5], [-0.9], [-0.4, -0.6]]
NEW = [[-0.3, -1.1], [-0.5, -0.6, -1.2], [-0.45], [-0.4, -1.1]]

GOLDEN = {
    "rence_no_kl": (
        ("rence", {"trust": None}),
        -1.40403448,
        [0.03788085, 0.03788085, -0.03979117, -0.03979117, -0.03979117, 0.03755660, -0.03564629, -0.03564629],
    ),
    "rence_lambda_1": (
        ("rence", {"kl_coef": 1.0}),
        -1.44740085,
        [0.01020551, 0.04977617, -0.00739344, -0.05293753, -0.08352352, -0.03348242, -0.03564629, 0.01353738],
    ),
    "rence_no_margin": (
        ("rence", {"trust": None, "margin": None}),
        -1.06752736,
        [0.03300340, 0.03300340, -0.03378987, -0.03378987, -0.03378987, 0.03260856, -0.03182210, -0.03182210],
    ),
    "rence_const_margin": (
        ("rence", {"trust": None, "margin": "constant"}),
        -1.42214572,
        [0.03809929, 0.03809929, -0.03907697, -0.03907697, -0.03907697, 0.03777900, -0.03680131, -0.03680131],
    ),
    "rence_softmax_pos": (
        ("rence", {"trust": None, "margin": None, "contrast": "softmax"}),
        -1.36312438,
        [0.02485785, 0.02485785, -0.02514215, -0.02514215, -0.02514215, 0.02396229, -0.02367799, -0.02367799],
    ),
    "pairs_all": (
        ("rence", {"trust": None, "margin": None, "contrast": "all_pairs"}),
        -0.66982987,
        [0.02462511, 0.02462511, -0.02478127, -0.02478127, -0.02478127, 0.02418797, -0.02403181, -0.02403181],
    ),
    "conspo_tau10_m01": (
        ("conspo", {"progress": 1.0}),
        -10.87107870,
        [0.16639795, 0.16639795, -0.11037430, -0.11037430, -0.11037430, 0.33000224, -0.16583762, -0.16583762],
    ),
    "conspo_tau1_m01": (
        ("conspo", {"tau": 1.0, "progress": 1.0}),
        -0.98830406,
        [0.16396217, 0.16396217, -0.10357118, -0.10357118, -0.10357118, 0.29872467, -0.15796774, -0.15796774],
    ),
    "conspo_linear": (
        ("conspo", {"contrast": "linear"}),
        0.09166667,
        [0.125, 0.125, -0.08333333, -0.08333333, -0.08333333, 0.25, -0.125, -0.125],
    ),
    "conspo_clipped_ratio_tau1": (
        ("conspo", {"tau": 1.0, "score": "clipped_ratio", "progress": 1.0}),
        -1.02122374,
        [0.0, 0.14849473, 0.0, -0.12864716, -0.15713000, 0.0, -0.14511531, 0.0],
    ),
    "disco_logL_T10": (
        ("disco", {"hinge": 0.0}),
        0.18332986,
        [0.25, 0.25, -0.16652778, -0.16652778, -0.16652778, 0.5, -0.25020833, -0.25020833],
    ),
    "disco_Lratio_T1": (
        ("disco", {"score": "ratio", "hinge": 0.0}),
        0.37288495,
        [0.30535069, 0.22620935, -0.13955339, -0.20818920, -0.25428286, 0.78415609, -0.21743394, -0.13188035],
    ),
    "discob_logL": (
        ("disco_b", {"hinge": 0.0}),
        0.18333333,
        [0.25, 0.25, -0.16666667, -0.16666667, -0.16666667, 0.5, -0.25, -0.25],
    ),
    "grpo_seqmean_020_020": (
        ("grpo", {}),
        0.05353112,
        [0.0, 0.09768113, 0.0, -0.08791116, -0.10737494, 0.0, -0.09659073, 0.0],
    ),
    "dapo_token_020_028": (
        ("dapo", {}),
        -0.19452840,
        [0.13185574, 0.09768113, 0.0, -0.13186674, -0.16106241, 0.0, -0.09659073, 0.0],
    ),
    "drgrpo_const10": (
        ("dr_grpo", {"length": 10}),
        -0.02260232,
        [0.0, 0.01074494, 0.0, -0.01450537, -0.01771690, 0.0, -0.01062500, 0.0],
    ),
    "gspo_3e-4_4e-4": (
        ("gspo", {}),
        -0.00785791,
        [0.0, 0.0, -0.08224151, -0.08224151, -0.08224151, 0.0, 0.0, 0.0],
    ),
    "gmpo_040": (
        ("gmpo", {}),
        0.14418837,
        [0.11348929, 0.11348929, -0.08224151, -0.08224151, -0.08224151, 0.0, -0.07908180, 0.0],
    ),
    "cispo_cap1.2": (
        ("cispo", {"cap": 1.2}),
        0.19360627,
        [0.12954522, 0.09768113, -0.08839292, -0.13186674, -0.14318156, 0.12954522, -0.09659073, -0.05858524],
    ),
    "sapo_1_1.05": (
        ("sapo", {}),
        0.19625468,
        [0.13025299, 0.09746032, -0.05785087, -0.08764370, -0.10383239, 0.31267825, -0.09659073, -0.05615474],
    ),
    "rloo": (
        ("rloo", {}),
        0.32208333,
        [0.15833333, 0.15833333, -0.175, -0.175, -0.175, 0.15833333, -0.14166667, -0.14166667],
    ),
}
GOLDEN["dpo_all_pairs"] = (("dpo", {}), *GOLDEN["pairs_all"][1:])
GOLDEN["dapo_one_group"] = (("dapo", {"aggregate": "token_mean_group"}), *GOLDEN["dapo_token_020_028"][1:])


def padded(rows, fill):
    return torch.tensor([[row + [fill] * (3 - len(row)) for row in rows]], dtype=torch.float64)


def golden_step(fill=math.nan):
    return padded(NEW, fill), {
        "old_logp": padded(OLD, fill),
        "mask": padded([[1.0] * n for n in LENGTHS], 0.0),
        "reward": torch.tensor([[1.0, 0.0, 1.0, 0.1]], dtype=torch.float64),
        "correct": torch.tensor([[True, False, True, False]]),
    }


@pytest.mark.parametrize("fill", [0.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("case", GOLDEN)
def test_value_and_credit(case, fill):
    (name, arguments), J, weights = GOLDEN[case]
    logp, step = golden_step(fill)
    found = contrapose.credit(name, logp, **step, **arguments)
    assert contrapose.value(name, logp, **step, **arguments).item() == pytest.approx(J, abs=1e-8)
    assert found[step["mask"] == 1].tolist() == pytest.approx(weights, abs=1e-8)
    assert (found[step["mask"] == 0] == 0).all()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("rence", {"trust": None, "margin": None, "contrast": "random_pair"}), ("dpo", {"contrast": "random_pair"})],
)
def test_random_pair(name, arguments):
    """The drawn pair is found by its credit; the pair (0, 3) has known numbers."""
    logp, step = golden_step()
    for seed in range(64):
        found = contrapose.credit(name, logp, **step, **arguments, generator=torch.Generator().manual_seed(seed))
        if (found[0].abs().sum(1) > 0).tolist() == [True, False, False, True]:
            break
    else:
        pytest.fail("64 seeds never drew the pair (0, 3)")
    J = contrapose.value(name, logp, **step, **arguments, generator=torch.Generator().manual_seed(seed))
    assert J.item() == pytest.approx(-0.66359711, abs=1e-8)
    weights = [0.04850045, 0.04850045, 0.0, 0.0, 0.0, 0.0, -0.04850045, -0.04850045]
    assert found[step["mask"] == 1].tolist() == pytest.approx(weights, abs=1e-8)
    assert (found[step["mask"] == 0] == 0).all()


@pytest.mark.parametrize(
    ("aggregate", "kl"), [("token_mean", 0.04336637), ("sequence_sum", 0.08673274), ("sequence", 0.05879617)]
)
def test_kl_to_the_old_policy(aggregate, kl):
    logp, step = golden_step()
    without = contrapose.value("rence", logp, **step, trust=None)
    penalised = contrapose.value("rence", logp, **step, kl_coef=1.0, kl_aggregate=aggregate)
    assert (without - penalised).item() == pytest.approx(kl, abs=1e-8)


@pytest.mark.parametrize("name", ["disco", "disco_b"])
@pytest.mark.parametrize(("swapped", "kl"), [(False, -0.01875), (True, 0.01875)])
def test_the_mean_of_k1(name, swapped, kl):
    """Read off DisCO's hinge. The golden policy has moved up on its samples, so it is inactive; the way back is not."""
    logp, step = golden_step()
    if swapped:
        logp, step["old_logp"] = step["old_logp"], logp
    without = contrapose.value(name, logp, **step, hinge=0.0)
    for delta in (0.0, 0.01):
        penalised = contrapose.value(name, logp, **step, hinge=1e6, delta=delta)
        seen = math.sqrt((without - penalised).item() / (1e6 / 2))
        assert seen == pytest.approx(max(kl - delta, 0.0), abs=1e-8)


def golden_batch():
    _, step = golden_step(0.0)
    return contrapose.Batch(
        old_logp_QKT=step["old_logp"],
        mask_QKT=step["mask"],
        reward_QK=step["reward"],
        correct_QK=step["correct"],
        present_QK=torch.ones(1, 4, dtype=torch.bool),
    )


@pytest.mark.parametrize(
    ("name", "arguments", "advantages"),
    [
        *[
            (name, {}, [0.86363479, -0.95454372, 0.86363479, -0.77272587])
            for name in ("grpo", "dapo", "gspo", "gmpo", "cispo", "sapo")
        ],
        ("dr_grpo", {"length": 10}, [0.475, -0.525, 0.475, -0.425]),
        ("rloo", {}, [19 / 30, -21 / 30, 19 / 30, -17 / 30]),
        ("reinforce", {}, [1.0, 0.0, 1.0, 0.1]),
    ],
)
def test_advantages(name, arguments, advantages):
    plan = contrapose.objective(name, **arguments).plan(golden_batch())
    assert plan.advantage_QK[0].tolist() == pytest.approx(advantages, abs=1e-8)
