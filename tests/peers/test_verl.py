"""verl's own losses and advantages against our credit, on the same random batch: equal, or different in a named way.

The batch goes through ``ppo_loss`` with a real ``ActorConfig``: the policy loss by its name, its aggregation and its
KL are all verl's, in float64. A group may have fewer rollouts than another.
"""

import batches
import numpy as np
import pytest
import torch
from batches import UNEQUAL_GROUPS as STEP
from batches import advantage, clip, differ, length, log_ratio, ours, same

import contrapose

pytestmark = pytest.mark.slow

core = pytest.importorskip("verl.trainer.ppo.core_algos")
losses = pytest.importorskip("verl.workers.utils.losses")
config = pytest.importorskip("verl.workers.config")
tensordict = pytest.importorskip("tensordict")

N, TOKENS = int(STEP["present"].sum()), float(STEP["mask"].sum())
SPLITS = [(N,), (1, 7, N - 8)]
"""In one micro-batch, and in three of unequal size, which cut the groups."""


def rows_of(step):
    """Each tensor at the rollouts that are there, ``[N, ...]``."""
    return {key: x[step["present"]] for key, x in step.items()}


def advantages(step, estimator="grpo", **settings):
    """``[N, T]`` by verl; a reward stands on its rollout's last token."""
    rows = rows_of(step)
    reward = torch.zeros_like(rows["mask"])
    reward[:, -1] = rows["reward"]
    group = np.nonzero(step["present"].numpy())[0]
    return core.get_adv_estimator_fn(estimator)(reward, rows["mask"], group, **settings)[0]


def theirs(step, loss_mode, loss_agg_mode, *, A=None, sizes=None, told=True, **settings):
    """``-dloss/dlogp``, ``[Q, K, T]``, summed over micro-batches of these sizes.

    Their engine tells each micro-batch the tokens and rollouts of the whole; here it may keep silent.
    """
    rows = rows_of(step)
    rows["advantages"] = advantages(step) if A is None else A
    logp = rows["logp"].clone().requires_grad_()
    actor = config.ActorConfig(
        strategy="fsdp2",
        rollout_n=step["mask"].shape[1],
        use_dynamic_bsz=True,
        policy_loss=config.PolicyLossConfig(loss_mode=loss_mode),
        loss_agg_mode=loss_agg_mode,
        **settings,
    )
    tokens, rollouts = (float(rows["mask"].sum()), len(logp)) if told else (None, None)
    at, loss = 0, 0.0
    for size in sizes or [len(logp)]:
        part = slice(at, at := at + size)
        output = torch.cat([logp[part], logp[part, :1] * 0.0], 1)  # a prompt of one token comes first
        data = {
            "prompts": torch.zeros(len(output), 1),
            "responses": torch.zeros(len(output), logp.shape[1]),
            "attention_mask": torch.ones(output.shape, dtype=torch.long),
            "response_mask": rows["mask"][part],
            "old_log_probs": rows["old_logp"][part],
            "ref_log_prob": rows["reference_logp"][part],
            "advantages": rows["advantages"][part],
        }
        data = tensordict.TensorDict(data, batch_size=[len(output)])
        for key, x in {"dp_size": 1, "batch_num_tokens": tokens, "global_batch_size": rollouts}.items():
            data.set_non_tensor(key, x)
        loss = loss + losses.ppo_loss(actor, {"log_probs": output.flatten()}, data)[0]
    assert at == len(logp)
    found = torch.zeros_like(step["logp"])
    found[step["present"]] = -torch.autograd.grad(loss, logp)[0]
    return found


def clip_ratio(low, high, dual=1e12):
    """All three are on by default, at 0.2, 0.2 and 3."""
    return {"clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": dual}


SEQUENCE, TOKEN = "seq-mean-token-mean", "token-mean"
GRPO, DAPO = clip_ratio(0.2, 0.2), clip_ratio(0.2, 0.28)
CASES = {
    "grpo": ("vanilla", SEQUENCE, GRPO, "grpo", {}),
    "grpo dual clip": ("vanilla", SEQUENCE, clip_ratio(0.2, 0.2, 1.4), "grpo", {"dual_clip": 1.4}),
    "grpo asymmetric": ("vanilla", SEQUENCE, clip_ratio(0.1, 0.35), "grpo", clip(0.1, 0.35)),
    "grpo reference": (
        "vanilla",
        SEQUENCE,
        GRPO | {"use_kl_loss": True, "kl_loss_coef": 0.3},
        "grpo",
        {"reference_coef": 0.3},
    ),
    "dapo": ("vanilla", TOKEN, DAPO, "dapo", {}),
    "dapo dual clip": ("vanilla", TOKEN, clip_ratio(0.2, 0.28, 1.5), "dapo", {"dual_clip": 1.5}),
    "gspo": ("gspo", SEQUENCE, clip_ratio(3e-4, 4e-4), "gspo", {}),
    "gspo wide": ("gspo", SEQUENCE, clip_ratio(0.1, 0.2), "gspo", clip(0.1, 0.2)),
    "cispo": ("cispo", TOKEN, clip_ratio(10.0, 0.2), "cispo", {"cap": 1.2}),
    "sapo": ("sapo", SEQUENCE, {}, "sapo", {}),
    "sapo whatever the aggregation": ("sapo", TOKEN, {}, "sapo", {}),
    "sapo sharp": (
        "sapo",
        SEQUENCE,
        {"tau_pos": 0.5, "tau_neg": 3.0},
        "sapo",
        {"tau_positive": 0.5, "tau_negative": 3.0},
    ),
}
"""Their loss, aggregation and settings, our name and hyper-parameters."""


@pytest.mark.parametrize("sizes", SPLITS, ids=["whole", "micro-batches"])
@pytest.mark.parametrize("case", CASES)
def test_equal(case, sizes):
    loss, aggregate, settings, name, hyperparameters = CASES[case]
    same(theirs(STEP, loss, aggregate, sizes=sizes, **settings), ours(name, STEP, **hyperparameters))


@pytest.mark.parametrize("sizes", SPLITS, ids=["whole", "micro-batches"])
def test_dr_grpo_with_a_constant(sizes):
    A = advantages(STEP, norm_adv_by_std_in_grpo=False)
    found = theirs(STEP, "vanilla", "seq-mean-token-sum-norm", A=A, sizes=sizes, loss_scale_factor=7, **GRPO)
    same(found, ours("dr_grpo", STEP, length=7))


@pytest.mark.parametrize("more", [0, 3])
def test_dr_grpo_otherwise_divides_by_the_padded_width(more):
    step = {key: torch.nn.functional.pad(x, (0, more)) if x.dim() == 3 else x for key, x in STEP.items()}
    A = advantages(step, norm_adv_by_std_in_grpo=False)
    found = theirs(step, "vanilla", "seq-mean-token-sum-norm", A=A, **GRPO)
    same(found, ours("dr_grpo", step, length=9 + more))


@pytest.mark.parametrize("estimator", ["rloo", "rloo_vectorized"])
def test_rloo(estimator):
    found = theirs(STEP, "gpg", "seq-mean-token-sum", A=advantages(STEP, estimator))
    same(found, ours("rloo", STEP))


def test_reinforce():
    A = rows_of(STEP)["reward"].unsqueeze(1).expand(N, 9)
    same(theirs(STEP, "gpg", "seq-mean-token-sum", A=A), ours("reinforce", STEP))


def test_vectorized_advantages_are_float32():
    same(advantages(STEP, "grpo_vectorized").double(), advantages(STEP), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", ["grpo", "grpo_vectorized", "rloo"])
def test_a_rollout_alone_has_its_reward_for_advantage(estimator):
    """0 here, and in their ``rloo_vectorized``: there is nothing to compare with."""
    alone = {key: x[:, :1] for key, x in STEP.items()}
    alone["reward"] = torch.full_like(alone["reward"], 0.5)
    same(advantages(alone, estimator).double(), 0.5 * rows_of(alone)["mask"], rtol=1e-5)
    assert not advantages(alone, "rloo_vectorized").any()
    assert not any(ours(name, alone).any() for name in ("grpo", "rloo"))


def test_rounding_becomes_an_advantage():
    """Rewards 1e-8 apart are worth 1e-2 there, and nothing here."""
    step = batches.NEARLY_EQUAL_REWARDS
    found = advantages(step).view(step["mask"].shape)
    assert found.abs().max() > 1e-2
    same(found, advantage(step, 1e-6).unsqueeze(-1) * step["mask"], rtol=1e-6)
    assert not ours("grpo", step).any()


def test_their_default_is_dapo_with_a_dual_clip():
    step = batches.step(3, std=0.9)
    here = ours("dapo", step, clip_high=0.2, dual_clip=3.0)
    same(theirs(step, "vanilla", TOKEN, told=False), here)
    differ(here, ours("dapo", step, clip_high=0.2))


def test_left_untold_a_micro_batch_is_its_own_whole():
    """A sum of means, one a micro-batch; the engine's totals are what makes it one mean."""
    sizes = SPLITS[1]
    found = theirs(STEP, "vanilla", TOKEN, sizes=sizes, told=False, **DAPO)[STEP["present"]]
    tokens = torch.cat([part.sum().expand(len(part)) for part in rows_of(STEP)["mask"].split(sizes)])
    same(found, ours("dapo", STEP)[STEP["present"]] * (TOKENS / tokens).view(-1, 1))


def test_left_untold_an_empty_completion_does_not_count():
    empty = int((rows_of(STEP)["mask"].sum(1) == 0).sum())
    assert empty > 0
    same(theirs(STEP, "vanilla", SEQUENCE, told=False, **GRPO), ours("grpo", STEP) * N / (N - empty))


@pytest.mark.parametrize("aggregate", [SEQUENCE, TOKEN])
@pytest.mark.parametrize("sizes", SPLITS, ids=["whole", "micro-batches"])
def test_gmpo_is_a_mean_over_the_micro_batch(sizes, aggregate):
    """Whatever it is told; summed over micro-batches, the smaller one's rollouts weigh more."""
    found = theirs(STEP, "geo_mean", aggregate, sizes=sizes, **clip_ratio(0.4, 0.4))[STEP["present"]]
    share = torch.cat([torch.full((size, 1), N / size, dtype=torch.float64) for size in sizes])
    same(found, ours("gmpo", STEP)[STEP["present"]] * share)


def test_gspo_under_a_token_mean_weighs_by_length():
    found = theirs(STEP, "gspo", TOKEN, **clip_ratio(0.1, 0.2))
    same(found, ours("gspo", STEP, **clip(0.1, 0.2)) * length(STEP) * N / TOKENS)


def test_gspo_stops_at_a_mean_log_ratio_of_10():
    """Ours goes on to 20, as the token ratio does in both."""
    step, at = batches.move(STEP, slice(None), 11.0)
    found, here = theirs(step, "gspo", SEQUENCE, **GRPO), ours("gspo", step, **clip(0.2, 0.2))
    assert not found[at].any()
    same(here[at], (advantage(step, 1e-6).unsqueeze(-1) * step["mask"] * np.exp(11.0) / N / length(step))[at])
    here[at] = 0.0
    same(found, here)


def test_a_ratio_is_flat_from_e20_on():
    step, at = batches.move(STEP, 0, 25.0)
    found, here = theirs(step, "vanilla", SEQUENCE, **GRPO), ours("grpo", step)
    assert found[at] == here[at] == 0
    same(found, here)


def test_cispo_has_a_floor_by_default():
    """Both clips are 0.2: a ratio under 0.8 counts as 0.8. Ours has a cap alone."""
    found, here = theirs(STEP, "cispo", TOKEN), ours("cispo", STEP, cap=1.2)
    same(found, here * (0.8 / log_ratio(STEP).exp()).clamp(min=1.0))
    differ(found, here)


def test_kl_of_a_trust_region_takes_the_old_policy_first():
    """Samples are the old policy's: in the other order the estimate is of something else."""
    logp, old, mask = STEP["logp"].clone().requires_grad_(), STEP["old_logp"], STEP["mask"]
    here = ours("rence", STEP, kl_coef=0.0) - ours("rence", STEP, kl_coef=1.0)
    for order, agrees in (((old, logp), same), ((logp, old), differ)):
        kl = core.agg_loss(core.kl_penalty(*order, "low_var_kl"), mask, TOKEN)
        agrees(torch.autograd.grad(kl, logp)[0], here)


def test_k3_stops_at_10():
    """A token whose reference is 3 nats likelier has no KL gradient there."""
    at = (0, 0, 0)
    step = STEP | {"reference_logp": STEP["reference_logp"].clone()}
    step["reference_logp"][at] = step["logp"][at] + 3.0
    found = theirs(step, "vanilla", SEQUENCE, use_kl_loss=True, kl_loss_coef=0.3, **GRPO)
    without, here = ours("grpo", step), ours("grpo", step, reference_coef=0.3)
    same(found[at], without[at])
    assert float(here[at] - without[at]) == pytest.approx(0.3 * np.expm1(3.0) / float(length(step)[0, 0]) / N, rel=1e-9)
    here[at] = found[at]
    same(found, here)


@pytest.mark.parametrize("kl", [0.0, 0.009, 0.0115, 1.0])
def test_the_adaptive_coefficient(kl):
    theirs, here = core.AdaptiveKLController(0.001, 0.01, 25600), contrapose.objective("rence")
    theirs.update(kl, 256)
    assert here.trust.adapt(here.start(), {"token_mean": kl}, 256).kl_coef == pytest.approx(theirs.value, rel=1e-12)
