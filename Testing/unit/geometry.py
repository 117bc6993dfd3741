"""Grids, fields and images for the geometry tests: every way a header can be awkward, in 2D and 3D."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid, Volume


def _turn(*degrees: float) -> np.ndarray:
    """A rotation: one angle in the plane, or three about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in zip((2,) if len(degrees) == 1 else (0, 1, 2), np.radians(degrees), strict=True):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix[: 2 if len(degrees) == 1 else 3, : 2 if len(degrees) == 1 else 3]


def _grid(size, spacing, origin, cosines) -> Grid:
    return Grid(tuple(size), tuple(spacing), tuple(origin), tuple(np.asarray(cosines, float).ravel().tolist()))


def _sheared(x: float, y: float) -> np.ndarray:
    """Directions of slices that lie along x and y while their step, of unit length, drifts along both."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, np.sqrt(1 - x * x - y * y)]])


_PERMUTED = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]

# Origins are odd numbers of millimetres, so that no point lies exactly where a field ends (half a voxel outside).
GRIDS = {
    "regular": _grid((12, 10, 9), (2, 2, 2), (-11.03, -9.11, -8.07), np.eye(3)),
    "anisotropic": _grid((13, 11, 7), (1.5, 2, 3.5), (-10.13, -12.21, -11.37), np.eye(3)),
    "oblique": _grid((12, 9, 10), (2, 2.5, 1.8), (-8, -14, -3), _turn(20, -35, 50)),
    "permuted": _grid((9, 12, 11), (2, 1.7, 2.2), (-9.1, -10.3, -8.2), _PERMUTED),
    "left-handed oblique": _grid((10, 13, 9), (2.1, 1.4, 2.6), (7, -9, -9), _turn(-15, 10, 25) @ np.diag([-1, 1, 1])),
    "shifted": _grid((12, 10, 9), (2, 2, 2.5), (1500, -980, 730), _turn(5, 8, -4)),
    # The step from slice to slice is not at right angles to them: a tilted gantry, a table that sinks and drifts.
    "sheared": _grid((12, 10, 9), (2, 2, 2.5), (-11.2, -9.4, -8.3), _sheared(0, 0.26)),
    "drifting oblique": _grid(
        (11, 10, 8), (2.1, 1.9, 2.8), (-9.7, -8.6, -9.2), _turn(15, -20, 30) @ _sheared(0.2, -0.15)
    ),
    "single slice": _grid((13, 11, 1), (1.8, 2.1, 5), (-11.3, -10.6, 0.4), _turn(10, 25, -15)),
    "2D oblique": _grid((12, 13), (1.5, 2), (-3, -14), _turn(35)),
    "2D left-handed": _grid((13, 12), (1.8, 1.5), (11, -9), np.diag([-1, 1])),
}

# What any geometry goes through: the rest is for tests that need one in particular.
AWKWARD = (
    *("anisotropic", "permuted", "left-handed oblique", "shifted", "sheared", "drifting oblique"),
    *("2D oblique", "2D left-handed"),
)

# A field's grid and the grid of the image it is used on: pairs that lie in the same place, differently.
PAIRS = [
    ("anisotropic", "oblique"),
    ("oblique", "permuted"),
    ("permuted", "left-handed oblique"),
    ("shifted", "shifted"),
    ("regular", "anisotropic"),
    ("sheared", "drifting oblique"),
    ("single slice", "sheared"),
    ("2D oblique", "2D left-handed"),
]


def file_holds(ending: str, grid: Grid, *, vectors: bool = False) -> bool:
    """Whether a format can hold a grid: NIfTI has no sheared axes, and ITK reads vectors of one slice from it as 2D."""
    upright = np.allclose(grid.cosines.T @ grid.cosines, np.eye(grid.dimension), atol=1e-3)
    return ending != ".nii.gz" or bool(upright and not (vectors and grid.size[-1] == 1))


def wave(points: np.ndarray, centre: np.ndarray, millimetres: float = 2.0) -> np.ndarray:
    """A smooth displacement `[N, d]` in LPS millimetres, different along every axis, no longer than `millimetres`."""
    d = points.shape[1]
    phase = (points - centre) @ np.array([[0.11, 0.05, -0.07], [-0.04, 0.12, 0.06], [0.08, -0.03, 0.1]])[:d, :d]
    return millimetres / np.sqrt(d) * np.sin(phase + np.arange(d))


def voxel_centres(grid: Grid) -> np.ndarray:
    """Physical points `[N, d]` of all voxels, in the order of the ravelled tensor."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    return grid.physical(index.reshape(-1, grid.dimension)[:, ::-1])


def smooth_image(grid: Grid) -> sitk.Image:
    """A smooth float image whose sitk resampling by linear interpolation can be compared with ours."""
    points = voxel_centres(grid) - grid.centre
    values = 3 + np.cos(0.2 * points).prod(axis=1) + 0.05 * points @ np.arange(1, grid.dimension + 1)
    return Volume(values.reshape(1, *grid.shape).astype(np.float32), grid).to_sitk()


def smooth_field(grid: Grid, millimetres: float = 2.0) -> DisplacementField:
    """`wave` on a grid, by way of SimpleITK's vector image of millimetres."""
    values = wave(voxel_centres(grid), grid.centre, millimetres).reshape(*grid.shape, grid.dimension)
    return DisplacementField.from_sitk(placed(sitk.GetImageFromArray(values, isVector=True), grid))


def placed(image: sitk.Image, grid: Grid) -> sitk.Image:
    """Give an image the header of a grid, by SimpleITK alone."""
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def smooth_displacement(shape: tuple[int, ...], voxels: float = 1.0, dtype=torch.float32) -> torch.Tensor:
    """A smooth displacement `[1, d, *S]` in voxels that vanishes at no particular place."""
    d = len(shape)
    axes = torch.meshgrid(*[torch.linspace(0, 1, n, dtype=torch.float64) for n in shape], indexing="ij")
    waves = [torch.sin(3 * axes[c] + 2 * axes[(c + 1) % d] + c) for c in range(d)]
    return (voxels * torch.stack(waves)).unsqueeze(0).to(dtype)


def random_points(grid: Grid, count: int = 200, margin: float = 0.0, seed: int = 0) -> np.ndarray:
    """Physical points inside a grid (`margin` < 0: also that many voxels outside)."""
    index = np.random.default_rng(seed).uniform(margin, np.array(grid.size) - 1 - margin, (count, grid.dimension))
    return grid.physical(index)
