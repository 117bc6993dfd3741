"""Each metric against numbers worked out by hand, and against a second implementation where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import DiceMetric, compute_average_surface_distance, compute_hausdorff_distance
from skimage.draw import ellipsoid

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.evaluation import deformation
from RecurrentRegistrationLib.metrics import consistency, folding, intensity, landmarks, overlap, smoothness, surface
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Two ellipsoids that overlap in part, neither in the middle of the box."""
    first, second = np.zeros((24, 26, 30), bool), np.zeros((24, 26, 30), bool)
    body = ellipsoid(6, 7, 8) > 0
    k, j, i = body.shape
    first[1 : 1 + k, 2 : 2 + j, 3 : 3 + i] = body
    second[4 : 4 + k, 3 : 3 + j, 8 : 8 + i] = body
    return first, second


def test_dice_by_hand():
    fixed = np.array([[0, 1, 1, 1], [2, 2, 0, 5]])
    warped = np.array([[0, 1, 1, 0], [2, 0, 0, 7]])
    # label 1: 2·2/(3+2); label 2: 2·1/(2+1); 5 and 7 are each in one map only
    assert overlap.dice(fixed, warped) == pytest.approx({1: 0.8, 2: 2 / 3, 5: 0, 7: 0})


def test_dice_leaves_out_background_and_labels_absent_from_both():
    fixed = np.array([0, 0, 3])
    assert overlap.dice(fixed, fixed, labels=[0, 3, 9]) == {3: 1.0}


def test_dice_equals_monai(blobs):
    first, second = blobs
    channels = [torch.from_numpy(mask)[None, None].float() for mask in blobs]
    assert overlap.dice(first.astype(int), second.astype(int))[1] == pytest.approx(DiceMetric()(*channels).item())


def test_surface_distances_of_shifted_boxes_by_hand():
    fixed, warped = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    fixed[2:5, 2:5] = True
    warped[2:5, 4:7] = True  # two columns of 0.5 mm to the right
    found = surface.surface_distances(fixed, warped, (3.0, 0.5))
    assert found.hausdorff == pytest.approx(1.0)
    # each surface is a ring of 8 voxels; in either direction 3 of them are 1 mm off, 2 are 0.5 mm off, 3 touch
    assert found.average == pytest.approx((3 * 1.0 + 2 * 0.5 + 3 * 0.0) / 8)
    assert 0.5 < found.hausdorff95 <= 1.0


def test_surface_distances_equal_monai(blobs):
    spacing = (1.5, 0.7, 2.0)
    found = surface.surface_distances(*blobs, spacing)
    channels = [torch.from_numpy(mask)[None, None].float() for mask in blobs]
    for percentile, value in ((None, found.hausdorff), (95, found.hausdorff95)):
        theirs = compute_hausdorff_distance(*channels, include_background=True, percentile=percentile, spacing=spacing)
        assert value == pytest.approx(theirs.item(), rel=1e-5)
    theirs = compute_average_surface_distance(*channels, include_background=True, symmetric=True, spacing=spacing)
    assert found.average == pytest.approx(theirs.item(), rel=1e-5)


def test_surface_distance_to_nothing_is_unknown():
    full = np.ones((3, 3, 3), bool)
    assert math.isnan(surface.surface_distances(full, ~full, (1, 1, 1)).hausdorff)
    assert surface.surface_distances(full, full, (1, 1, 1)).average == 0


def test_target_registration_error_by_hand():
    mapped = np.array([[0, 0, 0], [1, 2, 2], [0, 3, 4], [10, 0, 0]], float)
    errors = landmarks.target_registration_error(mapped, np.zeros((4, 3)))
    assert errors.each == (0, 3, 5, 10)
    assert (errors.mean, errors.median, errors.maximum) == (4.5, 4.0, 10.0)
    assert errors.deviation == pytest.approx(math.sqrt((4.5**2 + 1.5**2 + 0.5**2 + 5.5**2) / 4))
    assert errors.tre30 == pytest.approx(5 + 0.1 * 5)  # rank 0.7 · 3 = 2.1


def test_folding_by_hand():
    determinant = np.array([[1.0, -0.5, 0.0], [2.0, -1.5, 1.0]])
    everywhere = folding.folding(determinant)
    assert (everywhere.voxels, everywhere.percent, everywhere.magnitude) == (3, 50.0, 2.0)
    inside = folding.folding(determinant, determinant < 1.5)
    assert (inside.voxels, inside.percent) == (3, 60.0)
    assert folding.folding(determinant, np.zeros((2, 3), bool)).percent == 0


def test_log_jacobian_deviation_by_hand():
    determinant = np.array([math.e, 1 / math.e, math.e, 1 / math.e])
    assert smoothness.log_jacobian_deviation(determinant) == pytest.approx(1.0)
    assert smoothness.log_jacobian_deviation(determinant, np.array([1, 0, 1, 0], bool)) == pytest.approx(0.0)
    assert smoothness.log_jacobian_deviation(np.array([0.0, 1e-9])) == pytest.approx(0.0)  # clipped alike


def test_inverse_consistency_by_hand():
    forward = Affine(np.array([[1, 0, 3.0], [0, 1, 0], [0, 0, 1]]))
    back = Affine(np.array([[1, 0, -3.0], [0, 1, 4.0], [0, 0, 1]]))
    points = np.array([[0.0, 0.0], [5.0, 7.0]])
    assert consistency.inverse_consistency(Transform((forward,)), Transform((back,)), points) == pytest.approx([4, 4])
    assert consistency.inverse_consistency(
        Transform((forward,)), Transform((forward.inverse(),)), points
    ) == pytest.approx([0, 0])


def test_symmetry_error_by_hand():
    forward = torch.zeros(1, 2, 24, 24)
    forward[:, 0] = 2.0
    backward = torch.zeros(1, 2, 24, 24)
    backward[:, 0] = -1.0
    backward[:, 1] = 1.0
    assert consistency.symmetry_error(forward, backward) == pytest.approx(math.log(2))  # residual (1, 1)


def test_intensity_measures_by_hand():
    fixed = np.array([0.0, 1, 2, 3], np.float32)
    assert intensity.root_mean_squared_error(fixed, fixed + 2) == pytest.approx(2)
    assert intensity.correlation(fixed, 5 - 3 * fixed) == pytest.approx(-1)
    assert intensity.correlation(fixed, np.ones(4)) == 0
    assert intensity.mutual_information(fixed, 7 - fixed) == pytest.approx(2)
    crossed = np.array([[0, 0], [1, 1]]), np.array([[0, 1], [0, 1]])
    assert intensity.mutual_information(*crossed, bins=2) == pytest.approx(1)


def smooth_field(grid: Grid, amplitude: float = 1.5) -> DisplacementField:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 3, *grid.shape, generator=generator)
    smooth = spatial.gaussian_smooth(noise, 2.0)
    return DisplacementField(amplitude * smooth / smooth.abs().mean(), grid)


def test_folding_equals_simpleitk_on_an_oblique_grid():
    grid = Grid((14, 12, 10), (1.5, 0.8, 2.5), (3, -4, 5), (0.6, 0.8, 0, -0.8, 0.6, 0, 0, 0, 1))
    field = smooth_field(grid, amplitude=2.5)
    image = sitk.Cast(field.to_image(), sitk.sitkVectorFloat64)
    # ITK's filter takes vectors along the axes of the grid, and leaves the border to its own rule
    along = sitk.GetArrayFromImage(image) @ grid.cosines
    turned = sitk.GetImageFromArray(along, isVector=True)
    turned.SetSpacing(grid.spacing)
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(turned))
    ours = spatial.jacobian_determinant(field.values)[0, 0].numpy()
    inner = (slice(1, -1),) * 3
    assert ours[inner] == pytest.approx(theirs[inner], abs=1e-4)
    found = folding.folding(ours[inner])
    assert found.voxels == (theirs[inner] <= 0).sum() > 0
    assert found.magnitude == pytest.approx(-theirs[inner][theirs[inner] <= 0].sum(), rel=1e-3)


def test_overlap_and_surfaces_equal_simpleitk(blobs):
    spacing = (0.7, 1.1, 1.6)  # i, j, k
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in blobs]
    for image in images:
        image.SetSpacing(spacing)
    overlaps, distances = sitk.LabelOverlapMeasuresImageFilter(), sitk.HausdorffDistanceImageFilter()
    overlaps.Execute(*images)
    distances.Execute(*images)
    ours = surface.surface_distances(*blobs, spacing[::-1])
    assert overlap.dice(*(m.astype(int) for m in blobs))[1] == pytest.approx(overlaps.GetDiceCoefficient(1))
    assert ours.hausdorff == pytest.approx(distances.GetHausdorffDistance(), rel=1e-5)


def test_evaluation_counts_foldings_inside_labels():
    grid = Grid.regular((8, 8))
    values = torch.zeros(1, 2, 8, 8)
    values[0, 1, :, 4:] = -3.0  # columns 3 and 4 fold: half of the jump falls on either
    labels = np.zeros((8, 8), bool)
    labels[:2, :4] = True
    found = deformation(Transform((DisplacementField(values, grid),)), grid, labelled=labels)["folding"]
    assert found["everywhere"]["voxels"] == 16
    assert found["labels"]["voxels"] == 2
    assert found["everywhere"]["magnitude"] == pytest.approx(16 * 0.5)
