"""The two images of a registration and their masks, checked once and prepared once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from RecurrentRegistrationLib.pipeline.checks import check_images, check_mask
from RecurrentRegistrationLib.pipeline.preparation import Prepared, blurred_like, choose_preset, prepare, spike
from RecurrentRegistrationLib.pipeline.presets import Preset
from RecurrentRegistrationLib.volume import Volume


@dataclass(frozen=True)
class Images:
    """What is registered.

    Attributes:
        fixed: the image that stays.
        moving: the image that is brought onto it.
        fixed_mask: where the fixed image counts; None for everywhere.
        moving_mask: likewise.

    Raises:
        InputError: they cannot be registered.
    """

    fixed: Volume
    moving: Volume
    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None
    _prepared: dict[Any, tuple[Prepared, Prepared]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_images(self.fixed, self.moving)
        check_mask(self.fixed, self.fixed_mask, "fixed")
        check_mask(self.moving, self.moving_mask, "moving")

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return self.fixed.grid.dimension

    @property
    def voxels(self) -> int:
        """Of both images."""
        return sum(math.prod(volume.grid.size) for volume in (self.fixed, self.moving))

    @property
    def looks_like(self) -> str:
        """The preset that their values suggest."""
        return choose_preset(self.fixed, self.moving)

    def remarks(self, preset: Preset) -> list[str]:
        """What is to be said of their values: those that a scale by percentiles leaves out."""
        named = {"fixed": self.fixed, "moving": self.moving} if preset.window is None else {}
        found = {name: value for name, volume in named.items() if (value := spike(volume)) is not None}
        return [
            f"A few voxels of the {name} image are far brighter than the rest (up to {value:g}) and set no scale: mask "
            "them if they are an object of this image alone."
            for name, value in found.items()
        ]

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.fixed_mask is not None or self.moving_mask is not None

    def prepared(self, preset: Preset, device: torch.device) -> tuple[Prepared, Prepared]:
        """Both with intensities in [0, 1] and their masks, smoothed alike; kept for the next who asks."""
        scale = preset.window, preset.guess
        if scale not in self._prepared:
            self._prepared.clear()
            fixed, moving = prepare(self.fixed, self.fixed_mask, preset), prepare(self.moving, self.moving_mask, preset)
            self._prepared[scale] = blurred_like(fixed, moving.grid), blurred_like(moving, fixed.grid)
        fixed, moving = self._prepared[scale]
        return fixed.to(device), moving.to(device)
