"""RIIR: a recurrent inference machine that learns what to do with the gradient of the similarity.

Zhang et al.: Recurrent Inference Machine for Medical Image Registration, arXiv 2406.13413, 2024. Neither image enters
the network: the gradient with respect to the displacement is all that it knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.conv_gru import ConvGRU
from RecurrentRegistrationLib.layers.convolution import convolution, displacement_head
from RecurrentRegistrationLib.layers.similarity_gradient import (
    central_difference_gradient,
    common_weight,
    gradient_of,
    squared_error_gradient,
)
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation, MutualInformation
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair

CARD = Card(
    name="riir",
    title="RIIR",
    summary="A small recurrent network that learns how to follow the gradient of the images' similarity.",
    reference="Zhang, Zhao, Xue, Kellman, Klein, Tao: Recurrent Inference Machine for Medical Image Registration, "
    "arXiv 2406.13413, 2024",
    default_steps=6,
    masks="weights",
    initial=True,
    attaches=("gradient",),
    parameters={2: 60_946, 3: 93_875},
    identity_at_start=True,
    recurrent=True,
    bytes_per_voxel=600,
)
HIDDEN = {2: (32, 16), 3: (16, 16)}
GRADIENTS = {
    "mse": squared_error_gradient,
    "mse-central": central_difference_gradient,
    "ncc": gradient_of(LocalCorrelation(radius=4, squared=False)),
    "nmi": gradient_of(MutualInformation(bins=64)),
}
INPUTS = ("gradient", "explicit", "implicit")


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With the two hidden states."""

    hidden: tuple[Tensor, Tensor]


class Cell(nn.Module):
    """The paper's figure 1: convolution, ConvGRU, convolution, ConvGRU, convolution.

    Args:
        dimension: 2 or 3.
        inputs: channels that it is fed.
        hidden: channels of the two hidden states.
        width: channels of the two convolutions between them.
        dilations: of each level's convolution and ConvGRU.
    """

    def __init__(
        self, dimension: int, inputs: int, *, hidden: Sequence[int], width: int = 16, dilations: Sequence[int] = (1, 1)
    ) -> None:
        super().__init__()
        self.hidden = tuple(hidden)
        self.convolutions = nn.ModuleList(
            convolution(dimension, channels, width, dilation=dilation)
            for channels, dilation in zip((inputs, hidden[0]), dilations, strict=True)
        )
        self.memories = nn.ModuleList(
            ConvGRU(dimension, width, channels, dilation=dilation)
            for channels, dilation in zip(hidden, dilations, strict=True)
        )
        self.head = displacement_head(dimension, hidden[1])

    def start(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states of zero for images `[B, 1, *S]`."""
        first, second = (like.new_zeros(like.shape[0], channels, *like.shape[2:]) for channels in self.hidden)
        return first, second

    def forward(self, inputs: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The update `[B, d, *S]` and the next hidden states."""
        first = self.memories[0](first, F.relu(self.convolutions[0](inputs)))
        second = self.memories[1](second, F.relu(self.convolutions[1](first)))
        return self.head(second).float(), first, second


class RIIR(Method):
    """Recurrent inference for registration; each step carries the gradient that it was fed as "gradient".

    The gradient is multiplied by the number of voxels (the paper's 1/N would starve the first convolution) and, where
    it enters the cell, by `scale`; the masks say where the similarity counts.

    Args:
        dimension: 2 or 3.
        similarity: whose gradient: "mse", "mse-central" (slopes by central differences), "ncc" (local, windows of 9
            voxels) or "nmi" (64 bins).
        inputs: what joins the displacement at the cell's door: its "gradient", or for comparison the fixed and the
            warped image ("explicit") or the two images as they are ("implicit").
        hidden: channels of the two hidden states; None for the paper's.
        width: channels of the convolutions before them.
        remember: for each hidden state, whether it lives on from step to step or starts from zero each time.
        dilations: of the two levels' convolutions, above 1 for a wider view.
        scale: of the gradient at the cell's door: intensities of [0, 1] give gradients of some hundredths.
        create_graph: differentiate through the gradient as well; otherwise it is an input like any other.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        similarity: str = "mse",
        inputs: str = "gradient",
        hidden: Sequence[int] | None = None,
        width: int = 16,
        remember: Sequence[bool] = (True, True),
        dilations: Sequence[int] = (1, 1),
        scale: float = 10.0,
        create_graph: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if similarity not in GRADIENTS:
            raise InputError(f"RIIR has no similarity '{similarity}'; choose one of {', '.join(GRADIENTS)}.")
        if inputs not in INPUTS:
            raise InputError(f"RIIR has no inputs '{inputs}'; choose one of {', '.join(INPUTS)}.")
        self.gradient = GRADIENTS[similarity]
        self.inputs, self.remember = inputs, tuple(remember)
        self.scale = scale if inputs == "gradient" else 1.0
        self.create_graph, self.checkpoint = create_graph, checkpoint
        channels = dimension + (dimension if inputs == "gradient" else 2)
        hidden = HIDDEN[dimension] if hidden is None else hidden
        self.cell = Cell(dimension, channels, hidden=hidden, width=width, dilations=dilations)

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        field = spatial.zero_displacement(pair.fixed) if initial is None else initial
        return State(field=field, hidden=self.cell.start(pair.fixed))

    def advance(self, pair: Pair, state: State) -> State:
        """One turn of the recurrence."""
        evidence = self._evidence(pair, state.field)
        hidden = (
            before if lives else torch.zeros_like(before)
            for before, lives in zip(state.hidden, self.remember, strict=True)
        )
        update, *hidden = self.cell(torch.cat([state.field, self.scale * evidence], dim=1), *hidden)
        return state.after(
            state.field + update,
            f"step {state.index + 1}/{state.last}",
            hidden=tuple(hidden),
            attached={"gradient": evidence} if self.inputs == "gradient" else {},
        )

    def _evidence(self, pair: Pair, displacement: Tensor) -> Tensor:
        """What is known of the images at this displacement: `[B, d or 2, *S]`."""
        if self.inputs == "implicit":
            return torch.cat([pair.fixed, pair.moving], dim=1)
        if self.inputs == "explicit":
            return torch.cat([pair.fixed, spatial.warp(pair.moving, displacement)], dim=1)
        masks = pair.once(
            "masks", lambda: [m if m is None else (m > 0).float() for m in (pair.fixed_mask, pair.moving_mask)]
        )
        create_graph = self.create_graph and torch.is_grad_enabled()
        return self.gradient(pair.fixed, pair.moving, displacement, common_weight(*masks, displacement), create_graph)


def create(dimension: int = 3, **options: Any) -> RIIR:
    """RIIR for 2 or 3 dimensions; see its options."""
    return RIIR(dimension, **options)
