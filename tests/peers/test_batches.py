"""What the other libraries are shown is varied: agreeing on it would prove little otherwise."""

import batches
import pytest
import torch


@pytest.mark.parametrize("step", [batches.EQUAL_GROUPS, batches.UNEQUAL_GROUPS], ids=["equal groups", "unequal groups"])
def test_varied(step):
    mask, here = step["mask"].bool(), step["present"]
    lengths, d = mask.sum(-1), batches.log_ratio(step)[mask]
    A = batches.advantage(step, 1e-6)
    assert len(set(lengths[here].tolist())) > 5
    assert ((lengths == 0) & here).any()
    assert (mask[..., 1:] & ~mask[..., :-1]).any(), "no hole"
    assert (A[-1] == 0).all() and (A[:-1].abs().amax(1) > 0.5).all()
    for sign in (1, -1):
        moved = batches.log_ratio(step)[mask & (sign * A > 0).unsqueeze(-1)]
        assert (moved > 0.45).any() and (moved < -0.45).any(), "a clip that does not bite"
    assert d.std() > 0.3
    assert torch.isfinite(step["logp"]).all()
