"""Random changes of a pair, by MONAI; the same draw always changes the same pair in the same way."""

from __future__ import annotations

from dataclasses import dataclass, fields

import monai.transforms as mt
import numpy as np
from torch import Tensor

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.draws import exchanged

SPATIAL = ("flip", "rotate", "scale", "shift")
CHANCES = ("flip", "swap")


@dataclass(frozen=True)
class Augmentation:
    """What may happen to the images of a pair. 0 turns a change off.

    Attributes:
        flip: probability of mirroring both images along each axis.
        rotate: largest angle in degrees about each axis, drawn for each image by itself.
        scale: largest relative change of size, likewise.
        shift: largest shift in voxels, likewise.
        swap: probability of exchanging fixed and moving.
        gamma: largest change of the exponent of the intensities' contrast, likewise (0.3: exponents 0.77 to 1.3).
        brighten: both images are multiplied by one number from 1 - brighten to 1 + brighten (RAN).
        noise: largest standard deviation of Gaussian noise, likewise.
    """

    flip: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    swap: float = 0.0
    gamma: float = 0.0
    brighten: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        wrong = next((f.name for f in fields(self) if getattr(self, f.name) < 0), None)
        wrong = wrong or next((name for name in CHANCES if getattr(self, name) > 1), None)
        if wrong:
            raise InputError(f"An augmentation is 0 or more, and a probability no more than 1: change '{wrong}'.")

    def __call__(self, pair: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """The pair `fixed [1, *S]`, `moving`, … changed. Raises InputError for key points that would have to move."""
        if "fixed_keypoints" in pair and any(getattr(self, name) for name in SPATIAL):
            raise InputError("Images with key points cannot be flipped, turned, scaled or shifted: set these to 0.")
        draw = np.random.RandomState(seed)
        if draw.rand() < self.swap:
            pair = exchanged(pair)
        pair = self._flipped(pair, draw)
        for side in ("fixed", "moving"):
            pair = self._changed(pair, side, draw)
        if self.brighten:
            factor = draw.uniform(1 - self.brighten, 1 + self.brighten)
            pair |= {side: pair[side] * factor for side in ("fixed", "moving")}
        return pair

    def _flipped(self, pair: dict[str, Tensor], draw: np.random.RandomState) -> dict[str, Tensor]:
        axes = [a for a in range(1, pair["fixed"].ndim) if draw.rand() < self.flip]
        return {k: v.flip(axes) if axes and v.ndim == pair["fixed"].ndim else v for k, v in pair.items()}

    def _changed(self, pair: dict[str, Tensor], side: str, draw: np.random.RandomState) -> dict[str, Tensor]:
        """One of the images, with its labels and its mask."""
        dimension = pair[side].ndim - 1
        keys = [key for key in (side, f"{side}_labels", f"{side}_mask") if key in pair]
        changes: list = []
        if self.rotate or self.scale or self.shift:
            changes.append(
                mt.RandAffined(
                    keys,
                    prob=1.0,
                    rotate_range=[np.deg2rad(self.rotate)] * (1 if dimension == 2 else 3),
                    scale_range=[self.scale] * dimension,
                    translate_range=[self.shift] * dimension,
                    mode=["bilinear", *["nearest"] * (len(keys) - 1)],
                    padding_mode="zeros",
                )
            )
        if self.gamma:
            changes.append(mt.RandAdjustContrastd([side], prob=1.0, gamma=(1 / (1 + self.gamma), 1 + self.gamma)))
        if self.noise:
            changes.append(mt.RandGaussianNoised([side], prob=1.0, std=self.noise))
        if not changes:
            return pair
        chain = mt.Compose([*changes, mt.EnsureTyped(keys, track_meta=False)])
        chain.set_random_state(seed=int(draw.randint(2**31)))
        changed = chain({key: pair[key] for key in keys})
        return pair | {key: value.to(pair[key].dtype) for key, value in changed.items()}
