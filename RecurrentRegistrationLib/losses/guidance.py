"""`Guidance`: what a user knows of a pair, on one grid, as parts that an optimisation takes between its updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.landmarks import Landmarks
from RecurrentRegistrationLib.layers.regions import Regions
from RecurrentRegistrationLib.losses.overlap import Structure

LABELS = 10.0  # how much stronger the labels pull than the images, where they do
TOLERANCE = 0.1  # millimetres: landmarks that are together
LITTLE = 0.98  # of its distance is left to a landmark that does not come nearer any more
LITTLE_ELSE = 0.05  # of the grid: structures are everywhere
CODES = 8  # features that tell structures apart
LEAST = 0.1  # Jacobian determinant down to which landmarks may compress


@dataclass(frozen=True, eq=False)
class Guidance:
    """On a grid of `S` voxels.

    Attributes:
        landmarks: to bring together; None for none.
        structures: to bring onto each other.
        regions: that move as rigid bodies or not at all; None for none.
        window: `[1, 1, *S]`, how much the displacement may change, from 0 to 1; None for freely.
    """

    landmarks: Landmarks | None = None
    structures: Sequence[Structure] = ()
    regions: Regions | None = None
    window: Tensor | None = None

    def steered(self, gradient: Tensor, displacement: Tensor) -> tuple[Tensor, float]:
        """A gradient of the images with the labels' added, in proportion to it; and the mean loss of these."""
        if not self.structures:
            return gradient, 0.0
        length = gradient.norm(dim=1)
        some = length > 0
        scale = float(length[some].square().mean().sqrt()) if bool(some.any()) else 1.0
        added, losses = torch.zeros_like(gradient), []
        for structure in self.structures:
            part, loss = structure.gradient(displacement[structure.box])
            added[structure.box] += part
            losses.append(loss)
        return gradient + LABELS * scale * added, sum(losses) / len(losses)

    def beside(self, like: Tensor) -> Tensor:
        """Weights `[1, 1, *S]` of mean 1 that are 0 around structures, where a gradient is not the images' own."""
        weight = torch.ones_like(like[:1, :1])
        for structure in self.structures:
            weight[structure.box] = 0
        own = weight.mean()
        return weight / own if own > LITTLE_ELSE else torch.ones_like(weight)

    def shown(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[1, C, *S]` of both images with the structures beside them, each in a code of its own.

        A structure weighs as much as all other features of a voxel together.
        """
        if not self.structures:
            return fixed, moving
        codes = fixed.new_zeros(2, CODES, *fixed.shape[2:])
        generator = torch.Generator().manual_seed(0)
        for structure in self.structures:
            code = torch.randn(1, CODES, generator=generator).to(fixed)
            code = (code / code.norm()).view(1, CODES, *[1] * (fixed.ndim - 2))
            codes[:1][structure.box] += code * structure.fixed
            codes[1:][structure.box] += code * structure.moving
        weight = fixed.var(dim=[0, *range(2, fixed.ndim)]).sum().sqrt().clamp(min=0.1)
        return torch.cat([fixed, codes[:1] * weight], dim=1), torch.cat([moving, codes[1:] * weight], dim=1)

    def pulled(self, update: Tensor, displacement: Tensor) -> Tensor:
        """An update with what takes the landmarks nearer to each other."""
        if self.landmarks is not None:
            update = update + self.landmarks.update(displacement)
        return update

    def kept(self, displacement: Tensor, before: Tensor) -> Tensor:
        """The displacement with every region as it may move, changed from `before` as far as the window lets it."""
        if self.regions is not None:
            displacement = self.regions.projected(displacement)
        if self.window is None:
            return displacement
        return torch.where(self.window > 0, torch.lerp(before, displacement, self.window), before)

    def settled(self, displacement: Tensor, rounds: int = 20) -> Tensor:
        """The displacement with the landmarks brought together as far as nothing folds."""
        settled = self.kept(displacement, displacement)
        if self.landmarks is None:
            return settled
        counted = torch.ones(len(self.landmarks.fixed), dtype=torch.bool, device=displacement.device)
        least = _least(settled)
        for _ in range(rounds):
            before = self.landmarks.distances(settled)
            if not bool(((before > TOLERANCE) & counted).any()):
                break
            update = self.landmarks.update(settled, counted)
            for share in (1.0, 0.5, 0.25):
                changed = self._followed(update * share, settled)
                reached = _least(changed)
                if reached >= min(LEAST, least):
                    settled, least = changed, reached
                    counted &= self.landmarks.distances(settled) < LITTLE * before + TOLERANCE
                    break
            else:
                counted[self._nearest_to_fold(changed, counted)] = False
        return settled

    def _followed(self, update: Tensor, displacement: Tensor) -> Tensor:
        return self.kept(spatial.compose(update, displacement), displacement)

    def _nearest_to_fold(self, displacement: Tensor, counted: Tensor) -> int:
        assert self.landmarks is not None
        determinant = spatial.jacobian_determinant(displacement)[0, 0]
        worst = torch.tensor(torch.unravel_index(determinant.argmin(), determinant.shape))
        away = (self.landmarks.fixed - worst.to(self.landmarks.fixed)) * self.landmarks.spacing
        return int(away.norm(dim=1).masked_fill(~counted, torch.inf).argmin())


OnGrid = Callable[[Sequence[int]], Guidance | None]
"""A guide for every size of grid over one extent; None once nothing guides."""


def _least(displacement: Tensor) -> float:
    return float(spatial.jacobian_determinant(displacement).min())
