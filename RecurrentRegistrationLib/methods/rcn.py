"""Recursive cascades: one U-net registers again and again what is left, and each answer is composed with the last.

Zhao et al., Recursive Cascaded Networks for Unsupervised Medical Image Registration, ICCV 2019. The weights are
shared by all steps, as in the baselines RCn1 and RCn2 of Zheng et al., Residual Aligner-based Network (RAN), Medical
Image Analysis 2024; with `cascades` above 1 every cascade has its own, as in the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.unet import displacement_unet, legacy_widths
from RecurrentRegistrationLib.methods.base import Card, Clock, Method, Turn

CARD = Card(
    name="rcn",
    title="Recursive cascaded network",
    summary="One network registers what is left again and again; the answers are composed.",
    reference="Zhao, Dong, Chang, Xu: Recursive Cascaded Networks for Unsupervised Medical Image Registration, "
    "ICCV 2019",
    default_steps=5,
    attaches=("residual",),
    parameters={2: 472_418, 3: 1_416_771},
    identity_at_start=True,
    recurrent=True,
)


class State(NamedTuple):
    """Steps made and the total displacement in voxels."""

    index: int
    displacement: Tensor


class RCN(Method):
    """Recursive cascades of the strided VoxelMorph U-net; each step carries its own displacement as "residual".

    Args:
        dimension: 2 or 3.
        width: channels of the network's first level: 16 for RCn1, 32 for RCn2.
        cascades: networks with weights of their own; steps beyond their number repeat the last one.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(self, dimension: int = 3, *, width: int = 32, cascades: int = 1, checkpoint: bool = False) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.cascades = nn.ModuleList(displacement_unet(dimension, **legacy_widths(width)) for _ in range(cascades))

    def steps(self, fixed, moving, *, fixed_mask=None, moving_mask=None, count=None, state=None) -> Iterator[Turn]:
        """One step for each recursion; the masks are not used."""
        clock, shape = Clock(), tuple(fixed.shape[2:])
        first, displacement = state or State(0, spatial.zero_displacement(fixed))
        last = first + (self.card.default_steps if count is None else count)
        for index in range(first, last):
            network = self.cascades[min(index, len(self.cascades) - 1)]
            warped = spatial.warp(moving, displacement)
            residual = self.checkpointed(network, torch.cat([fixed, warped], dim=1)).float()
            # The moving image is already pulled through the total, so the residual is looked up first.
            previous, displacement = displacement, spatial.compose(residual, displacement)
            yield Turn(
                index + 1,
                f"recursion {index + 1}/{last}",
                displacement,
                shape,
                clock(),
                State(index + 1, displacement),
                previous,
                attached={"residual": residual},
            )


def create(dimension: int = 3, **options) -> RCN:
    """Recursive cascades for 2 or 3 dimensions; see the options of `RCN`."""
    return RCN(dimension, **options)
