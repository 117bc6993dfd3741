"""Recursive cascades: one U-net registers again and again what is left, and each answer is composed with the last.

Zhao et al., Recursive Cascaded Networks for Unsupervised Medical Image Registration, ICCV 2019. The weights are
shared by all steps, as in the baselines RCn1 and RCn2 of Zheng et al., Residual Aligner-based Network (RAN), Medical
Image Analysis 2024; with `cascades` above 1 every cascade has its own, as in the original.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.unet import displacement_unet, legacy_widths
from RecurrentRegistrationLib.methods.base import Card, Method, Pair, State

CARD = Card(
    name="rcn",
    title="Recursive cascaded network",
    summary="One network registers what is left again and again; the answers are composed.",
    reference="Zhao, Dong, Chang, Xu: Recursive Cascaded Networks for Unsupervised Medical Image Registration, "
    "ICCV 2019",
    default_steps=5,
    initial=True,
    attaches=("residual",),
    parameters={2: 472_418, 3: 1_416_771},
    identity_at_start=True,
    recurrent=True,
)


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

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        return State(field=spatial.zero_displacement(pair.fixed) if initial is None else initial)

    def advance(self, pair: Pair, state: State) -> State:
        """One recursion."""
        network = self.cascades[min(state.index, len(self.cascades) - 1)]
        warped = spatial.warp(pair.moving, state.field)
        residual = network(torch.cat([pair.fixed, warped], dim=1)).float()
        # The moving image is already pulled through the total, so the residual is looked up first.
        total = spatial.compose(residual, state.field)
        return state.after(total, f"recursion {state.index + 1}/{state.last}", attached={"residual": residual})


def create(dimension: int = 3, **options) -> RCN:
    """Recursive cascades for 2 or 3 dimensions; see the options of `RCN`."""
    return RCN(dimension, **options)
