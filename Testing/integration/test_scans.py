"""Real scans, default settings: closer than before, no folding, and a way back.

The brain of the first test comes out of nilearn's package; the other scans lie beside the repository, and their tests
are skipped, saying so, where they do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.benchmark.scoring import foreground
from RecurrentRegistrationLib.evaluation import evaluate
from RecurrentRegistrationLib.pipeline import Options, register
from RecurrentRegistrationLib.points import read_points
from RecurrentRegistrationLib.transform import DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume, resample

SCANS = Path(__file__).parents[3] / "shared" / "data"


def scan(name: str) -> Volume:
    return Volume.read(SCANS / name)


def registered(
    fixed: Volume,
    moving: Volume,
    options: Options | None = None,
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    **truth: Any,
) -> dict[str, Any]:
    """What `evaluate` finds inside the fixed body, with the labels or points of `truth`, after `register`."""
    found = register(fixed, moving, options=options, fixed_mask=fixed_mask, moving_mask=moving_mask)
    body = fixed_mask or Volume(foreground(fixed.array[0])[None].astype(np.uint8), fixed.grid)
    measured = evaluate(found.transform, fixed, moving, fixed_mask=body, **truth)
    assert measured["folding"]["everywhere"]["voxels"] == 0
    assert measured["inverse_residual_mm"]["mean"] < 0.1
    return measured


def test_a_known_displacement_of_a_real_brain(tmp_path):
    from nilearn.datasets import load_mni152_template

    load_mni152_template(resolution=4).to_filename(tmp_path / "brain.nii.gz")
    moving = Volume.read(tmp_path / "brain.nii.gz")
    grid = moving.grid
    bumps = torch.randn(1, 3, *grid.shape, generator=torch.Generator().manual_seed(0))
    bumps = spatial.gaussian_smooth(bumps, 5.0)
    truth = Transform((DisplacementField(2 * bumps / bumps.norm(dim=1).mean(), grid),))
    fixed = Volume.from_sitk(resample(moving.to_sitk(), grid, truth.to_sitk()))
    found = register(fixed, moving, options=Options(initial="geometry")).transform
    points = grid.physical(np.argwhere(fixed.array[0] > 0)[:, ::-1].astype(float))
    targets = truth.map_points(points)
    before = np.linalg.norm(points - targets, axis=1).mean()
    assert before > 4
    assert np.linalg.norm(found.map_points(points) - targets, axis=1).mean() < before / 4


def slabs(volume: Volume, thickness: int, first: int) -> Volume:
    """Slices that each show the mean of some, from the first one on."""
    array = volume.array[0][first:]
    count = len(array) // thickness
    array = array[: count * thickness].reshape(count, thickness, *array.shape[1:]).mean(axis=1)
    grid = volume.grid
    origin = grid.physical(np.array([[0, 0, first + (thickness - 1) / 2]]))[0]
    spacing = (*grid.spacing[:2], thickness * grid.spacing[2])
    return Volume(array[None], Grid(array.shape[::-1], spacing, tuple(origin.tolist()), grid.direction))


@pytest.mark.parametrize(("fixed", "moving"), [(3, 1), (2, 3)])
def test_thick_slices_of_the_same_brain_hardly_move(tmp_path, fixed, moving):
    from nilearn.datasets import load_mni152_template

    load_mni152_template(resolution=2).to_filename(tmp_path / "brain.nii.gz")
    brain = Volume.read(tmp_path / "brain.nii.gz")
    image = slabs(brain, fixed, 0)
    options = Options(initial="none", linear="none", spacing=4.0)
    found = register(image, slabs(brain, moving, 1), options=options).transform
    points = image.grid.physical(np.argwhere(image.array[0] > 0.2 * image.array.max())[::29, ::-1].astype(float))
    assert np.linalg.norm(found.map_points(points) - points, axis=1).mean() < 0.5


@pytest.mark.data
@pytest.mark.skipif(not SCANS.is_dir(), reason=f"needs the real scans of {SCANS}")
class TestScans:
    @pytest.mark.parametrize(
        ("numbers", "preset", "dice"),
        [
            (("006", "008"), "auto", 0.8),
            (("322", "325"), "auto", 0.75),  # a quarter of their resolution once led below what the linear map gives
            (("334", "335"), "mr-hippocampus", 0.78),  # 0.75 without the weights
        ],
    )
    def test_two_hippocampi(self, numbers, preset, dice):
        images, labels = (
            [scan(f"hippocampus/{kind}/hippocampus_{n}.nii.gz") for n in numbers] for kind in ("images", "labels")
        )
        truth = {"fixed_labels": labels[0], "moving_labels": labels[1]}
        overlap = registered(*images, Options(preset=preset), **truth)["overlap"]
        assert overlap["after"]["mean"]["dice"] > dice > overlap["before"]["mean"]["dice"]

    def test_two_slices(self):
        measured = registered(*(scan(f"brain_2d_r16_r64/{n}slice.nii.gz") for n in ("r16", "r64")))["similarity"]
        assert measured["after"]["correlation"] > 0.9 > measured["before"]["correlation"]

    def test_unlike_contrasts_of_one_head(self):
        names = sorted(path.name for path in (SCANS / "head_2d_t1_pd").iterdir())
        measured = registered(*(scan(f"head_2d_t1_pd/{name}") for name in names[:2]))["similarity"]
        assert measured["after"]["mutual_information"] > measured["before"]["mutual_information"]

    def test_a_lung_in_two_breaths(self):
        images, masks = (
            [scan(f"lung_ct/3DCT_lung_{visit}{end}.mha") for visit in ("baseline", "followup")] for end in ("", "_mask")
        )
        points = [
            read_points(SCANS / "lung_ct" / f"3DCT_lung_{visit}.txt", image.grid)
            for visit, image in zip(("baseline", "followup"), images, strict=True)
        ]
        found = registered(
            *images,
            fixed_mask=masks[0],
            moving_mask=masks[1],
            fixed_points=points[0],
            moving_points=points[1],
        )
        assert found["landmarks_mm"]["after"]["mean"] <= 2.0

    def test_two_oblique_scans_of_diffusion(self):
        names = sorted(path.name for path in (SCANS / "brain_b0_oblique_ixi").iterdir())
        images = [scan(f"brain_b0_oblique_ixi/{name}") for name in names[:2]]
        measured = registered(*images, Options(spacing=3.0))["similarity"]
        assert measured["after"]["correlation"] > measured["before"]["correlation"] + 0.1
