"""First one affine map of the whole image, then a U-net for what is local, composed: the composite network "Cn+Un".

Hu et al., Label-driven weakly-supervised learning for multimodal deformable image registration, ISBI 2018. The widths
of the baseline in Zheng et al. (RAN, Medical Image Analysis 2024) are not published: here the affine network is that of
AVSM and the local one the wider strided VoxelMorph network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement
from RecurrentRegistrationLib.layers.affine_network import AffineNetwork
from RecurrentRegistrationLib.layers.unet import displacement_unet, legacy_widths
from RecurrentRegistrationLib.methods.base import Card, Clock, Method, Turn

CARD = Card(
    name="global-local",
    title="Global and local network",
    summary="One network aligns the whole image by an affine map, a second one finds what is left.",
    reference="Hu, Modat, Gibson, Ghavami, Bonmati, Moore, Emberton, Noble, Barratt, Vercauteren: Label-driven "
    "weakly-supervised learning for multimodal deformable image registration, ISBI 2018",
    default_steps=2,
    attaches=("affine",),
    parameters={2: 519_372, 3: 1_559_059},
    identity_at_start=True,
    recurrent=True,
)


class State(NamedTuple):
    """Steps made, the total displacement in voxels and the affine map it began with."""

    index: int
    displacement: Tensor
    affine: Tensor | None = None


class GlobalLocal(Method):
    """A step of an affine map (attached, in [-1, 1] coordinates) and a local step; further steps repeat the local one.

    Args:
        dimension: 2 or 3.
        width: channels of the first level of the local network.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(self, dimension: int = 3, *, width: int = 32, checkpoint: bool = False) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.affine = AffineNetwork(dimension)
        self.local = displacement_unet(dimension, **legacy_widths(width))

    def steps(self, fixed, moving, *, fixed_mask=None, moving_mask=None, count=None, state=None) -> Iterator[Turn]:
        """The global step, then local ones; the masks are not used."""
        clock, shape = Clock(), tuple(fixed.shape[2:])
        first, displacement, affine = state or State(0, spatial.zero_displacement(fixed))
        for index in range(first, first + (self.card.default_steps if count is None else count)):
            previous, attached = displacement, {}
            if index == 0:
                attached["affine"] = affine = self.checkpointed(self.affine, moving, fixed).float()
                displacement = affine_displacement(affine, shape)
            else:
                warped = spatial.warp(moving, displacement)
                residual = self.checkpointed(self.local, torch.cat([fixed, warped], dim=1)).float()
                displacement = spatial.compose(residual, displacement)
            stage, state = "global" if index == 0 else "local", State(index + 1, displacement, affine)
            parts = {"affine": affine, "attached": attached}
            yield Turn(index + 1, stage, displacement, shape, clock(), state, previous, **parts)


def create(dimension: int = 3, **options) -> GlobalLocal:
    """The global and local network for 2 or 3 dimensions; see the options of `GlobalLocal`."""
    return GlobalLocal(dimension, **options)
