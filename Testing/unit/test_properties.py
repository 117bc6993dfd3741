"""What must hold for any grid, any displacement and any map: properties, tried on random examples."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from geometry import placed, voxel_centres
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume

settings.register_profile(
    "unit", max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")

seeds = st.integers(0, 2**32 - 1)
dimensions = st.sampled_from([2, 3])


@st.composite
def orthogonal_grids(draw, dimension=dimensions) -> Grid:
    """A grid of any size, spacing, origin, orientation and handedness."""
    d = draw(dimension)
    rng = np.random.default_rng(draw(seeds))
    cosines, _ = np.linalg.qr(rng.normal(size=(d, d)))
    cosines = cosines @ np.diag(rng.choice([-1, 1], d))
    return Grid(
        tuple(rng.integers(2, 9, d).tolist()),
        tuple(rng.uniform(0.3, 6, d).tolist()),
        tuple(rng.uniform(-2000, 2000, d).tolist()),
        tuple(cosines.ravel().tolist()),
    )


@st.composite
def displacements(draw, voxels: float = 1.0, dimension=dimensions) -> torch.Tensor:
    """A smooth random displacement `[1, d, *S]`, at most about `voxels` long along every axis."""
    d = draw(dimension)
    shape = draw(st.tuples(*[st.integers(4, 11)] * d))
    coarse = torch.rand(1, d, *[3] * d, generator=torch.Generator().manual_seed(draw(seeds) % 2**31))
    return voxels * (2 * spatial.resize(coarse, shape) - 1)


@given(orthogonal_grids(), seeds)
def test_index_and_physical_are_inverse_and_itks(grid, seed):
    index = np.random.default_rng(seed).uniform(-20, 20, (5, grid.dimension))
    points = grid.physical(index)
    by_itk = [grid.empty_sitk().TransformContinuousIndexToPhysicalPoint(i.tolist()) for i in index]
    assert np.allclose(points, by_itk, atol=1e-6)
    assert np.allclose(grid.index(points), index, atol=1e-6)


@given(orthogonal_grids(), seeds)
def test_any_chain_maps_as_itk_and_as_its_own_field(grid, seed):
    rng = np.random.default_rng(seed)
    d = grid.dimension
    matrix = np.eye(d + 1)
    matrix[:d, :d] += rng.uniform(-0.1, 0.1, (d, d))
    matrix[:d, d] = grid.centre - matrix[:d, :d] @ grid.centre + rng.uniform(-2, 2, d)
    values = torch.from_numpy(rng.uniform(-0.6, 0.6, (1, d, *grid.shape))).float()
    transform = Transform((DisplacementField(values, grid), Affine(matrix), DisplacementField(0.5 * values, grid)))
    points = voxel_centres(grid)
    middle = DisplacementField(values, grid).map_points(points)
    edge = grid.index(Affine(matrix).map_points(middle)) + 0.5
    assume((np.abs(edge) > 1e-3).all() and (np.abs(edge - np.array(grid.size)) > 1e-3).all())  # where a field ends
    by_itk = np.array([transform.to_sitk().TransformPoint(p.tolist()) for p in points])
    assert np.allclose(transform.map_points(points), by_itk, atol=1e-3)
    on_grid = transform.displacement_on(grid).millimetres()[0].reshape(d, -1).T.numpy()
    assert np.allclose(points + on_grid, by_itk, atol=1e-3)


@given(orthogonal_grids(), seeds)
def test_millimetres_and_voxels_convert_without_loss(grid, seed):
    array = np.random.default_rng(seed).normal(size=(*grid.shape, grid.dimension))
    image = placed(sitk.GetImageFromArray(array, isVector=True), grid)
    field = DisplacementField.from_sitk(image)
    assert np.allclose(sitk.GetArrayFromImage(field.to_image()), array, atol=1e-4)


@given(orthogonal_grids(), seeds, st.floats(0.5, 5))
def test_resampling_keeps_a_linear_image_linear(grid, seed, spacing):
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-1, 1, grid.dimension)
    values = ((voxel_centres(grid) - grid.centre) @ slope).reshape(1, *grid.shape)
    other = grid.resampled(spacing)
    found = Volume(values, grid).resampled(other).array[0].ravel()
    points = voxel_centres(other)
    index = grid.index(points)
    inside = ((index >= 0) & (index <= np.array(grid.size) - 1)).all(axis=1)
    assert np.allclose(found[inside], ((points - grid.centre) @ slope)[inside], atol=1e-5)


@given(displacements())
def test_warping_by_zero_and_composing_with_zero_change_nothing(displacement):
    zero = torch.zeros_like(displacement)
    assert torch.allclose(spatial.warp(displacement, zero), displacement, atol=1e-5)
    assert torch.allclose(spatial.compose(displacement, zero), displacement, atol=1e-5)
    assert torch.allclose(spatial.compose(zero, displacement), displacement, atol=1e-5)


@given(displacements(), st.floats(-3, 3))
def test_warping_is_linear_in_the_image(displacement, factor):
    image = displacement[:, :1] + 1
    other = displacement[:, 1:2]
    together = spatial.warp(image + factor * other, displacement)
    apart = spatial.warp(image, displacement) + factor * spatial.warp(other, displacement)
    assert torch.allclose(together, apart, atol=1e-4)


@given(displacements(voxels=5))
def test_a_warped_image_stays_within_its_range(displacement):
    image = displacement[:, :1]
    warped = spatial.warp(image, displacement, padding="border")
    assert warped.min() >= image.min() - 1e-5
    assert warped.max() <= image.max() + 1e-5


@given(displacements(voxels=0.6))
def test_an_inverse_brings_points_back(displacement):
    assume(spatial.jacobian_determinant(displacement).min() > 0.3)
    found = spatial.invert(displacement)
    assert found.mean_residual < 0.05


@given(displacements(voxels=2))
def test_half_the_time_twice_is_the_whole_time(velocity):
    half = spatial.integrate(velocity / 2)
    assert torch.allclose(spatial.compose(half, half), spatial.integrate(velocity), atol=0.05)


@given(displacements(voxels=1.5), st.floats(0.4, 2.5))
def test_resizing_keeps_the_map_of_a_displacement(displacement, factor):
    shape = tuple(max(2, round(n * factor)) for n in displacement.shape[2:])
    found = spatial.resize_displacement(displacement, shape)
    corner = (0, slice(None), *[-1] * len(shape))
    ratio = [(n - 1) / (o - 1) for n, o in zip(shape, displacement.shape[2:], strict=True)]
    assert torch.allclose(found[corner], displacement[corner] * torch.tensor(ratio), atol=1e-4)


@settings(max_examples=8)
@given(displacements(voxels=8))
def test_any_displacement_can_be_unfolded(displacement):
    unfolded = spatial.remove_folding(displacement)
    assert spatial.folding_fraction(unfolded) == 0


@given(displacements(voxels=3), st.floats(0, 3))
def test_smoothing_keeps_the_range_and_a_constant(displacement, sigma):
    smooth = spatial.gaussian_smooth(displacement, sigma)
    assert smooth.min() >= displacement.min() - 1e-4
    assert smooth.max() <= displacement.max() + 1e-4
    constant = torch.full_like(displacement, 0.37)
    assert torch.allclose(spatial.gaussian_smooth(constant, sigma), constant, atol=1e-5)
