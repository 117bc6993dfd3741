"""The benchmark's judge, on mappings whose every measure is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RecurrentRegistrationLib import evaluation
from RecurrentRegistrationLib.benchmark.manifest import Link, Pair, Region
from RecurrentRegistrationLib.benchmark.ours import pair_of
from RecurrentRegistrationLib.benchmark.scoring import Judge, chain, read_result
from RecurrentRegistrationLib.transform import Affine, DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume, write_image

OBLIQUE_LEFT_HANDED = (0.0, 0.6, 0.8, -1.0, 0.0, 0.0, 0.0, -0.8, 0.6)
SHIFT = np.array([3.0, -2.0, 4.0])
FIXED = Grid((30, 24, 20), (2.0, 2.5, 3.0), (10.0, -20.0, 30.0), OBLIQUE_LEFT_HANDED)
CENTRE = FIXED.physical((14.5, 11.5, 9.5))
MOVING = Grid((60, 70, 60), (1.0, 1.0, 1.0), tuple(CENTRE - (30, 35, 30)), tuple(np.eye(3).ravel()))


def translation(vector: np.ndarray) -> Transform:
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return Transform((Affine(matrix),))


def ball(grid: Grid, at: np.ndarray) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.size), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid.physical(index) - at, axis=-1)
    return np.clip(12 - distance, 0, None).T[np.newaxis].astype(np.float32)


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair whose moving image is the fixed one, moved by SHIFT and stored on another grid."""
    folder, files = tmp_path_factory.mktemp("pair"), {}
    for name, grid, at in (("fixed", FIXED, CENTRE), ("moving", MOVING, CENTRE + SHIFT)):
        pixels = ball(grid, at)
        labels = (pixels > 4).astype(np.uint8) * (3 if name == "fixed" else 8)
        for key, array in ((name, pixels), (f"{name}_labels", labels)):
            files[key] = folder / f"{key}.nrrd"
            Volume(array, grid).write(files[key])
        files[f"{name}_points"] = folder / f"{name}.txt"
        index = grid.index(at + np.array([5, 3, -4]))
        files[f"{name}_points"].write_text("index\n1\n" + " ".join(map(str, index)) + "\n", encoding="utf-8")
    files["reference_field"] = folder / "truth.nrrd"
    write_image(translation(SHIFT).displacement_on(FIXED).to_image(), files["reference_field"])
    return Pair("shifted", structures={"ball": (3, 8)}, **files)


def test_the_true_mapping_scores_perfectly(shifted):
    found = Judge(shifted).score(translation(SHIFT))
    assert found["tre_mm"] == pytest.approx(0, abs=1e-3)
    assert found["distance_mm"] == pytest.approx(0, abs=1e-4)
    assert found["dice"] > 0.9  # the two grids sample the ball differently
    assert found["hausdorff_mm"] < 4
    assert found["structures"] == {"ball": {key: found[key] for key in found["structures"]["ball"]}}
    assert found["correlation"] > 0.999
    assert found["folded_voxels"] == found["folded_in_labels"] == 0
    assert found["log_jacobian_deviation"] == pytest.approx(0, abs=1e-5)
    assert found["seen_percent"] > 60


def test_a_label_of_one_map_only_counts_0_as_for_evaluate(shifted, tmp_path):
    """The fixed map has a second label, which the moving one lacks."""
    fixed, moving = Volume.read(shifted.fixed_labels), Volume.read(shifted.moving_labels)
    both = np.where(moving.array > 0, 3, 0).astype(np.uint8)
    more = fixed.array.copy()
    more[:, :3] = 5
    Volume(more, FIXED).write(tmp_path / "fixed.nrrd")
    Volume(both, MOVING).write(tmp_path / "moving.nrrd")
    labels = {"fixed_labels": tmp_path / "fixed.nrrd", "moving_labels": tmp_path / "moving.nrrd"}
    found = Judge(dataclasses.replace(shifted, structures=None, **labels)).accuracy(translation(SHIFT))
    volumes = [Volume.read(path) for path in labels.values()]
    evaluated = evaluation.overlap_of_labels(translation(SHIFT), *volumes)
    assert found["structures"].keys() == evaluated["labels"].keys() == {"3", "5"}
    assert found["structures"]["5"]["dice"] == 0
    assert found["dice"] == evaluated["mean"]["dice"] < 0.5


def test_no_mapping_scores_the_shift(shifted):
    found = Judge(shifted).score(Transform((), 3))
    length = np.linalg.norm(SHIFT)
    assert found["tre_mm"] == found["tre_max_mm"] == pytest.approx(length, abs=1e-3)
    assert found["distance_mm"] == pytest.approx(length, abs=1e-4)
    assert found["distance_p95_mm"] == pytest.approx(length, abs=1e-4)
    assert found["dice"] < 0.7


def test_a_reflection_folds_every_voxel(shifted):
    found = Judge(shifted).score(Transform((Affine(np.diag([-1.0, 1, 1, 1])),)))
    assert found["folding_percent"] == 100
    assert found["folded_voxels"] == 30 * 24 * 20
    assert found["folding_magnitude"] == pytest.approx(30 * 24 * 20, rel=1e-3)


def test_errors_are_averaged_over_the_region_alone(shifted, tmp_path):
    """A field that is right in one half: the region, brought in by a transform of its own, picks that half."""
    values = translation(SHIFT).displacement_on(FIXED).values.clone()
    values[..., 15:] = 0
    half = np.zeros((1, *FIXED.shape), np.uint8)
    half[..., :15] = 1
    moved = Grid(FIXED.size, FIXED.spacing, tuple(np.add(FIXED.origin, (50, 0, 0))), FIXED.direction)
    Volume(half, moved).write(tmp_path / "region.nrrd")
    translation(np.array([50.0, 0, 0])).write(tmp_path / "there.tfm")
    region = Region(tmp_path / "region.nrrd", (Link(tmp_path / "there.tfm"),))
    judge = Judge(dataclasses.replace(shifted, region=region))
    assert judge.region.sum() == half.sum()
    field = Transform((DisplacementField(values, FIXED),))
    assert judge.score(field)["distance_mm"] == pytest.approx(0, abs=1e-4)
    assert Judge(shifted).score(field)["distance_mm"] > 0.5


def test_a_chain_of_files_acts_first_to_last(tmp_path):
    turn = sitk.AffineTransform(2)
    turn.SetMatrix((0.0, -1.0, 1.0, 0.0))
    sitk.WriteTransform(turn, str(tmp_path / "turn.tfm"))
    sitk.WriteTransform(sitk.TranslationTransform(2, (5.0, 0.0)), str(tmp_path / "go.tfm"))
    links = (Link(tmp_path / "go.tfm"), Link(tmp_path / "turn.tfm"))
    assert chain(links, 2).map_points([[1.0, 2.0]]) == pytest.approx(np.array([[-2.0, 6.0]]))
    back = (Link(tmp_path / "turn.tfm", inverse=True), Link(tmp_path / "go.tfm", inverse=True))
    assert chain(back, 2).map_points([[-2.0, 6.0]]) == pytest.approx(np.array([[1.0, 2.0]]))


def test_pairs_survive_the_way_to_another_process(shifted, tmp_path):
    full = dataclasses.replace(
        shifted, region=Region(Path("r.nrrd"), (Link(Path("t.tfm"), True),)), reference=(Link(Path("a.tfm")),)
    )
    assert pair_of(json.loads(json.dumps(dataclasses.asdict(full), default=str))) == full


def test_either_kind_of_result_is_read(shifted, tmp_path):
    assert read_result(tmp_path) is None
    translation(SHIFT).write(tmp_path / "transform.h5")
    assert read_result(tmp_path).map_points([[0.0, 0, 0]]) == pytest.approx(SHIFT[None])
