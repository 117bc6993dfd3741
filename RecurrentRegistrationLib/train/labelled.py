"""`LabelledImages`: single images with their labels, for what a part of a method learns before it registers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.appearance import RandomContrast, Scanner
from RecurrentRegistrationLib.train.cases import PARTS, TRAIN, VALIDATION, Case
from RecurrentRegistrationLib.train.deformation import Deformation, RandomDisplacement
from RecurrentRegistrationLib.train.divided import DividedData
from RecurrentRegistrationLib.train.draws import Item
from RecurrentRegistrationLib.train.reading import Reader, common_spacing
from RecurrentRegistrationLib.train.sources import Source
from RecurrentRegistrationLib.train.splits import Split
from RecurrentRegistrationLib.train.store import Store

log = logging.getLogger(__name__)


class LabelledImages(DividedData):
    """Random patches of single images, bent and in random contrasts: `image` and `labels`, both `[B, 1, *S]`.

    Args:
        source: where images and labels are.
        regions: the label values of each region; several, such as left and right, may be one region.
        reader: how cases are read; its shape is that of whole images, which validation sees.
        shape: of a training patch.
        deformation: of a training image.
        scanners: one of them changes the intensities of each training image.
        painted: share of the training images whose contrast is drawn anew, label by label.
        paint: how.
        mirror: whether the last axis may be turned round, where left and right are one region.
        split: who is trained on, who watches, and who is held back.
        batch_size: patches in a batch, on each process.
        workers: processes that draw patches.
        seed: of the draws.
    """

    def __init__(
        self,
        source: Source,
        regions: Sequence[Sequence[int]],
        reader: Reader,
        shape: tuple[int, ...],
        deformation: RandomDisplacement = Deformation(),  # noqa: B008, it is frozen
        scanners: Sequence[Scanner] = (Scanner(),),
        painted: float = 0.0,
        paint: RandomContrast = RandomContrast(),  # noqa: B008
        mirror: bool = False,
        split: Split = Split(),  # noqa: B008
        batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(source, split, batch_size, workers, seed)
        if not regions or not all(regions) or not scanners:
            raise InputError("Labelled images need one region, with one label value, and one scanner at least.")
        if reader.shape is None or any(n > m for n, m in zip(shape, reader.shape, strict=True)):
            raise InputError(f"Patches of {tuple(shape)} voxels need images of a given shape that is no smaller.")
        self.reader, self.shape = reader, tuple(shape)
        self.regions = tuple(tuple(values) for values in regions)
        self.deformation, self.scanners, self.mirror = deformation, tuple(scanners), mirror
        self.painted, self.paint = painted, paint

    def setup(self, stage: str | None = None) -> None:
        """Read every image once. Raises InputError for what cannot be used."""
        if hasattr(self, "training"):
            return
        names = self.named
        self.store = Store([*self.divided[TRAIN], *self.divided[VALIDATION]], self._read)
        self.spacing = common_spacing([self.store[names[TRAIN][0]]])
        self.training = DrawnPatches(self, names[TRAIN])
        self.validating = WholeImages(self, names[VALIDATION])
        log.info("Subjects: %s.", ", ".join(f"{len(names[part])} for {part}" for part in PARTS))

    def _read(self, case: Case) -> Item:
        sample = self.reader(case)
        if "labels" not in sample:
            raise InputError("it has no labels.")
        found = sample["labels"].long()
        values = max(int(found.max()), *(max(values) for values in self.regions))
        table = torch.zeros(values + 1, dtype=torch.uint8)
        for region, values_of in enumerate(self.regions, start=1):
            table[list(values_of)] = region
        return sample | {"labels": table[found]}

    def drawn(self, sample: Item, draw: np.random.Generator) -> Item:
        """A patch of an image and its labels, each `[1, *S]`."""
        generator = torch.Generator().manual_seed(int(draw.integers(2**31)))
        image, labels = (sample[kind].float().unsqueeze(0) for kind in ("image", "labels"))
        if self.mirror and draw.random() < 0.5:
            image, labels = image.flip(-1), labels.flip(-1)
        spare = [n - m for n, m in zip(image.shape[2:], self.shape, strict=True)]
        corner = torch.tensor([draw.integers(n + 1) for n in spare]).float().view(1, -1, *[1] * len(spare))
        displacement = self.deformation(self.shape, generator) + corner
        labels = spatial.warp(labels, displacement, mode="nearest").round()
        if draw.random() < self.painted:
            image, _ = self.paint.render(labels, generator)
            image = self.paint.spoil(image, generator)
        else:
            scanner = self.scanners[draw.integers(len(self.scanners))]
            image = spatial.warp(image, displacement)
            tissue = 1.0 if draw.random() < 0.5 else image > 0  # air stays air, or takes part
            image = scanner.spoil(image, generator) * tissue
        return {"image": image[0], "labels": labels[0].long()}


class DrawnPatches(Dataset):
    """The n-th item is the n-th random patch."""

    def __init__(self, data: LabelledImages, names: list[str]) -> None:
        self.data, self.names = data, names

    def __getitem__(self, index: int) -> Item:
        draw = np.random.default_rng([self.data.seed, index])
        return self.data.drawn(self.data.store[self.names[draw.integers(len(self.names))]], draw)


class WholeImages(Dataset):
    """The n-th item is the n-th image as it is."""

    def __init__(self, data: LabelledImages, names: list[str]) -> None:
        self.data, self.names = data, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        sample = self.data.store[self.names[index]]
        return {"image": sample["image"], "labels": sample["labels"].long()}
