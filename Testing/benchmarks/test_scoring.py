"""The benchmark's judge, on mappings whose every measure is known."""

from pathlib import Path

import manifest
import numpy as np
import pytest
import scoring
import SimpleITK as sitk

OBLIQUE_LEFT_HANDED = (0.0, 0.6, 0.8, -1.0, 0.0, 0.0, 0.0, -0.8, 0.6)
SHIFT = (3.0, -2.0, 4.0)


def grid(size: tuple[int, ...], spacing: tuple[float, ...], direction: tuple[float, ...]) -> sitk.Image:
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin([10.0, -20.0, 30.0][: len(size)])
    return image


def field_of(transform: sitk.Transform, like: sitk.Image) -> sitk.Image:
    return sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        like.GetSize(),
        like.GetOrigin(),
        like.GetSpacing(),
        like.GetDirection(),
    )


@pytest.mark.parametrize(
    ("size", "spacing", "direction", "matrix"),
    [
        ((9, 8, 7), (1.0, 2.0, 3.0), OBLIQUE_LEFT_HANDED, (1.2, 0.1, 0.0, -0.2, 0.9, 0.3, 0.0, 0.1, 1.1)),
        ((9, 8), (0.5, 2.0), (0.6, 0.8, 0.8, -0.6), (1.3, 0.2, -0.1, 0.8)),
    ],
)
def test_jacobian_of_a_linear_map_is_its_determinant(size, spacing, direction, matrix):
    like = grid(size, spacing, direction)
    linear = sitk.AffineTransform(len(size))
    linear.SetMatrix(matrix)
    expected = np.linalg.det(np.reshape(matrix, (len(size), -1)))
    np.testing.assert_allclose(scoring.jacobian_determinant(field_of(linear, like)), expected, rtol=1e-5)


@pytest.fixture
def shifted(tmp_path: Path) -> manifest.Pair:
    """A pair whose moving image is the fixed one, moved by SHIFT and stored on another grid."""
    fixed = grid((30, 24, 20), (2.0, 2.5, 3.0), OBLIQUE_LEFT_HANDED)
    moving = grid((60, 70, 60), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    centre = np.array(fixed.TransformContinuousIndexToPhysicalPoint([14.5, 11.5, 9.5]))
    moving.SetOrigin((centre - (30, 35, 30)).tolist())

    def ball(like: sitk.Image, at: np.ndarray) -> sitk.Image:
        points = sitk.GetArrayFromImage(sitk.PhysicalPointSource(sitk.sitkVectorFloat64, *geometry(like)))
        distance = np.linalg.norm(points - at, axis=-1)
        image = sitk.GetImageFromArray(np.clip(12 - distance, 0, None).astype(np.float32))
        image.CopyInformation(like)
        return image

    names = {}
    for name, like, at in (("fixed", fixed, centre), ("moving", moving, centre + SHIFT)):
        image = ball(like, at)
        labels = sitk.Cast(image > 4, sitk.sitkUInt8) * (3 if name == "fixed" else 8)
        for key, value in ((name, image), (f"{name}_labels", labels)):
            names[key] = tmp_path / f"{key}.nrrd"
            sitk.WriteImage(value, str(names[key]))
        names[f"{name}_points"] = tmp_path / f"{name}.txt"
        index = like.TransformPhysicalPointToContinuousIndex(np.add(at, (5, 3, -4)).tolist())
        names[f"{name}_points"].write_text("index\n1\n" + " ".join(map(str, index)) + "\n")
    truth = sitk.TranslationTransform(3, SHIFT)
    names["reference_field"] = tmp_path / "truth.nrrd"
    sitk.WriteImage(field_of(truth, fixed), str(names["reference_field"]))
    return manifest.Pair("shifted", structures={"ball": (3, 8)}, **names)


def geometry(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()


def test_the_true_mapping_scores_perfectly(shifted):
    result = scoring.score(shifted, shifted.reference_field)
    assert result["tre"] == pytest.approx(0, abs=1e-3)
    assert result["distance"] == pytest.approx(0, abs=1e-6)
    assert result["dice"] > 0.9  # the two grids sample the ball differently
    assert result["ncc"] > 0.999
    assert result["folding_voxels"] == 0
    assert result["std_log_jacobian"] == pytest.approx(0, abs=1e-5)
    assert result["seen_percent"] == pytest.approx(100)


def test_no_mapping_scores_the_shift(shifted, tmp_path):
    like = sitk.ReadImage(str(shifted.fixed))
    nothing = tmp_path / "nothing.nrrd"
    sitk.WriteImage(field_of(sitk.Transform(3, sitk.sitkIdentity), like), str(nothing))
    result = scoring.score(shifted, nothing)
    assert result["tre"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-3)
    assert result["distance"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-6)
    assert result["dice"] < 0.7


def test_a_reflection_folds_every_voxel(shifted, tmp_path):
    mirror = sitk.AffineTransform(3)
    mirror.SetMatrix((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    like = sitk.ReadImage(str(shifted.fixed))
    path = tmp_path / "mirror.nrrd"
    sitk.WriteImage(field_of(mirror, like), str(path))
    result = scoring.score(shifted, path)
    assert result["folding_percent"] == 100
    assert result["folding_voxels"] == like.GetNumberOfPixels()


def test_a_field_on_another_grid_is_refused(shifted):
    with pytest.raises(ValueError, match="grid of the fixed image"):
        scoring.score(shifted, shifted.moving)


def test_a_manifest_with_an_unknown_entry_is_refused(tmp_path):
    (tmp_path / "a.nrrd").touch()
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\npairs: [{name: p, fixed: a.nrrd, moving: a.nrrd, fixd_mask: a.nrrd}]\n")
    with pytest.raises(ValueError, match="fixd_mask"):
        manifest.read(path, tmp_path)


def test_neighbours_pair_each_image_with_the_next(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in ("b", "a", "c"):
            (tmp_path / folder / f"{name}.nii.gz").touch()
    path = tmp_path / "list.yaml"
    path.write_text("name: list\nneighbours: {images: images, labels: labels, count: 2}\n")
    pairs = manifest.read(path, tmp_path).pairs
    assert [(p.fixed.name, p.moving.name) for p in pairs] == [
        ("a.nii.gz", "b.nii.gz"),
        ("b.nii.gz", "c.nii.gz"),
    ]
