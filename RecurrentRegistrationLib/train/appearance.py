"""From label maps to images: random contrast, blur, bias field and noise; or a signal model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.train.deformation import between, smooth_noise, symmetric


class Appearance:
    """What makes images of label maps."""

    def render(self, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Two clean images `[1, 1, *S]` of the same label map: as the fixed and as the moving scan would show it."""
        raise NotImplementedError

    def spoil(self, image: Tensor, generator: Generator) -> Tensor:
        """An image as it leaves the scanner, in [0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Scanner(Appearance):
    """What a scanner does to images: bias field, contrast, noise. 0 turns an effect off.

    Attributes:
        bias: largest deviation of the logarithm of a smooth factor.
        noise: largest standard deviation.
        gamma: largest deviation of the logarithm of the intensities' exponent.
    """

    bias: float = 0.3
    noise: float = 0.04
    gamma: float = 0.2

    def spoil(self, image: Tensor, generator: Generator) -> Tensor:
        """An image as it leaves the scanner, in [0, 1]."""
        shape = image.shape[2:]
        if self.gamma:
            image = image.clamp(0, 1) ** (self.gamma * symmetric((), generator)).exp()
        if self.bias:
            field = smooth_noise(shape, 1, 0.25 * min(shape), generator)
            image = image * (between((0.0, self.bias), generator) * field / 2).exp()
        if self.noise:
            level = between((0.0, self.noise), generator)
            image = image + level * torch.randn(image.shape, generator=generator, device=image.device)
        return image.clamp(0, 1)


@dataclass(frozen=True)
class Recolouring(Scanner):
    """A scanner whose images go through a random curve, so that a network learns to do without a contrast of its own.

    Attributes:
        knots: of the piecewise linear curve, at equal distances.
    """

    knots: int = 6

    def spoil(self, image: Tensor, generator: Generator) -> Tensor:
        """An image as it leaves the scanner in another contrast, stretched to [0, 1]."""
        curve = torch.rand(self.knots, generator=generator, device=image.device)
        place = super().spoil(image, generator) * (self.knots - 1)
        below = place.long().clamp(max=self.knots - 2)
        changed = torch.lerp(curve[below], curve[below + 1], place - below)
        low, high = changed.aminmax()
        return (changed - low) / (high - low).clamp_min(1e-6)


@dataclass(frozen=True)
class RandomContrast(Scanner):
    """Every label has a random grey value and texture.

    Attributes:
        texture: largest deviation inside a label.
        blur: largest standard deviation of a Gaussian, voxels.
        same: whether the fixed and the moving image have the same contrast, or each its own.
    """

    texture: float = 0.05
    blur: float = 1.0
    same: bool = False

    def render(self, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Two clean images of the same label map."""
        fixed = self._contrast(labels, generator)
        return fixed, (fixed if self.same else self._contrast(labels, generator))

    def _contrast(self, labels: Tensor, generator: Generator) -> Tensor:
        count = int(labels.max()) + 1
        grey = torch.rand(count, generator=generator, device=labels.device)
        grey[0] = 0.0
        image = grey[labels.long()]
        if self.texture:
            noise = smooth_noise(labels.shape[2:], 1, 1.5, generator)
            image = image + between((0.0, self.texture), generator) * noise * (labels > 0)
        sigma = between((0.0, self.blur), generator)
        return spatial.gaussian_smooth(image, sigma).clamp(0, 1)
