"""The dual-stream pyramid's own facts: one pyramid for both images, a warp before each level, composition."""

import itertools

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.methods.dual_prnet import DECODER, every_second_correlation

FIXED, MOVING = torch.rand(2, 1, 1, 33, 18)


def biased(bias: float):
    """A network of which every level answers a constant displacement of `bias` voxels along axis 0."""
    method = methods.create("dual-prnet", 2)
    with torch.no_grad():
        for head in method.heads:
            head.weight.zero_()
            head.bias.copy_(torch.tensor([bias, 0.0]))
    return method


def test_levels_compose_and_scale_with_their_grids():
    steps = list(biased(0.5).steps(FIXED, MOVING))
    assert [tuple(s.values.shape[2:]) for s in steps] == [(3, 2), (5, 3), (9, 5), (17, 9), (33, 18)]
    expected = 0.0
    for step, larger in zip(steps, (1, 4 / 2, 8 / 4, 16 / 8, 32 / 16), strict=True):
        expected = expected * larger + 0.5
        torch.testing.assert_close(step.values[:, 0], torch.full_like(step.values[:, 0], expected))
        assert not step.values[:, 1].any()


def test_each_level_compares_warped_features():
    """A level that answers its first input channel shows the moving features pulled through the coarser levels."""
    method = biased(0.25)
    seen = []
    method.heads[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    steps = list(method.steps(FIXED, MOVING))
    features = method.pyramid(MOVING)[2]
    up = spatial.resize_displacement(steps[1].values, features.shape[2:])
    torch.testing.assert_close(seen[0][:, :16], spatial.warp(features, up))
    torch.testing.assert_close(seen[0][:, 16:], method.pyramid(FIXED)[2])


def test_residual_blocks_deepen_the_encoder():
    plain, deep = methods.create("dual-prnet", 2), methods.create("dual-prnet", 2, residual_blocks=2)
    added = sum(2 * 2 * (9 * c * c + c) for c in (8, 16, 16, 32, 32))
    assert sum(p.numel() for p in deep.parameters()) - sum(p.numel() for p in plain.parameters()) == added


@pytest.mark.parametrize("shape", [(7, 10), (6, 5, 9)])
def test_correlation_looks_two_voxels_away(shape):
    fixed, moving = torch.randn(2, 2, 4, *shape)
    found = every_second_correlation(fixed, moving)
    padded = torch.nn.functional.pad(moving, [2] * 2 * len(shape))
    for channel, shift in enumerate(itertools.product((0, 2, 4), repeat=len(shape))):
        shifted = padded[(..., *[slice(s, s + n) for s, n in zip(shift, shape, strict=True)])]
        expected = (fixed * shifted).sum(dim=1) / 4**0.5
        torch.testing.assert_close(found[:, channel], expected)


def test_correlation_is_compared_at_each_level():
    method = methods.create("dual-prnet", 2, correlation=True)
    *_, last = method.steps(FIXED, MOVING)
    assert last.displacement.shape == (1, 2, 33, 18)
    assert [head.in_channels - 2 * width for head, width in zip(method.heads, DECODER, strict=True)] == [9] * 5
