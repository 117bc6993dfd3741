"""`SyntheticPairs`: pairs whose displacement is known, made on the device while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.anatomy import Anatomy, Shapes
from RecurrentRegistrationLib.train.appearance import Appearance, RandomContrast
from RecurrentRegistrationLib.train.cases import TRAIN, VALIDATION
from RecurrentRegistrationLib.train.data import PairData, check_count
from RecurrentRegistrationLib.train.deformation import Deformation, RandomDisplacement
from RecurrentRegistrationLib.train.draws import Item
from RecurrentRegistrationLib.train.reading import Reader, common_spacing
from RecurrentRegistrationLib.train.sources import Source
from RecurrentRegistrationLib.train.splits import Split, divide
from RecurrentRegistrationLib.train.store import Store

HELD_BACK = 2**31  # validation draws count from here: training never gets so far
ANATOMY = 2**62  # anatomies have seeds of their own


class SyntheticPairs(PairData):
    """Pairs made from label maps, or from images themselves.

    The moving image shows the label map as it is; the fixed one shows it pulled through a random displacement, which is
    the batch's `displacement`. With `real_images` both are the source's image, as in RAN's pre-training.

    Args:
        shape: of the images.
        spacing: millimetres between voxels, for the record of the weights.
        deformation: of the fixed image; None for a moderate one.
        anatomy: where label maps come from without a source; None for `Shapes`.
        appearance: how label maps become images; None for `RandomContrast`.
        source: cases whose label maps (or images) to use; None for none.
        reader: how they are read; its shape is `shape`.
        split: whom to use.
        real_images: deform the source's images instead of rendering their labels.
        subjects: how many different anatomies there are without a source; None for a new one in each draw. Fewer
            subjects are some of more.
        supervise: hand the displacement and the labels over to the losses; validation has them anyway.
        validation_pairs: made once more for each validation.
        batch_size: pairs in a batch, on each process.
        workers: processes that read label maps.
        seed: of the draws.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        spacing: float = 1.0,
        deformation: RandomDisplacement | None = None,
        anatomy: Anatomy | None = None,
        appearance: Appearance | None = None,
        source: Source | None = None,
        reader: Reader = Reader(),  # noqa: B008
        split: Split = Split(),  # noqa: B008
        real_images: bool = False,
        subjects: int | None = None,
        supervise: bool = True,
        validation_pairs: int = 8,
        batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        check_count(validation_pairs)
        if len(shape) not in (2, 3):
            raise InputError(f"Images have 2 or 3 dimensions, not {len(shape)}.")
        if min(shape) < 2 or spacing <= 0:
            raise InputError(f"A shape has 2 or more voxels an axis and a spacing is above 0, not {shape}, {spacing}.")
        if real_images and source is None:
            raise InputError("Real images need a source.")
        self.shape, self.spacing = tuple(shape), (spacing,) * len(shape)
        self.deformation = deformation or Deformation(rotation=10, scale=0.1, translation=3, smooth=6)
        self.anatomy, self.appearance = anatomy or Shapes(), appearance or RandomContrast()
        self.source, self.reader, self.split = source, reader, split
        self.real_images, self.subjects = real_images, subjects
        self.supervise, self.validation_pairs = supervise, validation_pairs

    def setup(self, stage: str | None = None) -> None:
        """Read the source, if there is one. Raises InputError where its images have no labels."""
        samples: dict[str, list[Item]] = {TRAIN: [], VALIDATION: []}
        if self.source is not None:
            divided = divide(self.source.collect(), self.split)
            for part, found in samples.items():
                names = [case.name for case in divided[part]]
                store = Store(divided[part], self.reader) if names else None
                found += [_wanted(store[name], name, self.real_images) for name in store.names] if store else []
            first = samples[TRAIN][0]
            if any(tuple(sample["image"].shape[1:]) != self.shape for found in samples.values() for sample in found):
                raise InputError("The reader's shape is not that of the synthetic pairs: give both the same.")
            self.spacing = common_spacing([first])
        self.training = _Draws(samples[TRAIN], self.seed, 0)
        held = samples[VALIDATION] or samples[TRAIN]
        self.validating = _Draws(held, self.seed, HELD_BACK, self.validation_pairs)

    def on_after_batch_transfer(self, batch: Item, dataloader_idx: int) -> Item:
        """The images, made on the batch's own device; each draw has its own seed."""
        pair = self.made(batch)
        if self.supervise or not self.trainer or not self.trainer.training:
            return pair
        return {key: value for key, value in pair.items() if key != "displacement" and "labels" not in key}

    @torch.no_grad()
    def made(self, batch: Item) -> Item:
        """From draws to pairs."""
        seeds = batch["seed"]
        items = [self._pair(batch, n, _generator(int(seed), seeds.device)) for n, seed in enumerate(seeds)]
        pair: dict[str, Any] = {key: torch.cat([item[key] for item in items]) for key in items[0]}
        pair["spacing"] = torch.tensor(self.spacing, device=seeds.device).expand(len(seeds), -1)
        pair["names"] = [f"draw {seed}" for seed in seeds.tolist()]
        return pair

    def _pair(self, batch: Item, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        displacement = self.deformation(self.shape, generator)
        labels = batch["labels"][n : n + 1] if "labels" in batch else None
        if self.real_images:
            fixed = moving = batch["image"][n : n + 1]
        else:
            labels = self.anatomy(self.shape, self._subject(batch, n)) if labels is None else labels
            fixed, moving = self.appearance.render(labels, generator)
        fixed = spatial.warp(fixed, displacement)
        if not self.real_images:
            fixed, moving = (self.appearance.spoil(image, generator) for image in (fixed, moving))
        pair = {"fixed": fixed, "moving": moving, "displacement": displacement}
        if labels is not None:
            warped = spatial.warp(labels.float(), displacement, mode="nearest")
            pair |= {"fixed_labels": warped.round().int(), "moving_labels": labels.int()}
        return pair

    def _subject(self, batch: Item, n: int) -> torch.Generator:
        """The generator of the anatomy of a draw."""
        number = int(batch["number"][n])
        if self.subjects is not None and number < HELD_BACK:
            number = int(np.random.default_rng([self.seed, number]).integers(self.subjects))
        return _generator((self.seed << 32) + number + ANATOMY, batch["seed"].device)


def _wanted(sample: Item, name: str, real_images: bool) -> Item:
    if not real_images and "labels" not in sample:
        raise InputError(f"The case {name} has no labels to make images from.")
    return {key: sample[key] for key in ("image", "labels", "spacing") if key in sample}


def _generator(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


class _Draws(Dataset):
    """The n-th item is a seed and, where there is a source, one of its samples."""

    def __init__(self, samples: Sequence[Item], seed: int, first: int, count: int = HELD_BACK) -> None:
        self.samples, self.seed, self.first, self.count = samples, seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        number = self.first + index
        drawn = torch.Generator().manual_seed((self.seed << 32) + number)
        item: Item = {"seed": torch.tensor((self.seed << 32) + number), "number": torch.tensor(number)}
        if self.samples:
            place = torch.randint(len(self.samples), (), generator=drawn)
            item |= {key: value for key, value in self.samples[int(place)].items() if key != "spacing"}
        return item
