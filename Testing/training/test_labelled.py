"""Single labelled images: what is drawn from them, and what a network learns of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from RecurrentRegistrationLib import weights
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.appearance import RandomContrast, Scanner
from RecurrentRegistrationLib.train.cards import Card, publish
from RecurrentRegistrationLib.train.labelled import LabelledImages
from RecurrentRegistrationLib.train.lesson import Lesson, dice_of_regions, soft_dice
from RecurrentRegistrationLib.train.module import Training
from RecurrentRegistrationLib.train.reading import Reader
from RecurrentRegistrationLib.train.sources import Folder
from RecurrentRegistrationLib.train.splits import Split
from RecurrentRegistrationLib.volume import Grid, Volume

CLEAN = (Scanner(bias=0.0, noise=0.0, gamma=0.0),)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images of two boxes, left (label 5) and right (label 7), inside a third (label 2)."""
    for n in range(4):
        labels = np.zeros((1, 16, 16, 24), np.uint8)
        labels[:, 3:13, 3:13, 2:22] = 2
        labels[:, 5:9, 5 + n % 2 : 9, 4:8] = 5
        labels[:, 5:9, 5:9, 16:20] = 7
        image = labels.astype(np.float32) * 10
        for array, name in ((image, f"s{n}"), (labels, f"s{n}_labels")):
            Volume(array, Grid.regular(array.shape[1:])).write(tmp_path / "set" / f"{name}.nii.gz")
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir(exist_ok=True)


def data(images: Path, **changes) -> LabelledImages:
    source = Folder(".", ".", pattern="s[0-9].nii*", suffix="_labels", root=images)
    settings = {
        "regions": [[2], [5, 7]],
        "reader": Reader(shape=(16, 16, 24), spacing=1.0),
        "shape": (12, 12, 16),
        "scanners": CLEAN,
        "split": Split(2, 1, 1, shuffle=False),
    }
    made = LabelledImages(source, **{**settings, **changes})
    made.setup()
    return made


def test_a_patch_is_cut_from_the_image_and_its_regions_alike(images: Path) -> None:
    made = data(images)
    assert made.held_back == ("set/s3.nii.gz",)
    assert made.spacing == (1.0, 1.0, 1.0)
    for n in range(4):
        item = made.training[n]
        assert item["image"].shape == item["labels"].shape == (1, 12, 12, 16)
        grey = item["image"].unique()
        assert [item["labels"][item["image"] == g].float().std().item() for g in grey if g in (0, 1)] == [0.0, 0.0]
        assert torch.equal(item["labels"], made.training[n]["labels"])
    whole = made.validating[0]
    assert torch.bincount(whole["labels"].flatten()).tolist() == [6144 - 2000, 2000 - 128, 128]


def test_a_mirrored_image_keeps_its_regions_in_place(images: Path) -> None:
    made = data(images, mirror=True, shape=(16, 16, 24))
    sides = {(item["labels"][0, 5, 5, 4] == 2).item() for item in (made.training[n] for n in range(12))}
    assert sides == {True, False}  # the left box of every second image is thinner


def test_painted_regions_have_one_grey_each(images: Path) -> None:
    made = data(images, painted=1.0, paint=RandomContrast(bias=0.0, noise=0.0, gamma=0.0, texture=0.0, blur=0.0))
    item, other = made.training[0], made.training[1]
    greys = [[i["image"][i["labels"] == region].unique() for region in range(3)] for i in (item, other)]
    assert all(len(grey) == 1 for found in greys for grey in found)
    assert greys[0][2] != greys[1][2]


def test_dice_of_regions_counts_those_that_are_there() -> None:
    wanted = torch.tensor([[[0, 1, 1, 2]]])
    found = torch.tensor([[[0, 1, 2, 2]]])
    assert dice_of_regions(found, wanted, 5) == pytest.approx(2 / 3)
    shares = torch.nn.functional.one_hot(found[:, 0], 5).movedim(2, 1).float()
    assert soft_dice(shares, wanted).item() == pytest.approx((3 / 4 + 3 / 4) / 2)


def test_a_lesson_of_regions_is_learnt(images: Path) -> None:
    torch.manual_seed(0)
    training = Training("refine", options={"features": {"labels": 2, "width": 4}}, lesson=Lesson("features"))
    batch = {key: value.unsqueeze(0) for key, value in data(images).training[0].items()}
    optimiser = torch.optim.Adam(training.method.parameters(), lr=1e-2)
    told = []
    for _ in range(25):
        parts, dice = training._taught(batch)
        optimiser.zero_grad()
        sum(parts.values()).backward()
        optimiser.step()
        told.append((parts["cross_entropy"].item(), parts["dice"].item(), dice))
    assert told[-1][0] < 0.5 * told[0][0]
    assert told[-1][1] < told[0][1] - 0.15
    assert told[-1][2] > told[0][2] + 0.05


def test_a_card_tells_how_features_are_used_where_that_differs_from_the_training(images: Path, tmp_path: Path) -> None:
    learnt = {"features": {"labels": 2, "width": 4}}
    method = Training("refine", options=learnt, lesson=Lesson("features")).method
    told = {"name": "refine", "dimension": 3, "options": learnt, "steps": None, "spacing": [3.0] * 3, "seed": 0}
    weights.write(method, tmp_path / "model.safetensors", told)
    used = {"features": {**learnt["features"], "coarsening": 1.5}, "feature_weight": 2.0}
    card = Card("boxes", "Boxes.", "Boxes", "CC0-1.0", spacing=2.0, options=used)
    publish(card, tmp_path / "model.safetensors", tmp_path, data(images))
    model = weights.find("boxes", tmp_path)
    assert (model.spacing, model.options, model.held_back) == (2.0, used, ("set/s3.nii.gz",))
    made = weights.create(model)
    assert (made.features.coarsening, made.feature_weight) == (1.5, 2.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"regions": []}, "one region"),
        ({"shape": (20, 12, 16)}, "no smaller"),
        ({"split": Split(1, 0, 0)}, None),
    ],
)
def test_what_cannot_be_used_is_said(settings: dict, words: str | None, images: Path) -> None:
    if words is None:
        assert len(data(images, **settings).validating) == 0
        return
    with pytest.raises(InputError, match=words):
        data(images, **settings)
