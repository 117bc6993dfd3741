"""Displacement over the steps, read back by others: SimpleITK, and 3D Slicer's own reader where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from geometry import AWKWARD, GRIDS, random_points, smooth_field

from RecurrentRegistrationLib.report.sequence import coarsened, write_sequence
from RecurrentRegistrationLib.transform import DisplacementField, Transform

NAMES = ["left-handed oblique", "permuted", "2D oblique"]


def written(name: str, path) -> DisplacementField:
    """A sequence of zero, a field and twice the field."""
    field = smooth_field(GRIDS[name])
    write_sequence(field.grid, (DisplacementField(field.values * n, field.grid) for n in (1, 2)), [7, 20], path)
    return field


@pytest.mark.parametrize("name", NAMES)
def test_itk_reads_every_frame_on_the_grid(tmp_path, name):
    field = written(name, tmp_path / "steps.seq.nrrd")
    image = sitk.ReadImage(str(tmp_path / "steps.seq.nrrd"))
    d = field.dimension
    assert image.GetSize() == (*field.grid.size, *([1] if d == 2 else []), 3)
    assert np.allclose(image.GetOrigin()[:d], field.grid.origin)
    assert np.allclose(image.GetSpacing()[:d], field.grid.spacing)
    assert np.allclose(np.reshape(image.GetDirection(), (4, 4))[:d, :d], field.grid.cosines)
    frames = sitk.GetArrayFromImage(image)
    millimetres = field.millimetres()[0].movedim(0, -1).numpy()
    for n in range(3):
        assert np.allclose(frames[n, ..., :d].reshape(millimetres.shape), n * millimetres, atol=1e-5)
        assert (frames[n, ..., d:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_slicer_reads_transforms_from_parent(tmp_path, name):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core, 3D Slicer's libraries")
    field = written(name, tmp_path / "steps.seq.nrrd")
    scene, sequence = slicer.vtkMRMLScene(), slicer.vtkMRMLSequenceNode()
    scene.AddNode(sequence)
    storage = slicer.vtkMRMLTransformSequenceStorageNode()
    storage.SetFileName(str(tmp_path / "steps.seq.nrrd"))
    assert storage.ReadData(sequence)
    assert [sequence.GetNthIndexValue(n) for n in range(sequence.GetNumberOfDataNodes())] == ["0", "7", "20"]
    missing = 3 - field.dimension
    points = random_points(field.grid, 20, margin=1.0)
    moved = np.pad(Transform((field,)).map_points(points) - points, ((0, 0), (0, missing)))
    points, ras = np.pad(points, ((0, 0), (0, missing))), np.array([-1, -1, 1])
    for n in range(3):
        grid = sequence.GetNthDataNode(n).GetTransformFromParent()
        grid.SetInterpolationModeToLinear()
        found = np.array([grid.TransformPoint(point * ras) for point in points]) * ras
        assert np.allclose(found, points + n * moved, atol=1e-3)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_coarser_grid_ends_where_the_image_ends(name):
    grid = GRIDS[name]
    coarse = coarsened(grid, 5)
    assert max(coarse.size) <= 6
    assert np.allclose(sorted(map(tuple, coarse.corners())), sorted(map(tuple, grid.corners())))
    assert coarsened(grid, 1000).almost_equal(grid)
