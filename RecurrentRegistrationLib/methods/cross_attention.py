"""RAN's network with linear cross attention in the place of its residual aligners: the paper's baseline CA/P."""

from __future__ import annotations

from typing import Any

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.linear_attention import AttentionAligner
from RecurrentRegistrationLib.methods.base import Card
from RecurrentRegistrationLib.methods.ran import STRUCTURES, MotionSeparableNetwork

CARD = Card(
    name="cross-attention",
    title="Cross attention, coarse to fine",
    summary="A network in which every voxel of one image attends to all of the other; the baseline that RAN is "
    "measured against.",
    reference="The baseline CA/P of J.-Q. Zheng et al., Medical Image Analysis 2024, whose layers are unpublished; "
    "linear attention after J. Sun et al., LoFTR, CVPR 2021. The layer widths are ours.",
    default_steps=5,
    spacing=2.0,
    multiple=16,
    attaches=("backward",),
    parameters={2: 155_938, 3: 406_271},
    bytes_per_voxel=1_200,
)


class CrossAttentionNetwork(MotionSeparableNetwork):
    """Any structure of RAN with `AttentionAligner`; `ran0`, the plain pyramid, as in the paper.

    Args:
        dimension: 2 or 3.
        variant: see `RAN`.
        checkpoint: recompute each level in the backward pass.
    """

    card = CARD

    def __init__(self, dimension: int, *, variant: str = "ran0", checkpoint: bool = False) -> None:
        if variant not in STRUCTURES:
            raise InputError(f"There is no structure '{variant}'; choose one of {', '.join(STRUCTURES)}.")
        super().__init__(
            dimension,
            STRUCTURES[variant],
            lambda dimension, widths, dilations: AttentionAligner(dimension, widths),
            checkpoint=checkpoint,
        )


def create(dimension: int = 3, **options: Any) -> CrossAttentionNetwork:
    """Cross attention for 2D or 3D; the options are those of `CrossAttentionNetwork`."""
    return CrossAttentionNetwork(dimension, **options)
