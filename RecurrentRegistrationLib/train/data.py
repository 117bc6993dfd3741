"""`ImagePairs`: pairs of images from files, as Lightning wants its data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.augmentation import Augmentation
from RecurrentRegistrationLib.train.cases import PARTS, TEST, TRAIN, VALIDATION, Names
from RecurrentRegistrationLib.train.draws import InOrder, Item, Loader, Stream, loader
from RecurrentRegistrationLib.train.pairing import Pairing, pairs, spread
from RecurrentRegistrationLib.train.reading import ANNOTATIONS, Reader, common_spacing, mismatch
from RecurrentRegistrationLib.train.sources import Source
from RecurrentRegistrationLib.train.splits import Split, divide
from RecurrentRegistrationLib.train.store import Cache, OnBad, Store

log = logging.getLogger(__name__)


class PairData(LightningDataModule):
    """What every kind of data has in common: endless training draws, and pairs to validate on.

    Subclasses fill `training`, `validating` and `spacing` (millimetres, tensor order) in `setup`.
    """

    def __init__(self, batch_size: int = 1, workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise InputError(f"A batch_size is 1 or more and workers 0 or more, not {batch_size} and {workers}.")
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.training: Dataset
        self.validating: Dataset
        self.spacing: tuple[float, ...] = ()

    def train_dataloader(self) -> Loader:
        """From the batch on at which the training stands."""
        trainer: Any = self.trainer
        first = trainer.global_step * trainer.accumulate_grad_batches
        batches = Stream(self.batch_size, first=first, process=trainer.global_rank, processes=trainer.world_size)
        return loader(self.training, batches, self.workers)

    def val_dataloader(self) -> Loader | list:
        """One pair in a batch; nothing where nobody is held back."""
        trainer: Any = self.trainer
        count = len(self.validating)  # type: ignore[arg-type]
        if count == 0:
            return []
        return loader(self.validating, InOrder(count, process=trainer.global_rank, processes=trainer.world_size), 0)


class ImagePairs(PairData):
    """Pairs of cases of a source.

    Args:
        source: where the cases are.
        reader: how they are read.
        split: who is trained on.
        pairing: which cases form training pairs.
        validation_pairing: likewise for validation; None for the source's list if it has one, else as in training.
        validation_pairs: at most so many, evenly spread.
        augmentation: of training pairs.
        supervise: hand labels and key points over to the losses; validation has them anyway.
        batch_size: pairs in a batch, on each process.
        cache: where read cases stay: in "memory", on the "disk" in `cache_folder`, or nowhere ("none").
        cache_folder: for the disk.
        on_bad: whether a damaged or mismatching case ends the training ("refuse") or is left out ("skip").
        workers: processes that draw pairs.
        seed: of the draws.
    """

    def __init__(
        self,
        source: Source,
        reader: Reader = Reader(),  # noqa: B008, it is frozen
        split: Split = Split(),  # noqa: B008
        pairing: Pairing = "random",
        validation_pairing: Pairing | None = None,
        validation_pairs: int | None = 20,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        supervise: bool = True,
        batch_size: int = 1,
        cache: Cache = "memory",
        cache_folder: Path | None = None,
        on_bad: OnBad = "refuse",
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        check_count(validation_pairs)
        self.source, self.reader, self.split = source, reader, split
        self.pairing, self.validation_pairing, self.validation_pairs = pairing, validation_pairing, validation_pairs
        self.augmentation, self.supervise = augmentation, supervise
        self.cache, self.cache_folder, self.on_bad = cache, cache_folder, on_bad
        self.names: dict[str, list[Names]] = {}
        self.subjects: dict[str, list[str]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read every case once and form the pairs; once a process. Raises InputError for what cannot be used."""
        if self.names:
            return
        collection = self.source.collect()
        divided = divide(collection, self.split)
        self.subjects = {part: sorted({case.subject for case in divided[part]}) for part in PARTS}
        # Pairs come first: what is wrong with them should not wait until all cases are read.
        found = {TRAIN: pairs(divided[TRAIN], self.pairing, collection, TRAIN)}
        if divided[VALIDATION]:
            listed: Pairing = "listed" if VALIDATION in collection.pairs else self.pairing
            pairing = self.validation_pairing or listed
            found[VALIDATION] = pairs(divided[VALIDATION], pairing, collection, VALIDATION)
        used = [case for part in (TRAIN, VALIDATION) for case in divided[part]]
        self.store = Store(used, self.reader, cache=self.cache, folder=self.cache_folder, on_bad=self.on_bad)
        self.names = {part: self._matching(names) for part, names in found.items()}
        self._check_batches()
        self.names[VALIDATION] = spread(self.names.get(VALIDATION, []), self.validation_pairs)
        self.training = DrawnPairs(self, self.names[TRAIN])
        self.training[0]  # what cannot be drawn is told here, not by a worker
        self.validating = ListedPairs(self.store, self.names[VALIDATION])
        self.spacing = common_spacing([self.store[self.names[TRAIN][0][0]]])
        counts = ", ".join(f"{len(self.subjects[part])} for {part}" for part in (TRAIN, VALIDATION, TEST))
        log.info("Subjects: %s; training pairs: %d.", counts, len(self.names[TRAIN]))

    def _matching(self, found: list[Names]) -> list[Names]:
        """The pairs whose cases fit each other; those of cases that were left out go with them."""
        kept = []
        for fixed, moving in found:
            if fixed in self.store.bad or moving in self.store.bad:
                continue
            why = self._mismatch(fixed, moving)
            if why and self.on_bad == "refuse":
                raise InputError(f"The cases {fixed} and {moving} cannot form a pair: {why}.")
            if why:
                log.warning("The pair of %s and %s is left out: %s.", fixed, moving, why)
            else:
                kept.append((fixed, moving))
        if not kept:
            raise InputError("No two cases fit each other.")
        return kept

    def _check_batches(self) -> None:
        """Raises InputError where training pairs differ in what a batch holds of all or of none."""
        if self.batch_size == 1:
            return
        one, *others = self.names[TRAIN]
        for other in others:
            if self._kind(one[0])[:-1] != self._kind(other[0])[:-1]:
                raise InputError(
                    f"The pairs of {one[0]} and of {other[0]} cannot be in one batch, as sizes or annotations differ: "
                    "give data.init_args.reader.shape, annotate all or none, or set data.init_args.batch_size to 1."
                )

    def _mismatch(self, fixed: str, moving: str) -> str | None:
        kinds = [self._kind(name) for name in (fixed, moving)]
        return None if kinds[0] == kinds[1] else mismatch(self.store[fixed], self.store[moving])

    def _kind(self, name: str) -> tuple:
        """All that decides whether two cases fit; kept, because there are many more pairs than cases."""
        if not hasattr(self, "_kinds"):
            self._kinds: dict[str, tuple] = {}
        if name not in self._kinds:
            sample = self.store[name]
            annotated = tuple(kind in sample for kind in ANNOTATIONS)
            # The number of key points comes last: a batch fills them up.
            self._kinds[name] = (tuple(sample["image"].shape), annotated, len(sample.get("keypoints", ())))
        return self._kinds[name]


def check_count(validation_pairs: int | None) -> None:
    """Raises InputError for a number of pairs that is none."""
    if validation_pairs is not None and validation_pairs < 0:
        raise InputError(f"The number of validation_pairs is 0 or more, not {validation_pairs}.")


def put_together(store: Store, fixed: str, moving: str) -> Item:
    """A pair's images, annotations and names."""
    samples = {"fixed": store[fixed], "moving": store[moving]}
    item: Item = {side: sample["image"] for side, sample in samples.items()}
    for kind in ANNOTATIONS:
        if all(kind in sample for sample in samples.values()):
            item |= {f"{side}_{kind}": sample[kind] for side, sample in samples.items()}
    return item | {"spacing": samples["fixed"]["spacing"], "names": (fixed, moving)}


class ListedPairs(Dataset):
    """The n-th item is the n-th pair."""

    def __init__(self, store: Store, names: list[Names]) -> None:
        self.store, self.names = store, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        return put_together(self.store, *self.names[index])


class DrawnPairs(Dataset):
    """The n-th item is the n-th random draw from the pairs, augmented."""

    def __init__(self, data: ImagePairs, names: list[Names]) -> None:
        self.store, self.names, self.seed = data.store, names, data.seed
        self.augmentation, self.supervise = data.augmentation, data.supervise

    def __getitem__(self, index: int) -> Item:
        draw = np.random.default_rng([self.seed, index])
        item = put_together(self.store, *self.names[draw.integers(len(self.names))])
        if not self.supervise:
            item = {key: value for key, value in item.items() if not key.endswith(("labels", "keypoints"))}
        tensors = {key: value for key, value in item.items() if key not in ("names", "spacing")}
        return item | self.augmentation(tensors, int(draw.integers(2**31)))
