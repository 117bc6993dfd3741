"""The report's page shows the right pixels in the right places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from RecurrentRegistrationLib.report.page import FOLDED, TITLES, Pictured, draw, write_report
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume

# Index axes run along S, R and A: nothing is where a naive picture would put it.
GRID = Grid((20, 24, 16), (2.0, 1.0, 1.5), (0, 0, 0), (0, -1, 0, 0, 0, -1, 1, 0, 0))
STEPS = [
    {"index": n + 1, "stage": f"{'affine' if n < 3 else 'deform'} {n}/3", "similarity": n / 6, "folding": 0.0}
    | {"mean_update_mm": float("nan") if n == 0 else 1 / n}
    for n in range(6)
]


def pictured(grid: Grid, *, shift: float = 0.0, fold: bool = False) -> Pictured:
    """A ball that grows brighter to the left, to the front and to the top, and the same shifted along x."""
    points = grid.physical(np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij"), axis=-1)) - grid.centre
    radius = np.linalg.norm(points, axis=-1)
    image = (100 + points @ [4, -4, 4][: grid.dimension]) * (radius < 10) + 0.2 * radius
    fixed = Volume(image.T[np.newaxis].astype(np.float32), grid)
    matrix = np.eye(grid.dimension + 1)
    matrix[0, -1] = shift
    moved = Grid(grid.size, grid.spacing, (grid.origin[0] + shift, *grid.origin[1:]), grid.direction)
    determinant = np.ones((1, *grid.shape), np.float32)
    if fold:
        determinant[:] = -1
    field = DisplacementField(torch.zeros(1, grid.dimension, *grid.shape), grid)
    transform = Transform((field, Affine(matrix)))
    jacobian = Volume(determinant, grid)
    return Pictured(fixed, Volume(fixed.array, moved), jacobian, transform, STEPS, "a ← b", {"Method": "none"})


def panel(figure, title: str, row: int) -> np.ndarray:
    """The pixels of a panel's first image."""
    images = [axis.images[0].get_array() for axis in figure.subfigs[0].axes if axis.images]
    return np.ma.filled(images[row * len(TITLES) + list(TITLES).index(title)], np.nan)


def test_left_front_and_top_are_where_a_radiologist_expects_them():
    figure = draw(pictured(GRID))
    for row, bright_side in enumerate([np.fliplr, np.fliplr, np.asarray]):  # L is right, L is right, A is left
        pixels = bright_side(panel(figure, "fixed", row))
        upper, lower = np.array_split(pixels, 2)
        assert upper.mean() > 1.1 * lower.mean()  # A, S, S are at the top
        left, right = np.array_split(pixels, 2, axis=1)
        assert left.mean() > 1.1 * right.mean()


def test_after_looks_like_fixed_and_before_does_not():
    figure = draw(pictured(GRID, shift=6.0))
    for row in range(3):
        before, after = (np.nanmean(np.abs(panel(figure, f"difference {w}", row))) for w in ("before", "after"))
        assert after < 0.01
        assert before > 0.05
    assert np.isnan(panel(figure, "before", 0)).any()
    assert not np.isnan(panel(figure, "fixed", 0)).any()


@pytest.mark.parametrize("grid", [GRID, Grid((30, 20), (1.0, 2.0), (0, 0), (1, 0, 0, 1))], ids=["3D", "2D"])
def test_the_page_is_written_and_folding_is_seen(tmp_path, grid):
    write_report(pictured(grid, fold=True), tmp_path / "report.png")
    pixels = np.asarray(Image.open(tmp_path / "report.png").convert("RGB"))
    folded = tuple(int(FOLDED[n : n + 2], 16) for n in (1, 3, 5))
    assert (pixels == folded).all(axis=-1).mean() > 0.01
    write_report(pictured(grid), tmp_path / "report.png")
    pixels = np.asarray(Image.open(tmp_path / "report.png").convert("RGB"))
    assert not (pixels == folded).all(axis=-1).any()
    assert [file.name for file in tmp_path.iterdir()] == ["report.png"]


def test_curves_show_every_known_value():
    curves = draw(pictured(GRID)).subfigs[1].axes
    similarity, change = curves[0].lines  # of one scale throughout
    assert similarity.get_ydata() == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert change.get_xdata() == [3.5, 3.5]
    assert curves[1].lines[0].get_xdata() == pytest.approx([2, 3])  # the first update is unknown


def test_a_constant_or_unseen_moving_image_does_not_stop_the_page():
    plain = pictured(GRID, shift=500.0)
    empty = Volume(np.zeros_like(plain.moving.array), plain.moving.grid)
    draw(Pictured(empty, empty, plain.jacobian, Transform((), 3), [], "", {}))
