"""VoxelMorph's own facts: its widths and what a second pass does."""

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import InputError


@pytest.mark.parametrize(
    ("width", "dimension", "expected"),
    [("riir", 3, 254_499), ("riir", 2, 84_938), ("vm1", 3, 355_875), ("vm2", 3, 1_416_771)],
)
def test_counts_of_the_published_widths(width, dimension, expected):
    method = methods.create("voxelmorph", dimension, width=width)
    assert sum(parameter.numel() for parameter in method.parameters()) == expected


def test_one_step_by_default_and_more_are_composed():
    torch.manual_seed(0)
    method = methods.create("voxelmorph", 2)
    method.network[1].weight.data.normal_(std=0.3)
    fixed, moving = spatial.gaussian_smooth(torch.rand(2, 1, 24, 30), 2.0).unsqueeze(1)
    with torch.no_grad():
        assert len(list(method.steps(fixed, moving))) == 1
        first, second = method.steps(fixed, moving, count=2)
        update = method(fixed, spatial.warp(moving, first.values))
    assert first.values.abs().max() > 0.1
    torch.testing.assert_close(second.values, spatial.compose(update, first.values))


def test_half_the_size_is_enlarged_in_voxels_of_the_whole():
    method = methods.create("voxelmorph", 2, half=True)
    whole = sum(parameter.numel() for parameter in methods.create("voxelmorph", 2).parameters())
    assert sum(parameter.numel() for parameter in method.parameters()) < whole
    head = method.network[1]
    head.weight.data.zero_()
    head.bias.data.copy_(torch.tensor([1.0, -2.0]))
    displacement = method(*torch.rand(2, 1, 1, 24, 31))
    expected = torch.tensor([23 / 11, -2 * 30 / 15]).view(1, 2, 1, 1).expand(1, 2, 24, 31)
    torch.testing.assert_close(displacement, expected)


def test_an_unknown_width_is_refused():
    with pytest.raises(InputError, match="no width 'vm3'; choose one of riir, vm1, vm2"):
        methods.create("voxelmorph", width="vm3")
