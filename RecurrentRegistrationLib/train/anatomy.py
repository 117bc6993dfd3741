"""Label maps out of nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.train.deformation import diffeomorphism, smooth_noise, symmetric


class Anatomy:
    """What makes label maps."""

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """A label map `[1, 1, *S]`, 0 outside."""
        raise NotImplementedError


@dataclass(frozen=True)
class Shapes(Anatomy):
    """Regions of random form inside a random outline (after SynthMorph, Hoffmann et al., IEEE TMI 2022).

    Attributes:
        regions: number of labels.
        size: standard deviation of the noise that the regions come from, as a fraction of the shortest axis.
        outline: whether there is a background around them.
    """

    regions: int = 12
    size: float = 0.08
    outline: bool = True

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """A label map from 1, with 0 outside of the outline."""
        sigma = max(1.0, self.size * min(shape))
        noise = torch.cat([smooth_noise(shape, 1, sigma, generator) for _ in range(self.regions)], dim=1)
        labels = 1 + noise.argmax(dim=1, keepdim=True)
        if not self.outline:
            return labels
        wobble = 0.12 * smooth_noise(shape, 1, 3 * sigma, generator)
        return labels * (_radius(shape, generator.device) + wobble < 0.85)


@dataclass(frozen=True)
class Heart(Anatomy):
    """A short-axis slice through a chest: body wall 1, fat 2, liver 3, myocardium 4, blood 5; lungs 6 and air 0.

    2D; every draw has other proportions and is bent a little.

    Attributes:
        bend: largest deformation of the drawing, as a fraction of the shortest axis.
    """

    bend: float = 0.05

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """A label map."""
        place = _place(shape, generator.device)

        def oval(centre: tuple[float, float], size: tuple[float, float]) -> Tensor:
            wanted = torch.tensor([*centre, *size], device=generator.device)
            drawn = wanted + 0.04 * symmetric((4,), generator)
            middle, radii = drawn.view(2, 1, 2, 1, 1)
            return ((place - middle) / radii).square().sum(dim=1, keepdim=True) < 1

        labels = torch.zeros(1, 1, *shape, dtype=torch.long, device=generator.device)
        parts = [
            (2, oval((0.0, 0.0), (0.85, 0.95))),
            (1, oval((0.0, 0.0), (0.78, 0.88))),
            (6, oval((-0.05, -0.45), (0.6, 0.32))),
            (6, oval((-0.05, 0.5), (0.6, 0.3))),
            (3, oval((0.55, -0.25), (0.3, 0.5))),
            (4, oval((0.0, 0.1), (0.42, 0.38))),
            (5, oval((0.0, 0.18), (0.25, 0.2))),
            (5, oval((-0.05, -0.18), (0.3, 0.14))),
        ]
        for label, inside in parts:
            labels = torch.where(inside, label, labels)
        reach = self.bend * min(shape)
        bent = diffeomorphism(shape, reach, (0.1 * min(shape), 0.2 * min(shape)), generator)
        return spatial.warp(labels.float(), bent, mode="nearest").long()


def _place(shape: Sequence[int], device: torch.device) -> Tensor:
    """Coordinates `[1, d, *S]` from -1 to 1."""
    size = torch.tensor([max(n - 1, 1) for n in shape], device=device).view(1, -1, *[1] * len(shape))
    return 2 * spatial.identity_grid(shape, device=device) / size - 1


def _radius(shape: Sequence[int], device: torch.device) -> Tensor:
    """Distance `[1, 1, *S]` from the centre, 1 at the middle of each face."""
    return _place(shape, device).norm(dim=1, keepdim=True)
