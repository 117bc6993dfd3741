"""Where the subjects of a training lie to each other before a network sees them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from RecurrentRegistrationLib import pipeline
from RecurrentRegistrationLib.io.files import complete
from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.transform import Affine
from RecurrentRegistrationLib.volume import Volume


@dataclass(frozen=True)
class Placement:
    """Where a subject lies, LPS millimetres.

    Attributes:
        matrix: homogeneous `[d + 1, d + 1]`, from points of a space that all subjects share to the subject's.
        middle: a point `[d]` of the subject that random maps turn about.
    """

    matrix: np.ndarray
    middle: np.ndarray


class Start:
    """What places the subjects of a training."""

    def __call__(self, image: Path, labels: Volume, first: Path) -> Placement:
        """Where the subject of an image file lies, given its labels and the image of the first subject."""
        raise NotImplementedError


@dataclass(frozen=True)
class LabelCentres(Start):
    """The centres of all labels lie upon each other."""

    def __call__(self, image: Path, labels: Volume, first: Path) -> Placement:
        """By the mean place of what is labelled."""
        middle = labels.grid.physical(np.argwhere(labels.array[0] > 0).mean(axis=0)[::-1])
        matrix = np.eye(len(middle) + 1)
        matrix[:-1, -1] = middle
        return Placement(matrix, middle)


@dataclass(frozen=True)
class LinearStage(Start):
    """Every subject is aligned with the first by the linear stage of `register`, so that a network sees its errors.

    Attributes:
        keep: a JSON file of the maps that were found, as each takes seconds; None for none.
    """

    keep: Path | None = None

    def __call__(self, image: Path, labels: Volume, first: Path) -> Placement:
        """By registering the image with the first subject's."""
        known = self._known()
        if image.name not in known:
            known[image.name] = linear_map(first, image).tolist()
            self._write(known)
        return Placement(np.array(known[image.name]), labels.grid.centre)

    def _known(self) -> dict[str, list]:
        if self.keep is None or not Path(self.keep).exists():
            return {}
        return json.loads(Path(self.keep).read_text(encoding="utf-8"))

    def _write(self, known: dict[str, list]) -> None:
        if self.keep is not None:
            with complete(Path(self.keep)) as temporary:
                temporary.write_text(json.dumps(known), encoding="utf-8")


def linear_map(fixed: Path, moving: Path) -> np.ndarray:
    """A homogeneous matrix from points of one image to those of another, by the linear stage of `register`."""
    images = Volume.read(fixed), Volume.read(moving)
    if fixed == moving:
        return np.eye(images[0].grid.dimension + 1)
    found = pipeline.register(*images, options=Options(method="none", device="cpu"))
    return next(part.matrix for part in found.transform.parts if isinstance(part, Affine))
