"""Plain folders: one with images, and others with labels, key points or masks of the same names."""

from __future__ import annotations

import re
from pathlib import Path

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import Case, Collection
from RecurrentRegistrationLib.train.sources.base import IMAGES, Source, annotated, beside, images_in, stem


class Folder(Source):
    """A folder of images.

    Args:
        images: the folder.
        labels: a folder with label maps of the same names.
        keypoints: a folder with landmarks of the same names.
        masks: a folder with masks of the same names.
        pattern: of the images' names.
        subject: a regular expression whose first group in an image's name is its subject; None for the whole name.
        group: likewise for what the cases of a pair may have to share.
        suffix: what the names of label maps have beyond those of their images.
        root: where these folders are; by itself it can be given for another place of the data.
    """

    def __init__(
        self,
        images: Path,
        labels: Path | None = None,
        keypoints: Path | None = None,
        masks: Path | None = None,
        pattern: str = "*",
        subject: str | None = None,
        group: str | None = None,
        suffix: str = "",
        root: Path = Path(),
    ) -> None:
        self.root, self.images = Path(root), Path(root) / images
        self.labels, self.keypoints, self.masks = (
            None if folder is None else self.root / folder for folder in (labels, keypoints, masks)
        )
        self.pattern, self.subject, self.group, self.suffix = pattern, subject, group, suffix

    def collect(self) -> Collection:
        """One case for each image; an annotation that is missing stays None, but not all of a kind."""
        cases = [self._case(path) for path in images_in(self.images, self.pattern)]
        return Collection(
            tuple(annotated(cases, {"labels": self.labels, "keypoints": self.keypoints, "mask": self.masks}))
        )

    def _case(self, path: Path) -> Case:
        name = stem(path)
        return Case(
            name=name,
            subject=_first_group(self.subject, name) if self.subject else name,
            image=str(path),
            labels=beside(self.labels, name + self.suffix, IMAGES),
            keypoints=beside(self.keypoints, name, (".csv", ".fcsv", ".mrk.json", ".txt")),
            mask=beside(self.masks, name, IMAGES),
            group=_first_group(self.group, name) if self.group else "",
        )


def _first_group(expression: str, name: str) -> str:
    try:
        found = re.search(expression, name)
    except re.error as error:
        raise InputError(f"'{expression}' is not a regular expression: {error}.") from error
    if not found or not found.groups():
        raise InputError(f"The expression '{expression}' finds no group in the name '{name}'.")
    return found.group(1)
