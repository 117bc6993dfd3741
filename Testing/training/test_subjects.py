"""Pairs of labelled subjects lie to each other as they should, and their weights get a card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from RecurrentRegistrationLib import weights
from RecurrentRegistrationLib.cli import run
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train import starts
from RecurrentRegistrationLib.train.appearance import Recolouring, Scanner
from RecurrentRegistrationLib.train.lesson import Lesson
from RecurrentRegistrationLib.train.module import Training
from RecurrentRegistrationLib.train.sources import Folder
from RecurrentRegistrationLib.train.splits import Split
from RecurrentRegistrationLib.train.starts import LabelCentres, LinearStage
from RecurrentRegistrationLib.train.subjects import Jitter, SubjectPairs
from RecurrentRegistrationLib.volume import Grid, Volume

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE, SPACING, ORIGINS = (20, 26, 22), 1.0, ((0, 0, 0), (30, -10, 5), (4, 4, 4), (9, 0, 0), (0, 7, 0))
STILL = {"jitter": Jitter(0, 0, 0), "scanner": Scanner(0, 0, 0)}


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    """Five subjects `s0` to `s4`: one ellipsoid of two labels, scanned at other places."""
    place = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    far = sum(((p - m) / r) ** 2 for p, m, r in zip(place, (9, 14, 10), (5, 8, 4), strict=True))
    labels = (far < 1).astype(np.uint8) + (far < 0.3)
    for number, origin in enumerate(ORIGINS):
        grid = Grid(SHAPE[::-1], (SPACING,) * 3, origin, tuple(np.eye(3).ravel()))
        Volume((60 * labels + 20 * (far < 1.4)).astype(np.float32)[None], grid).write(
            tmp_path / "data" / "images" / f"s{number}.nii.gz"
        )
        Volume(labels[None], grid).write(tmp_path / "data" / "labels" / f"s{number}.nii.gz")
    return tmp_path / "data"


def pairs(folder: Path, **settings: object) -> SubjectPairs:
    arguments = {"classes": (1, 2), "shape": (16, 20, 16), "spacing": 1.5, "split": Split(2, 2, 1, shuffle=False)}
    data = SubjectPairs(Folder(Path("images"), Path("labels"), root=folder), **(arguments | settings))
    data.setup()
    return data


def test_label_centres_lay_the_same_anatomy_upon_itself(subjects: Path) -> None:
    item = pairs(subjects, **STILL).validating[0]
    assert item["names"] == ("s2", "s3")
    torch.testing.assert_close(item["moving_maps"], item["fixed_maps"], atol=1e-4, rtol=0)
    torch.testing.assert_close(item["moving"], item["fixed"], atol=1e-4, rtol=0)
    voxels = item["fixed_maps"].sum(dim=(1, 2, 3)) * 1.5**3  # mm^3
    assert voxels[1].item() == pytest.approx(4 / 3 * np.pi * 5 * 8 * 4 * 0.3**1.5, rel=0.06)


def test_jitter_moves_the_moving_subject_by_what_it_says(subjects: Path) -> None:
    data = pairs(subjects, **STILL)
    shifted = np.eye(4)
    shifted[:3, 3] = (3.0, 0.0, -1.5)  # x, y, z: two voxels along the last axis, one along the first
    item = data.pair("s0", "s1", shifted)
    moved = item["fixed_maps"].roll((1, -2), (1, 3))
    torch.testing.assert_close(item["moving_maps"], moved, atol=1e-4, rtol=0)
    middle = np.array([3.0, 4.0, 5.0])
    turned = Jitter(rotation=10, stretch=0, shift=0)(middle, np.random.default_rng(0))
    np.testing.assert_allclose(turned[:3, :3] @ turned[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turned[:3] @ [*middle, 1], middle)
    assert np.degrees(np.arccos((np.trace(turned[:3, :3]) - 1) / 2)) > 1


def test_a_draw_depends_on_its_number_alone_and_ends_where_the_fixed_image_does(subjects: Path) -> None:
    one, other = (pairs(subjects, shape=(40, 40, 40)) for _ in range(2))
    ahead, again = [one.training[n] for n in range(3)], [other.training[n] for n in (2, 1, 0)][::-1]
    for a, b in zip(ahead, again, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a if key not in ("names", "spacing"))
    assert not torch.equal(ahead[0]["fixed"], ahead[1]["fixed"])
    assert not ahead[0]["moving"][ahead[0]["fixed_mask"] == 0].any()
    assert (ahead[0]["fixed_mask"] == 0).any()


def test_the_linear_stage_is_found_once_and_kept(
    subjects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, first = LinearStage(tmp_path / "kept" / "linear.json"), subjects / "images" / "s0.nii.gz"
    start.keep.parent.mkdir()
    other = subjects / "images" / "s1.nii.gz"
    labels = Volume.read(subjects / "labels" / "s1.nii.gz")
    found = start(other, labels, first)
    np.testing.assert_allclose(found.matrix @ [10, 14, 9, 1], [40, 4, 14, 1], atol=0.3)
    monkeypatch.setattr(starts, "linear_map", lambda *_: pytest.fail("it is known"))
    np.testing.assert_array_equal(start(other, labels, first).matrix, found.matrix)
    np.testing.assert_allclose(LabelCentres()(other, labels, first).matrix[:3, 3], [40, 4, 14])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": (7,)}, "none of the labels 7"),
        ({"classes": ()}, "classes"),
        ({"spacing": 0.0}, "spacing"),
        ({"split": Split(1, 3, 1, shuffle=False)}, "two subjects"),
        ({"preset": "xray"}, "preset"),
    ],
)
def test_what_cannot_be_used_is_said(settings: dict, words: str, subjects: Path) -> None:
    with pytest.raises(InputError, match=words):
        pairs(subjects, **settings)


def test_recolouring_is_a_curve_of_the_intensities() -> None:
    image = torch.linspace(0, 1, 101).view(1, 1, 101, 1)
    image = torch.cat([image, image.flip(2)], dim=3)
    scanner = Recolouring(bias=0, noise=0, gamma=0, knots=6)
    one, other = (scanner.spoil(image, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert (one.min(), one.max()) == (0, 1)
    torch.testing.assert_close(one[..., 0], one[..., 1].flip(2))  # equal intensities stay equal
    assert (one - other).abs().max() > 0.2
    inside = one[0, 0, :, 0].diff().diff().view(-1)
    corners = (inside.abs() > 1e-4).nonzero().flatten() + 1
    assert set(corners.tolist()) <= {20, 40, 60, 80}  # straight between the knots


def test_a_lesson_teaches_its_part_alone(subjects: Path) -> None:
    torch.manual_seed(0)
    options = {"stages": [{"factor": 1, "steps": 1, "radius": 1, "patch": 1.0}], "features": 8, "hidden": 8}
    training = Training("rwcnet", options=options, lesson=Lesson("networks.0.features"))
    learning = {name for name, p in training.method.named_parameters() if p.requires_grad}
    assert learning
    assert all(name.startswith("networks.0.features.") for name in learning)
    item = pairs(subjects, shape=(16, 24, 16)).training[0]
    batch = {key: value.unsqueeze(0) if torch.is_tensor(value) else [value] for key, value in item.items()}
    optimiser = torch.optim.Adam([p for p in training.method.parameters() if p.requires_grad], lr=3e-3)
    told = []
    for _ in range(25):
        parts, dice = training._taught(batch)
        optimiser.zero_grad()
        sum(parts.values()).backward()
        optimiser.step()
        told.append(dice)
    assert np.mean(told[-5:]) > told[0] + 0.15
    with pytest.raises(InputError, match=r"no part 'networks\.9'"):
        Training("rwcnet", options=options, lesson=Lesson("networks.9"))
    with pytest.raises(InputError, match="SubjectPairs"):
        training._taught({key: value for key, value in batch.items() if "maps" not in key})


def test_weights_that_ship_have_a_card(
    write: Callable[..., Path], subjects: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    data = {
        "source": {
            "class_path": "Folder",
            "init_args": {"root": str(subjects), "images": "images", "labels": "labels"},
        },
        "split": {"train": 3, "validation": 1, "test": 1, "shuffle": False},
        "classes": [1, 2],
        "shape": [8, 12, 10],
        "spacing": 2.5,
        "batch_size": 1,
    }
    card = {"name": "eggs", "summary": "Eggs.", "data": "Eggs of hens", "licence": "CC0-1.0", "steps": 3}
    changes = {
        "data": {"class_path": "SubjectPairs", "init_args": data},
        "model__dimension": 3,
        "model__half_precision": True,
        "card": card,
    }
    config = write(**changes, model__losses=[{"term": "dice", "options": {"squared": True}}], trainer__max_steps=1)
    out = tmp_path / "out"
    assert run(["train", str(config), "-o", str(out)]) == 0
    assert Path(capfd.readouterr().out.split()[-1]) == out / "eggs"
    model = weights.find("eggs", out)
    assert (model.data, model.steps, model.spacing) == ("Eggs of hens, 3 subjects", 3, 2.5)
    assert model.held_back == ("data/images/s4.nii.gz",)
    assert (model.configuration, model.seed, model.licence) == ("config.yaml", 0, "CC0-1.0")
    trained = weights.create(replace(model, folder=out, file="model.safetensors", sha256="")).state_dict()
    assert all(value.equal(trained[name]) for name, value in weights.create(model).state_dict().items())
    (out / "eggs" / "card.json").unlink()
    assert run(["train", str(config), "-o", str(out), "--resume"]) == 0  # nothing to train: the card alone
    assert json.loads((out / "eggs" / "card.json").read_text())["sha256"] == model.sha256


def test_a_card_needs_subjects_to_hold_back(write: Callable[..., Path], tmp_path: Path, capfd) -> None:
    card = {"name": "a", "summary": "b", "data": "c", "licence": "d"}
    assert run(["train", str(write(card=card)), "-o", str(tmp_path / "out")]) == 2
    assert "SubjectPairs" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
