"""BIDS: T1-weighted images of a raw data set or a derivative."""

from __future__ import annotations

from pathlib import Path

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import Case, Collection
from RecurrentRegistrationLib.train.sources.base import Source, annotated, stem


class Bids(Source):
    """The anatomical images of a BIDS data set; a subject's sessions are its cases.

    Args:
        root: folder with `sub-*`.
        suffix: of the images: T1w, T2w, …
        labels: suffix of the label maps beside the images, for example "dseg"; None for none.
        masks: suffix of the masks beside the images, for example "mask"; None for none.
    """

    def __init__(self, root: Path, suffix: str = "T1w", labels: str | None = None, masks: str | None = None) -> None:
        self.root, self.suffix, self.labels, self.masks = root, suffix, labels, masks

    def collect(self) -> Collection:
        """One case for each image; its group is the session."""
        root = Path(self.root)
        found = sorted(root.glob(f"sub-*/**/anat/*_{self.suffix}.nii*"))
        if not found:
            raise InputError(f"There is no sub-*/anat/*_{self.suffix}.nii.gz in {root}.")
        return Collection(tuple(annotated([*map(self._case, found)], {"labels": self.labels, "mask": self.masks})))

    def _case(self, path: Path) -> Case:
        entities = dict(part.split("-", 1) for part in stem(path).split("_") if "-" in part)
        return Case(
            name=stem(path),
            subject=f"sub-{entities['sub']}",
            image=str(path),
            labels=self._beside(path, self.labels),
            mask=self._beside(path, self.masks),
            group=entities.get("ses", ""),
        )

    def _beside(self, path: Path, suffix: str | None) -> str | None:
        if suffix is None:
            return None
        other = path.with_name(path.name.replace(f"_{self.suffix}.", f"_{suffix}."))
        return str(other) if other.exists() else None
