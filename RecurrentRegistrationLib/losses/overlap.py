"""Overlap of a structure that both images show: its soft Dice (Milletari et al., V-Net, 3DV 2016) and where to go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.boxes import Box

CLOSE = 0.02  # less than this lacks of a full overlap: the pull fades


@dataclass(frozen=True, eq=False)
class Structure:
    """One structure on a box of a grid.

    Attributes:
        box: where it lies in a tensor `[1, C, *S]`.
        fixed: `[1, 1, *box]`, how much of each voxel it fills in the fixed image.
        moving: the same in the moving image, after the linear map.
    """

    box: Box
    fixed: Tensor
    moving: Tensor

    def loss(self, displacement: Tensor) -> Tensor:
        """1 less soft Dice under a displacement `[1, d, *box]`; 0 where both are equal, blurred or not."""
        warped = spatial.warp(self.moving, displacement)
        both = (self.fixed * warped).sum()
        return 1 - (2 * both + 1e-3) / (self.fixed.square().sum() + warped.square().sum() + 1e-3)

    def gradient(self, displacement: Tensor) -> tuple[Tensor, float]:
        """Of the loss, `[1, d, *box]`, with a mean square of 1 where it is not 0 until they almost overlap; and it."""
        with torch.inference_mode(False), torch.enable_grad():
            values = displacement.clone().requires_grad_()
            loss = self.loss(values)
            (gradient,) = torch.autograd.grad(loss, values)
        length = gradient.norm(dim=1)
        some = length > 0
        if not bool(some.any()):
            return gradient, loss.item()
        return gradient * (min(loss.item() / CLOSE, 1.0) / length[some].square().mean().sqrt()), loss.item()
