"""TRL's own trainers against our credit, on the same random batch: equal, or different in one way that is named.

A real ``GRPOTrainer`` with a real configuration scores, shuffles and splits the batch and computes its losses in
float64. It is only told what was sampled, what that is worth, and what the policies make of it.
"""

from pathlib import Path

import batches
import pytest
import torch
from batches import EQUAL_GROUPS as STEP
from batches import advantage, clip, differ, length, log_ratio, ours, same

import contrapose

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

MODEL = str(Path(contrapose.__file__).parent / "prompts" / "abacus_base")
N = STEP["present"].numel()
STD_EPS = 1e-4  # written into the trainer, not a setting; its K/(K-1) is a float32, and exact for the batch's K of 5


class Told:
    """Mixed into a trainer: the outside world is a step. A prompt's one token is the number of its rollout."""

    config: type

    def __init__(self, step, out, micro_batches=1, window=None, **settings):
        Q, K, T = step["mask"].shape
        self.step = {key: x.flatten(0, 1) for key, x in step.items()}
        self.step["logp"] = self.step["logp"].clone().requires_grad_()
        self.shape, self.taken = step["mask"].shape, []
        args = self.config(
            str(out),
            use_cpu=True,
            bf16=False,
            report_to="none",
            num_generations=K,
            max_completion_length=T,
            per_device_train_batch_size=Q * K // micro_batches,
            steps_per_generation=micro_batches,
            gradient_accumulation_steps=window or micro_batches,
            num_iterations=2,  # so that old log-probs are kept
            **settings,
        )
        prompts = datasets.Dataset.from_dict({"prompt": ["?"] * Q})
        super().__init__(MODEL, reward_funcs=lambda **_: None, args=args, train_dataset=prompts)
        self.model.train()
        self.current_gradient_accumulation_steps = args.gradient_accumulation_steps  # as its train() does

    def _send_telemetry(self):
        """A test tells nobody."""

    def _generate(self, prompts):
        mask = self.step["mask"].bool()
        lengths = [int(row.nonzero().max()) + 1 if row.any() else 1 for row in mask]
        rows, completions = [[i] for i in range(len(mask))], [[0] * n for n in lengths]
        kept = [row[:n].long().tolist() for row, n in zip(mask, lengths, strict=True)]
        return rows, completions, kept, completions, None, {}, None, None

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        return self.step["reward"].unsqueeze(1)

    def _get_per_token_logps_and_entropies(self, model, ids, *_, compute_entropy=False, **__):
        """Only the loss asks for entropies; who asks without is the old policy, or the reference."""
        rows = ids[:, 0]
        if compute_entropy:
            self.taken.append(rows)
        which = "logp" if compute_entropy else "reference_logp" if model is self.ref_model else "old_logp"
        logp = self.step[which][rows, : ids.shape[1] - 1]
        return logp, torch.zeros_like(logp), None

    def credits(self):
        """``-dloss/dlogp`` of each optimizer step of one generation, ``[Q, K, T]`` each."""
        found, rows = [], len(self.step["logp"])
        for i in range(self.args.steps_per_generation):
            if i % self.args.gradient_accumulation_steps == 0:
                found.append(torch.zeros_like(self.step["logp"]))
            inputs = self._prepare_inputs([{"prompt": "?"}] * rows)
            found[-1] -= torch.autograd.grad(self.compute_loss(self.model, inputs), self.step["logp"])[0]
            self._step += 1
        return [x.view(self.shape) for x in found]


class GRPO(Told, trl.GRPOTrainer):
    config = trl.GRPOConfig


class RLOO(Told, trl.RLOOTrainer):
    config = trl.RLOOConfig

    def _generate(self, prompts):
        rows, completions, *_ = super()._generate(prompts)
        return rows, completions, completions


@pytest.fixture
def theirs(tmp_path):
    """The credit of a whole generation taken as one optimizer step."""

    def credit(step, trainer=GRPO, **settings):
        (found,) = trainer(step, tmp_path, **settings).credits()
        return found

    return credit


def epsilon(low, high):
    return {"epsilon": low, "epsilon_high": high}


BY_ROLLOUT = {"loss_type": "grpo"}  # the default is dapo
SEQUENCE = {"importance_sampling_level": "sequence"}
CASES = {
    "grpo": (BY_ROLLOUT, "grpo", {}),
    "grpo asymmetric": (BY_ROLLOUT | epsilon(0.1, 0.35), "grpo", clip(0.1, 0.35)),
    "grpo delta": (BY_ROLLOUT | {"delta": 1.4}, "grpo", {"dual_clip": 1.4}),
    "grpo reference": (
        BY_ROLLOUT | {"beta": 0.3, "use_bias_correction_kl": False},
        "grpo",
        {"reference_coef": 0.3},
    ),
    "dapo": (epsilon(0.2, 0.28), "dapo", {}),
    "dapo delta": (epsilon(0.2, 0.28) | {"delta": 1.5}, "dapo", {"dual_clip": 1.5}),
    "dr_grpo": ({"loss_type": "dr_grpo", "scale_rewards": "none"}, "dr_grpo", {"length": 9}),
    "gspo": (BY_ROLLOUT | SEQUENCE | epsilon(3e-4, 4e-4), "gspo", {}),
    "gspo wide": (BY_ROLLOUT | SEQUENCE | epsilon(0.1, 0.2), "gspo", clip(0.1, 0.2)),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 5.0}, "cispo", {}),
    "cispo low cap": ({"loss_type": "cispo", "epsilon_high": 1.2}, "cispo", {"cap": 1.2}),
    # their temperatures are float32, and 1.05 is not one
    "sapo": ({"loss_type": "sapo"}, "sapo", {"tau_negative": torch.tensor(1.05).item()}),
    "sapo sharp": (
        {"loss_type": "sapo", "sapo_temperature_pos": 0.5, "sapo_temperature_neg": 3.0},
        "sapo",
        {"tau_positive": 0.5, "tau_negative": 3.0},
    ),
}
"""Their settings, our name, our hyper-parameters."""


@pytest.mark.parametrize("micro_batches", [1, 5])
@pytest.mark.parametrize("case", CASES)
def test_equal(theirs, case, micro_batches):
    """Also when the shuffled batch is accumulated in micro-batches of equal size, which cut its groups."""
    settings, name, hyperparameters = CASES[case]
    if name != "dr_grpo":
        hyperparameters = {**hyperparameters, "std_eps": STD_EPS}
    same(theirs(STEP, micro_batches=micro_batches, **settings), ours(name, STEP, **hyperparameters))


def test_rloo_is_equal_on_policy(theirs):
    step = batches.step(2, holes=False, std=0.0)
    same(theirs(step, RLOO, beta=0.0), ours("rloo", step))


def test_rloo_is_a_clipped_sequence_ratio_off_policy(theirs):
    """``e^D A``, 0 where it is clipped: ours has neither ratio nor clip."""
    step = batches.step(2, holes=False, std=0.1)
    credit, D = ours("rloo", step), log_ratio(step).sum(-1, keepdim=True)
    clipped = ((credit > 0) & (D.exp() > 1.2)) | ((credit < 0) & (D.exp() < 0.8))
    assert clipped.any() and not clipped.all()
    same(theirs(step, RLOO, beta=0.0), (credit * D.exp()).masked_fill(clipped, 0.0))


def test_a_deviation_has_another_eps(theirs):
    """1e-4 there, 1e-6 here: one factor a group."""
    found, here = theirs(STEP, **BY_ROLLOUT), ours("grpo", STEP)
    factor = advantage(STEP, STD_EPS) / advantage(STEP, 1e-6)
    same(found, here * factor.nan_to_num(0.0).unsqueeze(-1))
    assert 1e-5 < (factor[:-1] - 1).abs().max() < 1e-3


def test_rounding_becomes_an_advantage(theirs):
    """Rewards 1e-8 apart are worth 1e-4 there, and nothing here."""
    step = batches.NEARLY_EQUAL_REWARDS
    found = theirs(step, **BY_ROLLOUT, **epsilon(1.0, 1e9))
    A = advantage(step, STD_EPS).unsqueeze(-1)
    assert A.abs().max() > 1e-4
    same(found * N * length(step) / log_ratio(step).exp(), A * step["mask"], rtol=1e-6)
    assert not ours("grpo", step, **clip(1.0, 1e9)).any()


def test_bnpo_lets_each_micro_batch_weigh_alike(theirs):
    """The token mean of the batch only while there is one micro-batch; ours is that for any split."""
    dapo = ours("dapo", STEP, clip_high=0.2, std_eps=STD_EPS)
    same(theirs(STEP, loss_type="bnpo"), dapo)
    differ(theirs(STEP, loss_type="bnpo", micro_batches=5), dapo)


def test_dapo_divides_by_the_mean_tokens_of_a_generation(tmp_path):
    """With two optimizer steps a generation, each is divided by half of all tokens, whatever it holds itself."""
    trainer = GRPO(STEP, tmp_path, micro_batches=6, window=3, epsilon_high=0.28)
    credits = trainer.credits()
    whole, mask = ours("dapo", STEP, std_eps=STD_EPS).flatten(0, 1), STEP["mask"].flatten(0, 1)
    assert len(credits) == 2
    for found, rows in zip(credits, (torch.cat(trainer.taken[:3]), torch.cat(trainer.taken[3:])), strict=True):
        same(found.flatten(0, 1)[rows], 2 * whole[rows])
        differ(found.flatten(0, 1)[rows], whole[rows] * mask.sum() / mask[rows].sum())


def test_gspo_under_the_default_loss_weighs_by_length(theirs):
    """Only the ratio's level is set: the loss stays DAPO's, and a rollout counts as often as it has tokens."""
    found = theirs(STEP, **SEQUENCE, **epsilon(0.1, 0.2))
    here = ours("gspo", STEP, **clip(0.1, 0.2), std_eps=STD_EPS)
    same(found, here * length(STEP) * N / STEP["mask"].sum())


def test_cispo_takes_the_clip_for_its_cap(theirs):
    """Without ``epsilon_high`` the cap is ``epsilon``, 0.2: nearly every token is held at it."""
    same(theirs(STEP, loss_type="cispo"), ours("cispo", STEP, cap=0.2, std_eps=STD_EPS))


def test_dr_grpo_alone_still_divides_by_the_deviation(theirs):
    """Its name chooses the aggregate; the advantage needs ``scale_rewards`` as well."""
    found, here = theirs(STEP, loss_type="dr_grpo"), ours("dr_grpo", STEP, length=9)
    std = STEP["reward"].std(1).view(-1, 1, 1)
    same(found * (std + STD_EPS), here)
    differ(found, here)


def test_the_reference_kl_is_corrected_by_default(theirs):
    """k3 times the ratio: its gradient is ``rho (l - l_ref)``, ours that of the k3 of the paper."""
    found = theirs(STEP, **BY_ROLLOUT, beta=0.3) - theirs(STEP, **BY_ROLLOUT)
    apart = STEP["logp"] - STEP["reference_logp"]
    same(found, -0.3 * STEP["mask"] * log_ratio(STEP).exp() * apart / (N * length(STEP)), rtol=1e-8)
    differ(found, ours("grpo", STEP, reference_coef=0.3) - ours("grpo", STEP))


def test_no_guard_on_the_exponent(theirs):
    """A negative's ratio of e^25 is used as it is; ours is flat from e^20 on."""
    step, at = batches.move(STEP, 0, 25.0)
    found, here = theirs(step, **BY_ROLLOUT), ours("grpo", step, std_eps=STD_EPS)
    assert found[at] < -1e8
    assert here[at] == 0
    found[at] = 0.0
    same(found, here)
