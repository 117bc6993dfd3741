"""`SubjectPairs`: random pairs of labelled subjects as `register` would hand them to a method."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.pipeline.preparation import antialiased, linear_displacement, prepare
from RecurrentRegistrationLib.pipeline.presets import PRESETS
from RecurrentRegistrationLib.train.appearance import Scanner
from RecurrentRegistrationLib.train.cases import PARTS, TRAIN, VALIDATION, Case
from RecurrentRegistrationLib.train.data import check_count
from RecurrentRegistrationLib.train.divided import DividedData
from RecurrentRegistrationLib.train.draws import SIDES, Item
from RecurrentRegistrationLib.train.pairing import spread
from RecurrentRegistrationLib.train.sources import Source
from RecurrentRegistrationLib.train.splits import Split
from RecurrentRegistrationLib.train.starts import LabelCentres, Placement, Start
from RecurrentRegistrationLib.train.store import Store
from RecurrentRegistrationLib.volume import Grid, Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Jitter:
    """A random affine map on top of the start. All are standard deviations.

    Attributes:
        rotation: about each axis, degrees.
        stretch: of scales and shears.
        shift: along each axis, millimetres.
    """

    rotation: float = 3.0
    stretch: float = 0.03
    shift: float = 0.7

    def __call__(self, middle: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """A homogeneous matrix, millimetres, about a point."""
        d = len(middle)
        skew = np.zeros((d, d))
        for row, column in itertools.combinations(range(d), 2):
            skew[row, column] = np.deg2rad(draw.normal(0, self.rotation))
        linear = torch.linalg.matrix_exp(torch.from_numpy(skew - skew.T)).numpy() @ (
            np.eye(d) + draw.normal(0, self.stretch, (d, d))
        )
        matrix = np.eye(d + 1)
        matrix[:-1, :-1] = linear
        matrix[:-1, -1] = middle - linear @ middle + draw.normal(0, self.shift, d)
        return matrix


@dataclass(frozen=True)
class Subject:
    """An image in [0, 1], its field of view (1 inside) and one map for each label, `[1, 2 + labels, *S]`."""

    values: Tensor
    grid: Grid
    placement: Placement

    def grid_around(self, shape: Sequence[int], spacing: float, shift: Sequence[float] | float = 0.0) -> Grid:
        """A grid of the same axes, whose centre lies `shift` voxels (i, j, k) beside the image's."""
        size = np.array(shape[::-1])
        axes = np.array(self.grid.direction).reshape(2 * [self.grid.dimension])
        origin = self.grid.centre - axes @ (((size - 1) / 2 - np.array(shift)) * spacing)
        return Grid(tuple(size.tolist()), (spacing,) * len(size), tuple(origin.tolist()), self.grid.direction)

    def onto(self, target: Grid, matrix: np.ndarray | None = None) -> Tensor:
        """Pulled onto a grid through a homogeneous matrix from its points to the subject's, `[2 + labels, *S]`."""
        return spatial.warp(self.values, linear_displacement(target, self.grid, matrix))[0]


@dataclass(frozen=True)
class SubjectReader:
    """How subjects are read.

    Attributes:
        classes: label values.
        spacing: of the grid that the images are smoothed for, millimetres.
        preset: of the intensities.
        start: places them.
        first: the image that the start may refer to.
    """

    classes: tuple[int, ...]
    spacing: float
    preset: str
    start: Start
    first: Path

    def __call__(self, case: Case) -> Subject:
        """Raises InputError for a case without labels, or whose labels do not belong to the image."""
        if case.labels is None:
            raise InputError("it has no labels.")
        image, labels = Volume.read(case.image), Volume.read(case.labels)
        if image.grid.size != labels.grid.size:
            raise InputError(f"{case.labels} has {labels.grid.size} voxels, the image {image.grid.size}.")
        if not np.isin(self.classes, labels.array).any():
            raise InputError(f"{case.labels} holds none of the labels {', '.join(map(str, self.classes))}.")
        maps = [torch.from_numpy((labels.array == value).astype(np.float32))[None] for value in self.classes]
        grid, target = image.grid, image.grid.resampled([self.spacing] * image.grid.dimension)
        intensities, *maps = (
            antialiased(values, grid, target) for values in (prepare(image, None, PRESETS[self.preset]).values, *maps)
        )
        values = torch.cat([intensities, torch.ones_like(intensities), *maps], dim=1)
        return Subject(values, grid, self.start(Path(case.image), labels, self.first))


class SubjectPairs(DividedData):
    """Random pairs of different subjects on a grid around the fixed image.

    As in `register`, the moving image is shown through a linear map and no further than the fixed image reaches. Labels
    are smoothed maps, so that the losses have a gradient at their surfaces.

    Args:
        source: where images and labels are.
        classes: label values.
        shape: of the grid, tensor order; its place around the fixed image varies by two voxels.
        spacing: of the grid, millimetres.
        start: how subjects lie to each other.
        jitter: a random map on top of that.
        scanner: changes the intensities of each training image by itself.
        preset: of the intensities, as in a registration.
        split: who is trained on, who watches, and who is held back.
        validation_pairs: neighbours among the validation subjects, at most so many.
        batch_size: pairs in a batch, on each process.
        workers: processes that draw pairs.
        seed: of the draws.
    """

    def __init__(
        self,
        source: Source,
        classes: tuple[int, ...],
        shape: tuple[int, ...],
        spacing: float,
        start: Start = LabelCentres(),  # noqa: B008, it is frozen
        jitter: Jitter = Jitter(),
        scanner: Scanner = Scanner(bias=0.0, noise=0.0, gamma=0.35),  # noqa: B008
        preset: str = "mr",
        split: Split = Split(),  # noqa: B008
        validation_pairs: int | None = 8,
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(source, split, batch_size, workers, seed)
        check_count(validation_pairs)
        if not classes:
            raise InputError("Pairs of labelled subjects need the values of the labels: give data.init_args.classes.")
        if min(shape) < 2 or spacing <= 0:
            raise InputError(f"A shape has 2 or more voxels an axis and a spacing is above 0, not {shape}, {spacing}.")
        if preset not in PRESETS:
            raise InputError(f"There is no preset '{preset}'; choose one of {', '.join(PRESETS)}.")
        self.start, self.preset = start, preset
        self.classes, self.shape, self.spacing = tuple(classes), tuple(shape), (spacing,) * len(shape)
        self.jitter, self.scanner, self.validation_pairs = jitter, scanner, validation_pairs
        self.names: dict[str, list[str]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read every subject once. Raises InputError for what cannot be used."""
        if self.names:
            return
        names = self.named
        if len(names[TRAIN]) < 2:
            raise InputError("A pair takes two subjects to train on: change data.init_args.split.")
        first = Path(min(case.image for case in self.divided[TRAIN]))
        reader = SubjectReader(self.classes, self.spacing[0], self.preset, self.start, first)
        self.store = Store([*self.divided[TRAIN], *self.divided[VALIDATION]], reader)
        self.training = DrawnSubjects(self, names[TRAIN])
        self.validating = NeighbouringSubjects(self, names[VALIDATION])
        self.names = names
        log.info("Subjects: %s.", ", ".join(f"{len(names[part])} for {part}" for part in PARTS))

    def pair(self, fixed: str, moving: str, matrix: np.ndarray | None = None, shift: Sequence[float] = ()) -> Item:
        """Both subjects on a grid around the fixed one; a matrix comes before the linear map between them."""
        one, other = self.store[fixed], self.store[moving]
        grid = one.grid_around(self.shape, self.spacing[0], shift or 0.0)
        between = other.placement.matrix @ np.linalg.inv(one.placement.matrix)
        sides = {"fixed": one.onto(grid), "moving": other.onto(grid, between if matrix is None else between @ matrix)}
        item: Item = {"spacing": torch.tensor(self.spacing), "names": (fixed, moving)}
        for side, values in sides.items():
            item |= {side: values[:1], f"{side}_mask": values[1:2], f"{side}_maps": values[2:]}
        return item


def ending_together(item: Item) -> Item:
    """The pair with the moving image 0 where the fixed one has ended."""
    return item | {"moving": item["moving"] * item["fixed_mask"]}


class DrawnSubjects(Dataset):
    """The n-th item is the n-th random pair."""

    def __init__(self, data: SubjectPairs, names: list[str]) -> None:
        self.data, self.names = data, names

    def __getitem__(self, index: int) -> Item:
        data, draw = self.data, np.random.default_rng([self.data.seed, index])
        fixed, moving = (self.names[n] for n in draw.choice(len(self.names), 2, replace=False))
        shift = tuple(draw.integers(-2, 3, len(data.shape)).tolist())
        item = data.pair(fixed, moving, data.jitter(data.store[fixed].placement.middle, draw), shift)
        generator = torch.Generator().manual_seed(int(draw.integers(2**31)))
        for side in SIDES:
            image = data.scanner.spoil(item[side].unsqueeze(0), generator)[0]
            item[side] = image * (item[f"{side}_mask"] > 0)
        return ending_together(item)


class NeighbouringSubjects(Dataset):
    """The n-th item is one subject with the next of the list, as they are."""

    def __init__(self, data: SubjectPairs, names: list[str]) -> None:
        self.data = data
        self.pairs = spread(list(zip(names[::2], names[1::2], strict=False)), data.validation_pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        return ending_together(self.data.pair(*self.pairs[index]))
