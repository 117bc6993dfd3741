"""LapIRN's own facts: its levels add, on grids of their own, and none reaches further than it may."""

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial

PAIR = {2: (torch.rand(1, 1, 25, 18), torch.rand(1, 1, 25, 18)), 3: (torch.rand(1, 1, 9, 12, 10),) * 2}


@pytest.mark.parametrize("dimension", [2, 3])
def test_levels_live_on_their_own_grids(dimension):
    fixed, moving = PAIR[dimension]
    shapes = [tuple(step.values.shape[2:]) for step in methods.create("lapirn", dimension).steps(fixed, moving)]
    halved = [-(-n // 2) for n in fixed.shape[2:]]
    assert shapes == [tuple(-(-n // 2) for n in halved), tuple(halved), tuple(fixed.shape[2:])]


def test_a_level_without_an_answer_keeps_the_coarser_displacement():
    method = methods.create("lapirn", 2)
    torch.nn.init.zeros_(method.levels[2].head[2].weight)
    steps = list(method.steps(*PAIR[2]))
    torch.testing.assert_close(steps[2].values, steps[1].displacement)


def test_reach_bounds_each_level():
    method = methods.create("lapirn", 2, reach=0.1)
    with torch.no_grad():
        for level in method.levels:
            level.head[2].weight.mul_(1e4)
    first, *_, last = method.steps(*PAIR[2])
    half = torch.tensor([(n - 1) / 2 for n in (25, 18)]).view(1, 2, 1, 1)
    assert (first.displacement.abs() <= 0.1 * half + 1e-4).all()
    assert (last.displacement.abs() <= 0.3 * half + 1e-4).all()
    assert (last.displacement.abs() / half).max() > 0.2


def test_a_finer_level_sees_the_warped_moving_image():
    """With the fixed image equal to the moving one pulled through level 1, level 2 must see two equal images."""
    method = methods.create("lapirn", 2)
    fixed, moving = PAIR[2]
    seen = []
    method.levels[1].encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    steps = list(method.steps(fixed, moving))
    half = torch.nn.functional.avg_pool2d(moving, 3, 2, 1, count_include_pad=False)
    expected = spatial.warp(half, spatial.resize_displacement(steps[0].values, half.shape[2:]))
    torch.testing.assert_close(seen[0][:, :1], expected)


def test_parameters_of_each_level():
    """The published network's, with 28 channels."""
    counts = [sum(p.numel() for p in level.parameters()) for level in methods.create("lapirn", 3).levels]
    assert [sum(counts[: n + 1]) for n in range(3)] == [306_404, 615_076, 923_748]
