"""The baseline with cross attention in the place of the residual aligners."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods import cross_attention, ran


def test_only_the_aligner_differs_from_ran():
    attention, aligner = cross_attention.create(2).state_dict(), ran.create(2, variant="ran0").state_dict()

    def backbone(weights):
        return {key: value.shape for key, value in weights.items() if not key.startswith("aligner.")}

    assert backbone(attention) == backbone(aligner)


def test_every_voxel_can_move_every_voxel():
    """A change in one corner of the moving image reaches the other corner of the first, coarsest displacement."""
    torch.manual_seed(0)
    method = cross_attention.create(2).eval()
    fixed, moving = torch.rand(1, 1, 64, 64), torch.rand(1, 1, 64, 64, requires_grad=True)
    next(method.steps(fixed, moving)).values[..., -1, -1].sum().backward()
    assert moving.grad[..., :8, :8].any()


def test_unknown_variants_are_refused():
    with pytest.raises(InputError, match="no structure 'ran9'"):
        cross_attention.create(3, variant="ran9")
