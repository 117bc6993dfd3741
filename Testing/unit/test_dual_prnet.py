"""The dual-stream pyramid's own facts: one pyramid for both images, a warp before each level, composition."""

import torch

from RecurrentRegistrationLib import methods, spatial

FIXED, MOVING = torch.rand(2, 1, 1, 33, 18)


def biased(bias: float):
    """A network of which every level answers a constant displacement of `bias` voxels along axis 0."""
    method = methods.create("dual-prnet", 2)
    with torch.no_grad():
        for head in method.heads:
            head.weight.zero_()
            head.bias.copy_(torch.tensor([bias, 0.0]))
    return method


def test_levels_compose_and_scale_with_their_lattices():
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
