"""All cases of a training, read once: what is damaged is found before the first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Transform

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import Case
from RecurrentRegistrationLib.train.sources.series import file_of

Cache = Literal["memory", "disk", "none"]
OnBad = Literal["refuse", "skip"]

log = logging.getLogger(__name__)


class _Read(Transform):
    """The reader as a transform of MONAI: what cannot be read becomes a sentence instead of an exception.

    What is not a `Transform` is never cached.
    """

    def __init__(self, reader: Callable[[Case], Any]) -> None:
        self.reader = reader

    def __call__(self, case: Case) -> Any:
        try:
            return self.reader(case)
        except (InputError, RuntimeError, OSError, ValueError) as error:
            return " ".join(str(error).split())


class Store:
    """Samples by the name of their case.

    Args:
        cases: to read.
        reader: how: a case to its sample.
        cache: where samples stay: in "memory", on the "disk" in `folder`, or nowhere.
        folder: for the disk; None for none.
        on_bad: whether a case that cannot be used ends the training or is left out; it is named either way.

    Attributes:
        bad: why a case cannot be used, by its name.
        names: of all others.

    Raises:
        InputError: a case cannot be used and is refused, or none is left.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        reader: Callable[[Case], Any],
        *,
        cache: Cache = "memory",
        folder: Path | None = None,
        on_bad: OnBad = "refuse",
    ) -> None:
        self._data = _data_set(list(cases), _Read(reader), cache, folder)
        self._places = {case.name: place for place, case in enumerate(cases)}
        self.bad = {name: found for name, place in self._places.items() if isinstance(found := self._data[place], str)}
        self.names = [name for name in self._places if name not in self.bad]
        for name, why in self.bad.items():
            if on_bad == "refuse":
                way = "Correct it, or set data.init_args.on_bad to skip."
                raise InputError(f"The case {name} cannot be used: {why} {way}")
            log.warning("The case %s is left out: %s", name, why)
        if not self.names:
            raise InputError("No case can be used.")

    def __getitem__(self, name: str) -> Any:
        sample: Any = self._data[self._places[name]]
        if isinstance(sample, str):
            raise InputError(f"The case {name} cannot be read any more: {sample}")
        return sample


def _data_set(cases: list[Case], read: _Read, cache: Cache, folder: Path | None) -> Dataset:
    if cache == "memory":
        return CacheDataset(cases, read, progress=False, copy_cache=False, num_workers=1)
    if cache == "disk":
        if folder is None:
            raise InputError("A cache on the disk needs a folder: give data.init_args.cache_folder.")
        if Path(folder).is_file():
            raise InputError(f"The cache cannot be in {folder}: it is a file.")
        return PersistentDataset(cases, read, cache_dir=folder, hash_func=lambda case: _key(case, read.reader))
    return Dataset(cases, read)


def _key(case: Case, reader: Any) -> bytes:
    """A cached sample's name: another case, file or way of reading is another sample."""
    import hashlib

    named = [f for f in (case.image, case.labels, case.keypoints, case.mask, reader.align) if f]
    files = [Path(file_of(str(name))) for name in named]
    times = [file.stat().st_mtime_ns if file.exists() else 0 for file in files]
    return hashlib.sha256(repr((case, reader, times)).encode()).hexdigest().encode()
