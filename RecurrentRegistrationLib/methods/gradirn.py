"""GraDIRN: gradient descent on the similarity, with a small network at each step in the place of the regulariser.

Qiu et al., Embedding Gradient-based Optimization in Image Registration Networks, MICCAI 2022.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.convolution import LEAK, convolution
from RecurrentRegistrationLib.layers.pyramid import shrink
from RecurrentRegistrationLib.layers.similarity_gradient import common_weight, gradient_of, squared_error_gradient
from RecurrentRegistrationLib.losses.similarity import LocalCorrelation
from RecurrentRegistrationLib.methods.base import Card, Method, Pair, State

CARD = Card(
    name="gradirn",
    title="GraDIRN",
    summary="Gradient descent on the images' similarity with a learned regulariser at each step.",
    reference="Qiu, Hammernik, Qin, Chen, Rueckert: Embedding Gradient-based Optimization in Image Registration "
    "Networks, MICCAI 2022",
    default_steps=6,
    masks="weights",
    initial=True,
    attaches=("gradient",),
    parameters={2: 177_042, 3: 179_976},
    recurrent=True,
)
GRADIENTS = {"mse": squared_error_gradient, "ncc": gradient_of(LocalCorrelation(radius=4, squared=False))}
BLOCKS = {2: (3, 1), 3: (1, 3)}  # blocks of a level and how often each is repeated
STEP_SCALE = 10.0  # the released code's fixed factor of the learned step size


class Block(nn.Module):
    """One descent: a learned step along the gradient and what the network takes from the displacement.

    Args:
        dimension: 2 or 3.
        channels: of the network's four hidden layers.
        step_size: learned from here.
    """

    def __init__(self, dimension: int, *, channels: int, step_size: float) -> None:
        super().__init__()
        widths = [dimension + 2, *[channels] * 4]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [convolution(dimension, before, after), nn.LeakyReLU(LEAK)]
        self.network = nn.Sequential(*layers, convolution(dimension, channels, dimension))
        self.step_size = nn.Parameter(torch.tensor(step_size))
        for name, parameter in self.network.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, a=LEAK)

    def forward(self, displacement: Tensor, gradient: Tensor, fixed: Tensor, warped: Tensor) -> Tensor:
        """The next displacement `[B, d, *S]`."""
        learned = self.network(torch.cat([displacement, fixed, warped], dim=1)).float()
        return displacement - self.step_size * STEP_SCALE * gradient - learned


class GraDIRN(Method):
    """GraDIRN with the explicit input; each step carries the similarity's gradient as "gradient".

    Masks say where the similarity counts and what the network sees. Steps beyond the schedule repeat the last block.

    Args:
        dimension: 2 or 3.
        similarity: whose gradient: "mse" or "ncc" (local, windows of 9 voxels).
        levels: resolutions, each half of the next.
        blocks: blocks of each level with weights of their own; None for 3 in 2D and 1 in 3D.
        repeats: how often each block is applied; None for 1 in 2D and 3 in 3D.
        channels: of the hidden layers.
        create_graph: differentiate through the gradient as well, as the paper does.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        similarity: str = "mse",
        levels: int = 2,
        blocks: int | None = None,
        repeats: int | None = None,
        channels: int = 32,
        create_graph: bool = True,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if similarity not in GRADIENTS:
            raise InputError(f"GraDIRN has no similarity '{similarity}'; choose one of {', '.join(GRADIENTS)}.")
        self.gradient = GRADIENTS[similarity]
        self.create_graph, self.checkpoint = create_graph, checkpoint
        self.levels = levels
        self.per_level = blocks or BLOCKS[dimension][0]
        self.repeats = repeats or BLOCKS[dimension][1]
        self.schedule = levels * self.per_level * self.repeats
        step_size = 0.5 / (self.schedule + 1)
        self.blocks = nn.ModuleList(
            Block(dimension, channels=channels, step_size=step_size) for _ in range(levels * self.per_level)
        )

    def turns(self, state: State | None = None) -> int:
        """See `Method.turns`."""
        return self.schedule

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        coarsest = self._at(pair, 2 ** (self.levels - 1)).fixed
        return State(field=spatial.zero_displacement(coarsest) if initial is None else initial)

    def advance(self, pair: Pair, state: State) -> State:
        """One application of a block."""
        block = min(state.index, self.schedule - 1) // self.repeats
        level = block // self.per_level
        factor = 2 ** (self.levels - 1 - level)
        displacement, gradient = self._descend(self.blocks[block], self._at(pair, factor), state.field)
        name = "full res" if factor == 1 else f"1/{factor} res"
        stage = f"{name} {state.index + 1 - level * self.per_level * self.repeats}"
        return state.after(displacement, stage, attached={"gradient": gradient})

    @staticmethod
    def _at(pair: Pair, factor: int) -> Pair:
        """The pair shrunk by a factor, its masks as weights."""

        def shrunk() -> Pair:
            masks = (
                None if m is None else shrink((m > 0).float(), factor) for m in (pair.fixed_mask, pair.moving_mask)
            )
            return Pair(shrink(pair.fixed, factor), shrink(pair.moving, factor), *masks)

        return pair.once(factor, shrunk)

    def _descend(self, block: nn.Module, pair: Pair, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """The next displacement and the gradient that it followed."""
        displacement = spatial.resize_displacement(displacement, pair.shape)
        weight = common_weight(pair.fixed_mask, pair.moving_mask, displacement)
        create_graph = self.create_graph and torch.is_grad_enabled()
        gradient = self.gradient(pair.fixed, pair.moving, displacement, weight, create_graph)
        shown = 1 if weight is None else weight  # the network sees what the masks leave, too
        warped = spatial.warp(pair.moving, displacement)
        return block(displacement, gradient, pair.fixed * shown, warped * shown), gradient


def create(dimension: int = 3, **options: Any) -> GraDIRN:
    """GraDIRN for 2 or 3 dimensions; see its options."""
    return GraDIRN(dimension, **options)
