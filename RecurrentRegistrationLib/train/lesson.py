"""`Lesson`: what a part of a method learns before the method registers, as random features correlate too little."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from RecurrentRegistrationLib.errors import InputError

MULTIPLE = 8  # of voxels along each axis, for networks of up to four levels


@dataclass(frozen=True)
class Lesson:
    """A part of a method learns to tell the labels from each other and from what is around them.

    Its first channels become the logarithms of their probabilities, less a constant; further channels are free.

    Attributes:
        part: its place in the method, for example "networks.0.features"; it takes an image `[B, 1, *S]`.
    """

    part: str

    def maps(self, method: nn.Module, images: Tensor, labels: int) -> Tensor:
        """Logarithms of the probabilities of what is around the labels and of each of them, `[B, 1 + labels, *S]`."""
        shape = images.shape[2:]
        beyond = [size for n in reversed(shape) for size in (0, -n % MULTIPLE)]
        features = method.get_submodule(self.part)(F.pad(images, beyond))[(..., *map(slice, shape))]
        if features.shape[1] <= labels or features.shape[2:] != shape:
            raise InputError(f"The part '{self.part}' does not give {1 + labels} channels on the image's grid.")
        return features[:, : 1 + labels].float().log_softmax(dim=1)

    def __call__(self, found: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses of these logarithms: Dice and cross-entropy with the maps `[B, labels, *S]` in [0, 1]."""
        around = 1 - labels.sum(dim=1, keepdim=True)
        wanted = torch.cat([around, labels], dim=1).clamp(0, 1)
        dice = DiceLoss(include_background=True, squared_pred=True, smooth_nr=1.0, smooth_dr=1.0)
        return {"dice": dice(found.exp()[:, 1:], labels), "cross_entropy": -(wanted * found).sum(dim=1).mean()}

    def told(self, method: nn.Module, images: Tensor, regions: Tensor, seed: int) -> tuple[dict[str, Tensor], float]:
        """Losses and Dice where the regions `[B, 1, *S]` are numbered from 1, 0 around them.

        Every second voxel along each axis is compared, from a random one on: its neighbours say much the same.
        """
        logits = method.get_submodule(self.part)(images)
        first = torch.randint(2, (images.ndim - 2,), generator=torch.Generator().manual_seed(seed)).tolist()
        thin: tuple = (..., *(slice(n, None, 2) for n in first))
        found, wanted = logits[thin].float().flatten(2).log_softmax(dim=1), regions[thin].flatten(2)
        true = found.gather(1, wanted)
        dice = soft_dice(found.exp(), wanted)
        best = dice_of_regions(found.detach().argmax(1, keepdim=True), wanted, found.shape[1])
        return {"dice": 1 - dice, "cross_entropy": -true.mean()}, best


def soft_dice(shares: Tensor, wanted: Tensor) -> Tensor:
    """Mean Dice of probabilities `[B, 1 + L, N]` with the regions `[B, 1, N]` that are there; 1 for none."""
    count = shares.shape[1]
    true = shares.gather(1, wanted).flatten()
    both = true.new_zeros(count).index_add(0, wanted.flatten(), true)
    size = torch.bincount(wanted.flatten(), minlength=count).to(true)
    overlap = (2 * both + 1) / (shares.sum((0, 2)) + size + 1)
    there = size[1:] > 0
    return overlap[1:][there].mean() if there.any() else shares.new_ones(())


def dice_of_regions(found: Tensor, wanted: Tensor, count: int) -> float:
    """Mean Dice of two maps of `count` regions, over those that the second has; 0 is around them."""
    sizes = [torch.bincount(values.flatten(), minlength=count) for values in (found, wanted, wanted[found == wanted])]
    there = sizes[1][1:] > 0
    return (2 * sizes[2] / (sizes[0] + sizes[1]).clamp_min(1))[1:][there].float().mean().item()
