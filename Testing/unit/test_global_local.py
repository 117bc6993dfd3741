"""The global and local network's own facts: the affine map comes first, the local step sees what it moved."""

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement

SHAPE = (33, 40)


def test_local_step_sees_the_affinely_moved_image_and_composes():
    torch.manual_seed(0)
    method = methods.create("global-local", 2)
    affine = torch.tensor([[1.1, 0.05, 0.1], [-0.05, 0.9, -0.2]])
    with torch.no_grad():
        method.affine.last.bias.copy_((affine - torch.eye(2, 3)).flatten())
        method.affine.last.weight.zero_()
        method.local[1].bias.copy_(torch.tensor([0.5, -1.0]))
    shown = []
    method.local.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    fixed, moving = torch.rand(2, 1, 1, *SHAPE)
    first, second = method.steps(fixed, moving)
    torch.testing.assert_close(first.attached["affine"], affine.unsqueeze(0))
    torch.testing.assert_close(first.displacement, affine_displacement(affine.unsqueeze(0), SHAPE))
    torch.testing.assert_close(shown[0], torch.cat([fixed, spatial.warp(moving, first.displacement)], dim=1))
    shift = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1).expand(1, 2, *SHAPE)
    expected = spatial.compose(shift, first.displacement)
    torch.testing.assert_close(second.displacement, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("count", [1, 4])
def test_one_global_step_then_local_ones(count):
    steps = list(methods.create("global-local", 2).steps(*torch.rand(2, 1, 1, *SHAPE), count=count))
    assert [step.stage for step in steps] == ["global", *["local"] * (count - 1)]
