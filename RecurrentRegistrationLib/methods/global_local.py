"""First one affine map of the whole image, then a U-net for what is local, composed: the composite network "Cn+Un".

Hu et al., Label-driven weakly-supervised learning for multimodal deformable image registration, ISBI 2018. The widths
of the baseline in Zheng et al. (RAN, Medical Image Analysis 2024) are not published: here the affine network is that of
AVSM and the local one the wider strided VoxelMorph network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement
from RecurrentRegistrationLib.layers.affine_network import AffineNetwork
from RecurrentRegistrationLib.layers.unet import displacement_unet, legacy_widths
from RecurrentRegistrationLib.methods.base import Card, Method, Pair, State

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

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        return State(field=spatial.zero_displacement(pair.fixed))

    def advance(self, pair: Pair, state: State) -> State:
        """The global turn, then local ones."""
        if state.index == 0:
            affine = self.affine(pair.moving, pair.fixed).float()
            total = affine_displacement(affine, pair.shape)
            return state.after(total, "global", affine=affine, attached={"affine": affine})
        warped = spatial.warp(pair.moving, state.field)
        residual = self.local(torch.cat([pair.fixed, warped], dim=1)).float()
        return state.after(spatial.compose(residual, state.field), "local")


def create(dimension: int = 3, **options) -> GlobalLocal:
    """The global and local network for 2 or 3 dimensions; see the options of `GlobalLocal`."""
    return GlobalLocal(dimension, **options)
