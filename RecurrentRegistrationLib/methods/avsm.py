"""AVSM: affine steps by one recurrent network, then vSVF steps by another, each on what is left.

Shen, Han, Xu, Niethammer: Networks for Joint Affine and Non-parametric Image Registration, CVPR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_displacement, compose_affine, few_voxels, identity_affine
from RecurrentRegistrationLib.layers.affine_network import AffineNetwork
from RecurrentRegistrationLib.layers.momentum_network import MomentumNetwork
from RecurrentRegistrationLib.layers.vsvf import VSVF, MultiGaussian
from RecurrentRegistrationLib.methods import base
from RecurrentRegistrationLib.methods.base import Card, Method, Pair, Turn

CARD = Card(
    name="avsm",
    title="Affine-vSVF-mapping network",
    summary="Seven affine corrections by one network, then three smooth deformations by another.",
    reference="Shen, Han, Xu, Niethammer: Networks for Joint Affine and Non-parametric Image Registration, CVPR 2019",
    default_steps=10,
    attaches=("affine", "momentum", "velocity", "energy", "clamped"),
    parameters={2: 2_083_468, 3: 6_080_803},
    identity_at_start=True,
    recurrent=True,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class State(base.State):
    """With the map at half resolution, from the first vSVF turn; before it the affine map is all."""

    half: Tensor | None = None


class AVSM(Method):
    """The first `affine_steps` steps are affine, all further ones vSVF; the masks are not used.

    An affine step carries its total "affine" map `[B, d, d + 1]` in [-1, 1] coordinates; a vSVF step its "momentum",
    "velocity", "energy" `<m, v>` `[B]` and the share of the velocity that was "clamped" `[B]`.

    Args:
        dimension: 2 or 3.
        affine_steps: how many; may be set anew at any time (trained with 3 or 5, tested with 7 in the paper).
        frame: where a new affine map acts: in the "source" image's frame, after the old one (Eq. 1), or in the
            "target" image's, before it, as the composition of displacements does.
        affine_network: the network of the affine steps; None for the default.
        momentum_network: the network of the vSVF steps; None for the default.
        vsvf: from momentum to map; a mapping holds options of `MultiGaussian`, as in a file; None for the paper's.
        checkpoint: recompute each step in the backward pass.
    """

    card = CARD

    def __init__(
        self,
        dimension: int = 3,
        *,
        affine_steps: int = 7,
        frame: Literal["source", "target"] = "source",
        affine_network: AffineNetwork | None = None,
        momentum_network: MomentumNetwork | None = None,
        vsvf: VSVF | Mapping[str, Any] | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.affine_steps, self.frame, self.checkpoint = affine_steps, frame, checkpoint
        self.affine_network = affine_network or AffineNetwork(dimension)
        self.momentum_network = momentum_network or MomentumNetwork(dimension)
        self.vsvf = VSVF(MultiGaussian(**vsvf)) if isinstance(vsvf, Mapping) else vsvf or VSVF()

    def begin(self, pair: Pair, *, count: int | None = None, initial: Tensor | None = None) -> State:
        """See `Method.begin`."""
        affine = identity_affine(len(pair.fixed), len(pair.shape), pair.fixed)
        return State(field=few_voxels(affine, pair.shape), affine=affine)

    def advance(self, pair: Pair, state: State) -> State:
        """An affine map, on a grid of a few voxels, or a vSVF map."""
        if state.index < self.affine_steps:
            affine = self._affine_step(pair.fixed, pair.moving, state.affine)
            field = few_voxels(affine, pair.shape) if state.half is None else state.half
            stage = f"affine {state.index + 1}/{self.affine_steps}"
            return state.after(field, stage, affine=affine, attached={"affine": affine})
        half = state.half
        if half is None:
            half = affine_displacement(state.affine, [-(-n // 2) for n in pair.shape])
        half, attached = self._vsvf_step(pair.fixed, pair.moving, half)
        stage = f"vSVF {state.index + 1 - self.affine_steps}/{state.last - self.affine_steps}"
        return state.after(half, stage, half=half, attached=attached)

    def _affine_step(self, fixed: Tensor, moving: Tensor, affine: Tensor) -> Tensor:
        """Eq. 1: always the original moving image, warped by the whole map so far."""
        warped = spatial.warp(moving, affine_displacement(affine, fixed.shape[2:]))
        update = self.affine_network(warped, fixed)
        return compose_affine(affine, update) if self.frame == "source" else compose_affine(update, affine)

    def _vsvf_step(self, fixed: Tensor, moving: Tensor, displacement: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Eqs. 8 to 10: the map so far is the initial map that the new velocity carries along."""
        warped = spatial.warp(moving, spatial.resize_displacement(displacement, fixed.shape[2:]))
        momentum = self.momentum_network(warped, fixed)
        displacement, *rest = self.vsvf(momentum, displacement)
        return displacement, dict(zip(("momentum", "velocity", "energy", "clamped"), (momentum, *rest), strict=True))


class BothDirections(NamedTuple):
    """One step of both registrations: `forward` warps moving to fixed, `backward` fixed to moving, `[B, d, *S]`."""

    forward: Tensor
    backward: Tensor
    step: Turn


def both_directions(method: Method, fixed: Tensor, moving: Tensor, **options: Any) -> Iterator[BothDirections]:
    """Register moving to fixed and fixed to moving in one batch of twice the size, as the symmetric losses need.

    The first half of everything that `step` holds belongs to `forward`. Options are those of `Method.steps`.
    """
    for step in method.steps(torch.cat([fixed, moving]), torch.cat([moving, fixed]), **options):
        yield BothDirections(*step.displacement.chunk(2), step)


def affine_weight(epoch: float, *, start: float = 10.0, decay: float = 4.0) -> float:
    """Weight of `losses.symmetry.affine_deviation`, falling with the epochs: `C K / (K + exp(n / K))`."""
    return start * decay / (decay + math.exp(epoch / decay))


def create(dimension: int = 3, **options: Any) -> AVSM:
    """AVSM for 2 or 3 dimensions; see the options of `AVSM`."""
    return AVSM(dimension, **options)
