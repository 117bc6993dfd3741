"""Data sets of every format are read, split by subject, and judged before the first step."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scans_made import scan

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.augmentation import Augmentation
from RecurrentRegistrationLib.train.cases import PARTS, TEST, TRAIN, VALIDATION, Case, Collection
from RecurrentRegistrationLib.train.data import DrawnPairs, ImagePairs
from RecurrentRegistrationLib.train.draws import InOrder, Stream, together
from RecurrentRegistrationLib.train.made import SHAPES, WRITERS
from RecurrentRegistrationLib.train.pairing import pairs, spread
from RecurrentRegistrationLib.train.reading import Reader
from RecurrentRegistrationLib.train.sources import Bids, Folder, Learn2Reg, PairList, Series, Source
from RecurrentRegistrationLib.train.sources.series import read_series
from RecurrentRegistrationLib.train.splits import Split, divide
from RecurrentRegistrationLib.train.store import Store
from RecurrentRegistrationLib.volume import Grid, Volume

pytestmark = pytest.mark.filterwarnings("ignore")

COHORT = Collection(tuple(Case(f"{n}_{session}", f"s{n}", "") for n in range(40) for session in "ab"))


def subjects(cases: list[Case]) -> set[str]:
    return {case.subject for case in cases}


@pytest.mark.parametrize("split", [Split(), Split(train=300, validation=30, test=84), Split(fraction=0.05, seed=3)])
def test_nobody_is_in_two_parts(split: Split) -> None:
    parts = [subjects(divide(COHORT, split)[part]) for part in PARTS]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert all(parts)


def test_fractions_are_nested_and_hold_the_same_people_back() -> None:
    divided = {f: divide(COHORT, Split(fraction=f)) for f in (0.05, 0.1, 0.25, 0.5, 1.0)}
    chosen = [subjects(d[TRAIN]) for d in divided.values()]
    assert [len(c) for c in chosen] == [2, 4, 8, 16, 32]
    assert all(small < large for small, large in itertools.pairwise(chosen))
    assert len({frozenset(subjects(d[TEST])) for d in divided.values()}) == 1


def test_a_split_does_not_depend_on_the_order_of_the_files() -> None:
    shuffled = Collection(COHORT.cases[::-1])
    assert subjects(divide(COHORT, Split())[TEST]) == subjects(divide(shuffled, Split())[TEST])


def test_counts_of_a_paper_are_met() -> None:
    cohort = Collection(tuple(Case(str(n), str(n), "") for n in range(414)))
    divided = divide(cohort, Split(train=300, validation=30, test=84))
    assert [len(divided[part]) for part in PARTS] == [300, 30, 84]


@pytest.mark.parametrize("shares", [{"train": 0}, {"test": -1}, {"fraction": 0}])
def test_an_impossible_split_is_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Split(**shares)


def test_pairings() -> None:
    cases = [Case(f"{s}{g}", s, "", group=g, reference=g == "0") for s in "ab" for g in "01"]
    found = {p: set(pairs(cases, p, COHORT, TRAIN)) for p in ("random", "inter-subject", "longitudinal", "same-group")}
    assert len(found["random"]) == 12
    assert found["longitudinal"] == {("a0", "a1"), ("a1", "a0"), ("b0", "b1"), ("b1", "b0")}
    assert found["inter-subject"] == found["random"] - found["longitudinal"]
    assert found["same-group"] == {("a0", "b0"), ("b0", "a0"), ("a1", "b1"), ("b1", "a1")}
    assert pairs(cases, "next", COHORT, TRAIN) == [("a0", "a1"), ("a1", "b0"), ("b0", "b1")]
    listed = Collection((), {TRAIN: (("a0", "b1"), ("a0", "who"))})
    assert pairs(cases, "listed", listed, TRAIN) == [("a0", "b1")]
    with pytest.raises(InputError, match="finds none"):
        pairs(cases[:1], "random", COHORT, TRAIN)


def test_reference_pairs_stay_in_their_series() -> None:
    cases = [Case(f"{g}{n}", g, "", group=g, reference=n == 1) for g in "ab" for n in range(3)]
    assert set(pairs(cases, "reference", COHORT, TRAIN)) == {("a1", "a0"), ("a1", "a2"), ("b1", "b0"), ("b1", "b2")}


def test_validation_pairs_are_spread() -> None:
    assert spread([(str(n), "") for n in range(10)], 4) == [("0", ""), ("2", ""), ("5", ""), ("7", "")]


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize(
    ("kind", "arguments", "counts"),
    [
        (Folder, {"images": "x", "labels": "x", "keypoints": "x", "masks": "x"}, (6, 6, 6)),
        (Learn2Reg, {}, (6, 6, 6)),
        (PairList, {}, (6, 6, 0)),
        (Bids, {"labels": "dseg"}, (6, 6, 0)),
    ],
)
def test_every_format_is_read(
    kind: type[Source], arguments: dict[str, str], counts: tuple[int, ...], dimension: int, tmp_path: Path
) -> None:
    made = WRITERS[kind.__name__](tmp_path, dimension, arguments)
    collection = kind(**made).collect()
    found = (
        len(collection.cases),
        *(sum(bool(getattr(c, k)) for c in collection.cases) for k in ("labels", "keypoints")),
    )
    assert found == counts
    assert len({case.subject for case in collection.cases}) == 3
    sample = Reader()(collection.cases[0])
    assert tuple(sample["image"].shape[1:]) == SHAPES[dimension]
    assert (sample["image"].min(), sample["image"].max()) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    assert "labels" in sample
    if kind is Learn2Reg:
        assert [len(collection.pairs[part]) for part in (TRAIN, VALIDATION)] == [2, 1]
        assert sample["keypoints"].shape == (5, dimension)


def test_a_series_is_registered_to_its_mean_phase_or_its_end(tmp_path: Path) -> None:
    still = scan(0)[0]
    frames = np.stack([still + 40, still, still + 10, still + 2])
    Volume(frames[np.newaxis], Grid.regular(frames.shape)).write(tmp_path / "one.nrrd")
    for reference, expected in (("mean", 2), ("last", 3), ("first", 0)):
        cases = Series(tmp_path, reference=reference).collect().cases
        assert [n for n, case in enumerate(cases) if case.reference] == [expected]
    assert cases[1].group == cases[0].group
    sample = Reader(window=(0, 200))(cases[1])
    assert torch.allclose(sample["image"][0], torch.from_numpy(still) / 200, atol=1e-4)


def test_the_slices_of_a_4d_image_are_series_of_their_own(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.stack([scan(t)[0], scan(t + 5)[0]])) for t in range(3)])
    sitk.WriteImage(image, str(tmp_path / "four.nii.gz"))
    cases = Series(tmp_path).collect().cases
    assert len(cases) == 6
    assert {case.group for case in cases} == {"four/0", "four/1"}
    sample = Reader(window=(0, 100))(next(case for case in cases if case.name == "four/1/2"))
    assert torch.allclose(sample["image"][0], torch.from_numpy(scan(7)[0]) / 100, atol=1e-4)


def test_cutting_keeps_voxels_and_key_points_where_they_were(tmp_path: Path) -> None:
    grid = Grid((9, 8, 7), (1.0, 1.5, 2.0), (5.0, -3.0, 11.0), (-1, 0, 0, 0, 0, 1, 0, 1, 0))
    array = np.zeros((1, 7, 8, 9), np.float32)
    array[0, 4, 3, 6] = 50.0
    Volume(array, grid).write(tmp_path / "a.nrrd")
    (tmp_path / "a.csv").write_text("6,3,4\n", encoding="utf-8")
    case = Case("a", "a", str(tmp_path / "a.nrrd"), keypoints=str(tmp_path / "a.csv"))
    for reader in (Reader(window=(0, 50)), Reader(window=(0, 50), shape=(12, 10, 11))):
        sample = reader(case)
        place = torch.nonzero(sample["image"][0] > 0.5)[0].float()
        assert torch.allclose(sample["keypoints"][0], place, atol=1e-4)
        assert sample["image"].max() == pytest.approx(1.0, abs=1e-4), "whole voxels are cut, nothing is blurred"


def test_key_points_follow_a_change_of_spacing(tmp_path: Path) -> None:
    array = np.zeros((1, 20, 24, 22), np.float32)
    array[0, 9:12, 11:14, 6:9] = 1.0
    Volume(array, Grid.regular((20, 24, 22))).write(tmp_path / "a.nrrd")
    (tmp_path / "a.csv").write_text("7,12,10\n", encoding="utf-8")
    case = Case("a", "a", str(tmp_path / "a.nrrd"), keypoints=str(tmp_path / "a.csv"))
    sample = Reader(window=(0, 1), spacing=2.0, shape=(10, 12, 11))(case)
    weights = sample["image"][0]
    grids = torch.meshgrid(*[torch.arange(n).float() for n in weights.shape], indexing="ij")
    middle = torch.stack([(weights * g).sum() / weights.sum() for g in grids])
    assert torch.allclose(sample["keypoints"][0], middle, atol=0.15)


def break_case(folder: Path, kind: str) -> None:
    image, labels = (folder / kind / "subject1_0.nrrd" for kind in ("images", "labels"))
    grid = Grid.regular((10, 12))
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:-40])
    elif kind == "nan":
        Volume(np.full((1, 10, 12), np.nan, np.float32), grid).write(image)
    elif kind == "constant":
        Volume(np.ones((1, 10, 12), np.float32), grid).write(image)
    elif kind == "labels":
        Volume(np.ones((1, 5, 6), np.uint8), Grid.regular((5, 6))).write(labels)
    else:
        Volume(scan(0, (8, 12)), Grid.regular((8, 12))).write(image)
        labels.unlink()


@pytest.mark.parametrize("kind", ["truncated", "nan", "constant", "labels", "shape"])
def test_a_bad_case_is_named_and_refused_or_left_out(kind: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_case(folder, kind)
    source = Folder(folder / "images", folder / "labels")
    split = Split(train=6, validation=0, test=0)
    with pytest.raises(InputError, match="subject1_0"):
        ImagePairs(source, split=split).setup()
    with caplog.at_level(logging.WARNING):
        data = ImagePairs(source, split=split, on_bad="skip")
        data.setup()
    assert "subject1_0" in caplog.text
    used = {name for pair in data.names[TRAIN] for name in pair}
    assert "subject1_0" not in used or kind == "shape"
    assert len(data.names[TRAIN]) >= 6


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_a_draw_depends_on_its_number_alone(cache: str, folder: Path) -> None:
    settings = {
        "cache": cache,
        "cache_folder": folder / "cache",
        "augmentation": Augmentation(rotate=5, gamma=0.2, swap=0.5),
    }
    source = Folder(folder / "images", folder / "labels", subject=r"(subject\d)")
    one, two = (ImagePairs(source, split=Split(2, 1, 0), **settings) for _ in range(2))
    one.setup()
    two.setup()
    ahead = [one.training[n] for n in range(4)]
    again = [two.training[n] for n in (3, 2, 1, 0)][::-1]
    assert all(
        a["names"] == b["names"] and torch.equal(a["fixed"], b["fixed"]) for a, b in zip(ahead, again, strict=True)
    )
    assert len({item["names"] for item in ahead}) > 1
    assert ahead[0]["fixed_labels"].dtype == torch.int32
    assert isinstance(one.training, DrawnPairs)


@pytest.mark.parametrize(("cache", "reads"), [("memory", 1), ("none", 4)])
def test_a_case_in_memory_is_read_once(cache: str, reads: int, folder: Path) -> None:
    case, read = Folder(folder / "images").collect().cases[0], []
    store = Store([case], lambda case: read.append(case) or {"image": torch.zeros(1)}, cache=cache)
    for _ in range(3):
        assert store[case.name]["image"] == 0
    assert len(read) == reads


def test_the_labels_of_unsupervised_pairs_stay_for_validation(folder: Path) -> None:
    data = ImagePairs(Folder(folder / "images", folder / "labels"), supervise=False, split=Split(3, 3, 0))
    data.setup()
    assert "fixed_labels" not in data.training[0]
    assert "fixed_labels" in data.validating[0]


def test_pairs_that_cannot_be_are_told_before_anything_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "__init__", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(InputError, match="longitudinal"):
        ImagePairs(Folder(folder / "images"), pairing="longitudinal").setup()


def test_streams_share_the_draws_between_processes() -> None:
    def first(stream: Stream, count: int) -> list[list[int]]:
        batches = iter(stream)
        return [next(batches) for _ in range(count)]

    whole = first(Stream(4), 3)
    halves = [first(Stream(2, process=p, processes=2), 3) for p in range(2)]
    assert whole == [a + b for a, b in zip(*halves, strict=True)]
    assert first(Stream(4, first=2), 1) == whole[2:]
    assert [list(InOrder(3, process=p, processes=2)) for p in range(2)] == [[[0], [2]], [[1], [0]]]


def test_lists_of_key_points_are_filled_up() -> None:
    batch = together([{"fixed_keypoints": torch.zeros(n, 2), "names": str(n)} for n in (1, 3)])
    assert batch["fixed_keypoints"].shape == (2, 3, 2)
    assert torch.isnan(batch["fixed_keypoints"][0, 1:]).all()
    assert batch["names"] == ["1", "3"]


def test_augmentation_moves_labels_with_images() -> None:
    image = torch.zeros(1, 16, 16)
    image[:, 4:9, 6:12] = 1
    pair = {f"{side}": image for side in ("fixed", "moving")}
    pair |= {f"{side}_labels": image.int() for side in ("fixed", "moving")}
    changed = Augmentation(flip=0.5, rotate=20, shift=2)(dict(pair), 5)
    assert not torch.equal(changed["fixed"], changed["moving"]), "each image is turned by itself"
    for side in ("fixed", "moving"):
        agreement = ((changed[side] > 0.5) == (changed[f"{side}_labels"] > 0)).float().mean()
        assert agreement > 0.97
    with pytest.raises(InputError, match="key points"):
        Augmentation(flip=0.5)(pair | {"fixed_keypoints": torch.zeros(1, 2)}, 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: Folder(p / "none").collect(), "no folder"),
        (lambda p: Folder(p, pattern="*.mha").collect(), "No image"),
        (lambda p: Folder(p / "images", subject="(x)").collect(), "finds no group"),
        (lambda p: Folder(p / "images", subject="(x").collect(), "not a regular expression"),
        (lambda p: Bids(p).collect(), "no sub-"),
        (lambda p: Learn2Reg(p).collect(), "dataset.json"),
        (lambda p: PairList(p / "no.csv").collect(), "no list"),
    ],
)
def test_a_missing_data_set_is_told(make: Callable[[Path], Collection], sentence: str, folder: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        make(folder)


@pytest.mark.parametrize("kind", ["labels", "masks", "keypoints"])
def test_annotations_that_are_nowhere_are_told(kind: str, folder: Path) -> None:
    with pytest.raises(InputError, match="elsewhere"):
        Folder(folder / "images", **{kind: folder / "elsewhere"}).collect()


def test_images_of_one_name_are_told(folder: Path) -> None:
    (folder / "images" / "subject0_0.mha").write_bytes(b"")
    with pytest.raises(InputError, match="named subject0_0"):
        Folder(folder / "images").collect()


@pytest.mark.parametrize("kind", ["labels", "masks", "sizes"])
def test_pairs_that_cannot_share_a_batch_are_told(kind: str, folder: Path) -> None:
    partial = folder / "partial"
    partial.mkdir()
    for session in "01":
        name = f"subject0_{session}.nrrd"
        if kind == "sizes":
            Volume(scan(0, (8, 12)), Grid.regular((8, 12))).write(folder / "images" / name)
        (folder / "labels" / name).rename(partial / name)
    source = Folder(folder / "images", subject=r"(subject\d)", **({} if kind == "sizes" else {kind: partial}))
    settings = {"pairing": "longitudinal", "split": Split(3, 0, 0)}
    ImagePairs(source, **settings).setup()
    with pytest.raises(InputError, match="cannot be in one batch"):
        ImagePairs(source, batch_size=2, **settings).setup()


def test_one_mask_makes_no_pair(folder: Path) -> None:
    (folder / "masks").mkdir()
    (folder / "labels" / "subject0_0.nrrd").rename(folder / "masks" / "subject0_0.nrrd")
    with pytest.raises(InputError, match="only one of them has a mask"):
        ImagePairs(Folder(folder / "images", masks=folder / "masks"), split=Split(6, 0, 0)).setup()


@pytest.mark.parametrize(
    "settings",
    [
        {"window": (1.0, 0.0)},
        {"percentiles": (99.0, 1.0)},
        {"percentiles": (0.0, 199.0)},
        {"preset": "x"},
        {"shape": (0, 16)},
        {"spacing": 0.0},
        {"spacing": (1.0, -1.0)},
    ],
)
def test_a_reader_that_cannot_read_is_refused(settings: dict) -> None:
    with pytest.raises(InputError):
        Reader(**settings)


@pytest.mark.parametrize("settings", [{"noise": -1}, {"flip": 2}, {"gamma": -2}])
def test_an_impossible_augmentation_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Augmentation(**settings)


def test_key_points_that_would_have_to_move_are_told_before_training(tmp_path: Path) -> None:
    made = WRITERS["Folder"](tmp_path, 2, {"images": "x", "keypoints": "x"})
    with pytest.raises(InputError, match="key points"):
        ImagePairs(Folder(**made), split=Split(3, 0, 0), augmentation=Augmentation(rotate=5), workers=1).setup()


def test_a_changed_series_is_read_again(tmp_path: Path) -> None:
    def first(value: float) -> torch.Tensor:
        frames = np.stack([scan(0)[0] + value, scan(1)[0]])
        Volume(frames[np.newaxis], Grid.regular(frames.shape)).write(tmp_path / "one.nrrd")
        os.utime(tmp_path / "one.nrrd", (value, value))
        read_series.cache_clear()
        case = Series(tmp_path).collect().cases[0]
        return Store([case], Reader(window=(0, 200)), cache="disk", folder=tmp_path / "cache")[case.name]["image"]

    assert not torch.equal(first(1), first(50))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fixed,moving,fixed_label\na,b,c\n", "column 'fixed_label'"),
        ("", "no pair"),
        ("a\n", "columns"),
        ("fixed,moving\nx/a.nrrd,y/a.nrrd\n", "same name"),
    ],
)
def test_a_broken_list_is_told(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        PairList(tmp_path / "list.csv").collect()


def test_a_list_without_a_header_is_read_as_moving_first(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("m.nii.gz f.nii.gz ml.nii.gz fl.nii.gz\n", encoding="utf-8")
    collection = PairList(tmp_path / "list.txt").collect()
    assert collection.pairs[TRAIN] == (("f", "m"),)
    assert {c.name: Path(str(c.labels)).name for c in collection.cases} == {"f": "fl.nii.gz", "m": "ml.nii.gz"}


def test_a_damaged_learn2reg_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x_dataset.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not a JSON"):
        Learn2Reg(tmp_path).collect()
    (tmp_path / "x_dataset.json").write_text(json.dumps({"training": []}), encoding="utf-8")
    with pytest.raises(InputError, match="no images"):
        Learn2Reg(tmp_path).collect()
