"""An update by verl's own worker has the gradient of our objective, however verl cuts and spreads the rollouts.

Real ``TrainingWorker``s with FSDP2 over gloo, in processes of their own: one, and two that share the rollouts.
"""

import socket

import pytest
import torch
from verl_case import Case, K, Q, T, expected, save_model

from contrapose.types import Now

pytest.importorskip("verl.workers.engine_workers", exc_type=ImportError)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # verl's own

N = Q * K
SHUFFLED = tuple(torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist())
ALTERNATING = (*range(0, N, 2), *range(1, N, 2))
"""On two ranks, each has half of every group, and the first half of each is the first two groups."""
WEIGHT = torch.rand(N, T, generator=torch.Generator().manual_seed(4))
REFERENCE = -4 * torch.rand(N, T, generator=torch.Generator().manual_seed(5))
EXACT = {
    "whole groups": Case(),
    "a row at a time, in any order": Case(order=SHUFFLED, micro=1),
    "by tokens": Case(order=SHUFFLED, tokens=60),
    "packed": Case(order=SHUFFLED, packed=True),
    "jagged, by tokens": Case(order=SHUFFLED, jagged=True, tokens=60),
}


def cases(world):
    """By objective and kind."""
    halves = {"order": ALTERNATING if world == 2 else tuple(range(N)), "size": N // 2}
    exact = {(name, how): (name, case) for name in ("rence", "conspo") for how, case in EXACT.items()}
    return exact | {
        ("rence", "two mini-batches"): ("rence", Case(**halves)),
        ("conspo", "two mini-batches"): ("conspo", Case(**halves)),
        ("rence", "torn"): ("rence", Case(order=SHUFFLED, size=N // 2)),
        ("conspo", "weighted"): ("conspo", Case(order=SHUFFLED, more={"rollout_is_weights": WEIGHT})),
        ("grpo", "with a reference"): ("grpo", Case(order=SHUFFLED, more={"ref_log_prob": REFERENCE})),
        ("rence", "at theta_old"): ("rence", Case(away=0.0, at_old=True)),
        ("conspo", "at theta_old, two mini-batches"): ("conspo", Case(**halves, away=0.0, at_old=True)),
    }


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verl") / "model"
    save_model(folder)
    return folder


def run(process, model, world, chosen):
    """What each case came to on each rank."""
    out = model.parent / f"{process.__name__}{world}"
    torch.multiprocessing.spawn(process, (world, port(), model, chosen, out), nprocs=world)
    return [torch.load(f"{out}.{rank}", weights_only=False) for rank in range(world)]


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def found(request, model):
    from verl_process import training_worker

    return run(training_worker, model, request.param, cases(request.param))


def flat(gradient, like):
    return torch.cat([gradient[name].flatten() for name in like])


def off(seen, update, model, name, **how):
    """The relative error of an update's gradient, beside that of J."""
    now = Now(seen["metrics"]["progress"][update], seen["metrics"]["kl_coef"][update])
    gradient, J = expected(model, name, now, **how)
    assert seen["metrics"]["J"][update] == pytest.approx(J, rel=1e-5)
    right = flat(gradient, gradient)
    return float((flat(seen["gradients"][update], gradient) - right).norm() / right.norm())


@pytest.mark.parametrize("how", EXACT)
@pytest.mark.parametrize("name", ["rence", "conspo"])
def test_the_gradient_is_that_of_J(found, model, name, how):
    for seen in (of_rank[name, how] for of_rank in found):
        assert off(seen, 0, model, name) < 1e-5
        assert seen["passes"] == 1


@pytest.mark.parametrize("name", ["rence", "conspo"])
def test_each_mini_batch_has_its_own(found, model, name):
    for seen in (of_rank[name, "two mini-batches"] for of_rank in found):
        assert off(seen, 0, model, name, part=slice(0, N // 2)) < 1e-5
        assert off(seen, 1, model, name, part=slice(N // 2, N)) < 1e-5


def test_the_kl_matters_here(model):
    """Otherwise nothing above would be said of it."""
    with_kl, without = (flat(g, g) for g, _ in (expected(model, "rence", Now(0.0, c)) for c in (10.0, 0.0)))
    assert (with_kl - without).norm() > 0.1 * without.norm()


def test_the_coefficient_adapts_between_mini_batches_of_a_step(found):
    for of_rank in found:
        first, second = of_rank["rence", "two mini-batches"]["metrics"]["kl_coef"]
        assert second == pytest.approx(first * (1 + 0.2 * N / 2 / 25600))


def test_a_torn_mini_batch_is_refused_by_every_rank(found):
    for seen in (of_rank["rence", "torn"] for of_rank in found):
        assert seen["error"].startswith("BrokenGroups: an optimizer step of 16 rollouts holds")
        assert not seen["gradients"]


def test_importance_weights_are_factors_on_the_credit(found, model):
    for of_rank in found:
        assert off(of_rank["conspo", "weighted"], 0, model, "conspo", weight=WEIGHT) < 1e-5


def test_a_reference_is_gathered_too(found, model):
    for of_rank in found:
        assert off(of_rank["grpo", "with a reference"], 0, model, "grpo", reference=REFERENCE) < 1e-5


def test_at_theta_old_the_first_mini_batch_needs_no_pass_for_its_credit(found, model):
    for of_rank in found:
        seen = of_rank["rence", "at theta_old"]
        assert seen["passes"] == 0 and off(seen, 0, model, "rence", away=0.0) < 1e-5
        seen = of_rank["conspo", "at theta_old, two mini-batches"]
        assert seen["passes"] == 1
        assert off(seen, 1, model, "conspo", part=slice(N // 2, N), away=0.0) < 1e-5


def test_the_schedule_is_saved_and_read_back(found):
    for of_rank in found:
        before, after, updates, refusal = of_rank["schedule"]
        assert before == after == Now(progress=0.75, kl_coef=0.0125) and updates == 12
        assert refusal.endswith("start from its weights instead (actor_rollout_ref.model.path)")


SOME = {(name, how): (name, EXACT[how]) for name in ("rence", "conspo") for how in ("whole groups", "by tokens")}


@pytest.mark.parametrize("world", [1, 2])
def test_verls_hybrid_worker_from_its_own_settings(model, world):
    from verl_process import hybrid_worker

    for of_rank in run(hybrid_worker, model, world, SOME):
        for (name, _), seen in of_rank.items():
            assert off(seen, 0, model, name) < 1e-5


def test_two_workers_under_ray(model):
    from verl_process import ray_workers

    pytest.importorskip("ray")
    out = model.parent / "ray"
    process = torch.multiprocessing.get_context("spawn").Process(target=ray_workers, args=(model, SOME, out))
    process.start()
    process.join()
    assert process.exitcode == 0
    for (name, _), seen in torch.load(f"{out}.0", weights_only=False).items():
        assert off(seen, 0, model, name) < 1e-5
