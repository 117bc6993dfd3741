"""`Judged`: one step of a registration beside all that a loss may compare it with."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.pyramid import shrink
from RecurrentRegistrationLib.methods.base import Turn
from RecurrentRegistrationLib.train.draws import exchanged

Batch = dict[str, Any]


class Judged:
    """A step and its batch, on one grid; what is derived from them is made once, when it is first asked for.

    Args:
        step: of the method.
        batch: `fixed`, `moving` `[B, 1, *S]`, `spacing [B, d]` and, as far as they are known, `*_labels [B, 1, *S]`
            or smoothed `*_maps [B, L, *S]` of each label, `*_mask [B, 1, *S]`, `*_keypoints [B, K, d]` (voxels, tensor
            order; NaN for none) and the known `displacement [B, d, *S]`.
        own_grid: judge on the grid of the step's own values, to which the images are shrunk, not on the images'.
    """

    def __init__(self, step: Turn, batch: Batch, *, own_grid: bool = False) -> None:
        self.step, self.batch = step, batch
        self.own_grid = own_grid and tuple(step.values.shape[2:]) != step.shape

    @cached_property
    def backward(self) -> Judged | None:
        """The other direction beside the exchanged pair; None for steps that do not attach it as "backward"."""
        values = self.step.attached.get("backward")
        if values is None:
            return None
        return Judged(replace(self.step, values=values, attached={}), exchanged(self.batch))

    @cached_property
    def displacement(self) -> Tensor:
        """`[B, d, *R]`, voxels of the grid that is judged on."""
        return self.step.values if self.own_grid else self.step.displacement

    @cached_property
    def fixed(self) -> Tensor:
        """`[B, 1, *R]`."""
        return self._image("fixed")

    @cached_property
    def warped(self) -> Tensor:
        """The moving image, `[B, 1, *R]`."""
        return spatial.warp(self._image("moving"), self.displacement)

    @cached_property
    def weight(self) -> Tensor | None:
        """Where the similarity counts, `[B, 1, *R]`: in both masks; None for everywhere."""
        weight = None
        if "fixed_mask" in self.batch:
            weight = self._image("fixed_mask")
        if "moving_mask" in self.batch:
            moving = spatial.warp(self._image("moving_mask"), self.displacement.detach())
            weight = moving if weight is None else weight * moving
        return weight

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor] | None:
        """Fixed and linearly warped moving labels, one channel each `[B, L, *S]`; None where there are none."""
        if "fixed_maps" in self.batch:
            return self.batch["fixed_maps"], spatial.warp(self.batch["moving_maps"], self.step.displacement)
        if "fixed_labels" not in self.batch:
            return None
        fixed, moving = self.batch["fixed_labels"], self.batch["moving_labels"]
        present = torch.unique(torch.cat([fixed.flatten(), moving.flatten()]))
        present = present[present > 0].view(1, -1, *[1] * (fixed.ndim - 2))
        return (fixed == present).float(), spatial.warp((moving == present).float(), self.step.displacement)

    @cached_property
    def landmark_distances(self) -> Tensor | None:
        """Millimetres between mapped fixed and moving key points, those there are, `[N]`; None where there are none."""
        if "fixed_keypoints" not in self.batch:
            return None
        fixed, moving = self.batch["fixed_keypoints"], self.batch["moving_keypoints"]
        known = torch.isfinite(fixed + moving).all(dim=2)
        d = fixed.shape[2]
        places = fixed.nan_to_num().transpose(1, 2).reshape(len(fixed), d, -1, *[1] * (d - 1))
        moved = spatial.sample_at(self.step.displacement, places, padding="border").reshape(len(fixed), d, -1)
        apart = (fixed.nan_to_num() + moved.transpose(1, 2) - moving.nan_to_num()) * self.batch["spacing"].unsqueeze(1)
        # The norm has no derivative at zero.
        return (apart[known].square().sum(dim=1) + 1e-12).sqrt()

    def _image(self, name: str) -> Tensor:
        image = self.batch[name].float()
        if not self.own_grid:
            return image
        size = tuple(self.displacement.shape[2:])
        factor = round(max(n / m for n, m in zip(image.shape[2:], size, strict=True)))
        shrunk = shrink(image, factor)
        return spatial.resize(shrunk, size)
