"""Motion separability against hand values."""

from __future__ import annotations

import pytest

from RecurrentRegistrationLib.metrics.separability import capture_range, cell_sizes, separability


def curve(common: int, dilations: list[int], distances: range) -> list[float]:
    cells = cell_sizes(5, common)
    ranges = [capture_range(cell, [dilation] * 2) for cell, dilation in zip(cells, dilations, strict=True)]
    return separability(distances, cells, ranges)


def test_cells_of_the_published_structures():
    assert cell_sizes(5) == [16, 8, 4, 2, 1]
    assert cell_sizes(5, 3) == [2, 2, 2, 2, 1]
    assert cell_sizes(5, 4) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("cell", "dilations", "reach"), [(1, [1], 1), (2, [1, 1], 4.5), (1, [8, 8], 16), (4, [2, 2], 17.5)]
)
def test_capture_range_is_half_the_field_of_view(cell, dilations, reach):
    assert capture_range(cell, dilations) == reach


def test_levels_that_may_share_a_cell_cannot_separate():
    """Cells of 4 and 1 voxels, ranges of 3 and 0.5: the finer level gives 1, the coarser 6 more from 4 voxels on."""
    assert separability([0, 1, 2, 3, 4, 9], [4, 1], [3, 0.5]) == [0, 1, 1, 1, 7, 7]


def test_one_voxel_cells_separate_neighbours_as_far_as_they_reach():
    ranges = [capture_range(1, [d, d]) for d in (16, 8, 4, 2, 1)]
    assert separability([0, 1, 50], [1] * 5, ranges) == [0, 2 * sum(ranges), 2 * sum(ranges)]


def test_curve_of_a_pyramid_is_a_staircase():
    """Two convolutions of 3 at each level see 5 cells: ranges 39.5, 19.5, 9.5, 4.5, 2; a step at each cell's size."""
    assert curve(0, [1] * 5, range(1, 20)) == [4] + [13] * 2 + [32] * 4 + [71] * 8 + [150] * 4


def test_curve_of_raised_levels_is_at_its_height_where_their_cells_end():
    """Four levels with cells of 2: ranges 32.5, 16.5, 8.5, 4.5 and 2; all of the bound is there two voxels apart."""
    assert curve(3, [8, 4, 2, 1, 1], range(1, 5)) == [4] + [4 + 65 + 33 + 17 + 9] * 3


def test_raising_the_coarse_levels_parts_near_voxels_more():
    """Ranges alike, cells of the coarsest levels smaller: nowhere a lower bound, a higher one two voxels apart."""
    ranges = [10.0, 5.0, 2.0, 0.5, 0.25]
    plain, raised = (separability(range(1, 30), cell_sizes(5, common), ranges) for common in (0, 3))
    assert all(r >= p for r, p in zip(raised, plain, strict=True))
    assert raised[1] > plain[1]
    assert raised[-1] == plain[-1]


def test_lists_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="argument"):
        separability([1], [2, 1], [1.0])
