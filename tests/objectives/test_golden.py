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
    "grpo_seqmean_020_020": (
        ("grpo", {}),
        0.05353112,
        [0.0, 0.09768113, 0.0, -0.08791116, -0.10737494, 0.0, -0.09659073, 0.0],
    ),
}


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


def test_random_pair():
    """The drawn pair is found by its credit; the pair (0, 3) has known numbers."""
    logp, step = golden_step()
    arguments = {"trust": None, "margin": None, "contrast": "random_pair"}
    for seed in range(64):
        found = contrapose.credit("rence", logp, **step, **arguments, generator=torch.Generator().manual_seed(seed))
        if (found[0].abs().sum(1) > 0).tolist() == [True, False, False, True]:
            break
    else:
        pytest.fail("64 seeds never drew the pair (0, 3)")
    J = contrapose.value("rence", logp, **step, **arguments, generator=torch.Generator().manual_seed(seed))
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


def golden_batch():
    _, step = golden_step(0.0)
    return contrapose.Batch(
        old_logp_QKT=step["old_logp"],
        mask_QKT=step["mask"],
        reward_QK=step["reward"],
        correct_QK=step["correct"],
        present_QK=torch.ones(1, 4, dtype=torch.bool),
    )


def test_advantages():
    plan = contrapose.objective("grpo").plan(golden_batch())
    assert plan.advantage_QK[0].tolist() == pytest.approx([0.86363479, -0.95454372, 0.86363479, -0.77272587], abs=1e-8)
