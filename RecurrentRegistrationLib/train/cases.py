"""`Case`, one image with what belongs to it, and `Collection`, all that a source offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)

Names = tuple[str, str]  # of a pair's fixed and moving case


@dataclass(frozen=True)
class Case:
    """One image and its annotations.

    Attributes:
        name: for reports and pair lists; unique in its collection.
        subject: who it shows; nobody is in two parts of a split.
        image: a file, `FILE#FRAME` of a series, or a DICOM folder.
        labels: a label map on the image's grid.
        keypoints: landmarks, of which the k-th is the same place in every case that may form a pair with this one.
        mask: above 0 where the similarity counts.
        group: what the cases of a pair may have to share: a breathing phase, a slice of a series.
        reference: whether it is what the others of its group are registered to.
        part: where its source puts it ("train", "validation", "test"); None to be split.
    """

    name: str
    subject: str
    image: str
    labels: str | None = None
    keypoints: str | None = None
    mask: str | None = None
    group: str = ""
    reference: bool = False
    part: str | None = None


@dataclass(frozen=True)
class Collection:
    """The cases of a source, and the pairs it lists for each part."""

    cases: tuple[Case, ...]
    pairs: Mapping[str, tuple[Names, ...]] = field(default_factory=dict)
