"""VoxelMorph: one U-net, one step, the baseline that the recurrent methods are measured against.

Balakrishnan et al., VoxelMorph: A Learning Framework for Deformable Medical Image Registration, IEEE TMI 2019.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.convolution import displacement_head
from RecurrentRegistrationLib.layers.unet import UNet
from RecurrentRegistrationLib.methods.base import Card, Method, Pair, State

CARD = Card(
    name="voxelmorph",
    title="VoxelMorph",
    summary="One network, one step: the field's baseline.",
    reference="Balakrishnan, Zhao, Sabuncu, Guttag, Dalca: VoxelMorph: A Learning Framework for Deformable Medical "
    "Image Registration, IEEE Transactions on Medical Imaging 2019",
    parameters={2: 84_938, 3: 254_499},
    initial=True,
    identity_at_start=True,
    recurrent=True,
)
WIDTHS = {
    "riir": {"encoder": (16, 16, 32, 32, 32), "decoder": ((32,), (32,), (32,), (16,), (16,), (8,))},
    "vm1": {"encoder": (16, 32, 32, 32, 32), "decoder": ((32,), (32,), (32,), (32,), (32, 16), (16,))},
    "vm2": {"encoder": (32, 64, 64, 64, 64), "decoder": ((64,), (64,), (64,), (64,), (64, 32), (32,))},
}


class VoxelMorph(Method):
    """VoxelMorph without integration; further steps register what is left and compose.

    Args:
        dimension: 2 or 3.
        width: "riir" for the net that RIIR is compared with (254 499 parameters in 3D), "vm1" and "vm2" for those that
            RAN is compared with (355 875 and 1 416 771).
        half: find the displacement at half the size, as the authors' later code does: several times faster.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(
        self, dimension: int = 3, *, width: str = "riir", half: bool = False, checkpoint: bool = False
    ) -> None:
        super().__init__()
        if width not in WIDTHS:
            raise InputError(f"VoxelMorph has no width '{width}'; choose one of {', '.join(WIDTHS)}.")
        self.checkpoint = checkpoint
        widths = WIDTHS[width]
        unet = UNet(dimension, 2, encoder=widths["encoder"], decoder=widths["decoder"][: -1 if half else None])
        self.network = nn.Sequential(unet, displacement_head(dimension, unet.outputs))

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        return State(field=spatial.zero_displacement(pair.fixed) if initial is None else initial)

    def advance(self, pair: Pair, state: State) -> State:
        """One pass of the network."""
        warped = spatial.warp(pair.moving, state.field)
        update = self.network(torch.cat([pair.fixed, warped], dim=1)).float()
        update = spatial.resize_displacement(update, pair.shape)
        # The moving image is already pulled through the total, so the update is looked up first.
        return state.after(spatial.compose(update, state.field), f"pass {state.index + 1}")


def create(dimension: int = 3, **options: Any) -> VoxelMorph:
    """VoxelMorph for 2 or 3 dimensions; see its options."""
    return VoxelMorph(dimension, **options)
