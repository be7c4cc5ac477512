"""The credit of rows in any order is that of the groups they make."""

from dataclasses import replace

import pytest
import torch

import contrapose
from contrapose.integrations.groups import BrokenGroups, Rows, credit_rows
from contrapose.objectives.zoo import objective

Q, K, T = 5, 4, 7


def rows_and_order(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(Q * K, T, generator=generator, dtype=dtype)
    old = logp + 0.1 * torch.randn(Q * K, T, generator=generator, dtype=dtype)
    length = torch.randint(1, T + 1, (Q * K, 1), generator=generator)
    mask = (torch.arange(T) < length).to(dtype)
    correct = torch.rand(Q * K, generator=generator) < 0.5
    order = torch.randperm(Q * K, generator=generator)
    group = torch.arange(Q).repeat_interleave(K)
    return Rows(group, logp, old, mask, correct.to(dtype), correct), order


@pytest.mark.parametrize("name", ["rence", "conspo", "disco", "dapo", "dpo"])
def test_shuffled_rows_have_the_credit_of_their_groups(name):
    rows, order = rows_and_order()
    built = objective(name)
    shuffled = Rows(**{key: x[order] for key, x in vars(rows).items() if x is not None})
    found = credit_rows(built, shuffled, K, built.start())
    expected = contrapose.credit(
        name,
        rows.logp_NT.view(Q, K, T),
        old_logp=rows.old_NT.view(Q, K, T),
        mask=rows.mask_NT.view(Q, K, T),
        reward=rows.reward_N.view(Q, K),
        correct=rows.correct_N.view(Q, K),
    ).view(Q * K, T)
    assert expected.any()
    inside = torch.empty_like(order).index_copy_(0, order, torch.arange(Q * K))
    assert torch.allclose(found.credit_NT[inside], expected, rtol=1e-12, atol=1e-15)


def test_a_part_of_a_group_is_refused():
    rows, _ = rows_and_order()
    cut = Rows(**{key: x[:-1] for key, x in vars(rows).items() if x is not None})
    with pytest.raises(BrokenGroups, match="3 of the 4 rollouts of group 4"):
        credit_rows(objective("conspo"), cut, K, objective("conspo").start())


def test_twice_as_many_of_one_group_are_refused():
    rows, _ = rows_and_order()
    doubled = Rows(**{key: torch.cat([x, x[:K]]) for key, x in vars(rows).items() if x is not None})
    with pytest.raises(BrokenGroups, match="8 of the 4"):
        credit_rows(objective("conspo"), doubled, K, objective("conspo").start())


def test_rollouts_that_nobody_could_judge_are_as_if_not_there():
    rows, _ = rows_and_order()
    present = torch.arange(Q * K) % 7 != 0
    found = credit_rows(objective("dapo"), replace(rows, present_N=present), K, objective("dapo").start())
    shape = {"mask": rows.mask_NT.view(Q, K, T), "old_logp": rows.old_NT.view(Q, K, T)}
    flags = {"reward": rows.reward_N.view(Q, K), "present": present.view(Q, K)}
    expected = contrapose.credit("dapo", rows.logp_NT.view(Q, K, T), **shape, **flags).view(Q * K, T)
    assert torch.equal(found.credit_NT, expected)
    assert expected.any() and not expected[~present].any()


def test_the_trust_region_adapts_to_the_kl_of_the_step():
    rows, _ = rows_and_order()
    built = objective("rence", kl_target=1e-6)
    found = credit_rows(built, rows, K, built.start())
    assert found.adapted(built, built.start()).kl_coef == pytest.approx(0.001 * (1 + 0.2 * Q * K / 25600))
    assert found.adapted(objective("conspo"), built.start()) == built.start()
