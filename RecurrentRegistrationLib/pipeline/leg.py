"""`Leg`: a method at work between two decisions, on one grid and behind one linear map."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.affine_map import affine_matrix
from RecurrentRegistrationLib.methods.base import Method, Turn
from RecurrentRegistrationLib.methods.refine import Refine
from RecurrentRegistrationLib.pipeline.guide_on_grid import Steering
from RecurrentRegistrationLib.pipeline.preparation import Prepared, as_asked
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid


@dataclass(frozen=True)
class Leg:
    """What a method works on from its first step on; with a `state` it is where the method goes on from.

    Attributes:
        method: on the device, in evaluation.
        grid: the working grid.
        linear: from fixed to moving points, LPS millimetres; it follows the method's field.
        phase: "deform" or "refine".
        trained_steps: how many steps the method was trained for; None where it was not.
        made: how many steps it has made.
        state: the method's own, after the last of them.
    """

    method: Method
    grid: Grid
    linear: np.ndarray
    phase: str
    trained_steps: int | None = None
    made: int = 0
    state: Any = None

    @property
    def beyond_training(self) -> bool:
        """Whether it has made more steps than it was trained for."""
        return self.trained_steps is not None and self.made > self.trained_steps

    def turns(
        self, fixed: Prepared, moving: Prepared, count: int | None, initial: Tensor | None, steering: Steering
    ) -> Iterator[Turn]:
        """The method's turns for a `pair` from here on.

        Args:
            fixed: the fixed image of the pair.
            moving: the moving one.
            count: how many; None for the method's own number.
            initial: a displacement `[1, d, *S]` to begin with; None for none.
            steering: the guide, for a method that takes one.
        """
        given: dict[str, Any] = {"fixed_mask": fixed.mask, "moving_mask": moving.mask}
        given |= {} if initial is None else {"initial": initial.to(fixed.values)}
        if self.method.card.guided:
            given["guide"] = steering(self.grid, self.linear, fixed.values.device)
        return self.method.steps(fixed.values, moving.values, count=count, state=self.state, **given)

    def pair(self, fixed: Prepared, moving: Prepared) -> tuple[Prepared, Prepared]:
        """Both images on the grid, with intensities as the method asks."""
        asked = self.method.card.intensities
        return as_asked(fixed.onto(self.grid), asked), as_asked(moving.onto(self.grid, self.linear), asked)

    def placed(self, turn: Turn) -> tuple[DisplacementField, np.ndarray]:
        """A turn of the method in physical space: its deformation on its own grid, and the linear map that follows.

        An affine part of the displacement goes on beyond the grid, so it becomes part of the linear map.
        """
        values, grid = turn.values.float(), self.grid
        if turn.affine is None:
            return DisplacementField(values, grid.through(values.shape[2:])), self.linear
        affine = affine_matrix(turn.affine[0], grid.shape)
        linear = self.linear @ grid.tensor_to_physical @ affine @ grid.physical_to_tensor
        least = 1e-3 * max(1.0, float(values.abs().max()))  # of a voxel: what rounding leaves of an affine map
        values = spatial.follow_linear(spatial.resize_displacement(values, grid.shape), np.linalg.inv(affine))
        if float(values.abs().max()) <= least:
            values = torch.zeros_like(values)
        return DisplacementField(values, grid), linear


def handed_over(earlier: Step | None, leg: Leg, pitch: float) -> Tensor | None:
    """What an earlier leg found, for a refinement, which then begins with what that could not see.

    Args:
        earlier: the step that the refinement goes on from; None for the beginning.
        leg: the refinement's; the levels of its schedule that would bring nothing new are taken out.
        pitch: millimetres between the voxels of the plan's grid, where the step does not tell.

    Returns:
        The displacement on the refinement's grid; None where nothing moved yet.
    """
    if earlier is None or not bool(earlier.field.values.any()):
        return None
    reached = earlier.state.grid.pitch if isinstance(earlier.state, Leg) else pitch
    if earlier.phase == "search":
        reached *= 2
    assert isinstance(leg.method, Refine)
    *coarse, finest = leg.method.schedule
    finer = ((scale, turns) for scale, turns in coarse if 1.5 * scale * leg.grid.pitch < reached)
    leg.method.schedule = (*finer, finest)
    return spatial.resize_displacement(earlier.field.values.float(), leg.grid.shape)


def taken_up(field: DisplacementField, earlier: Step, refiner: Refine) -> Leg:
    """What goes on from a field that was changed after a step: the step's own refinement, or a new one.

    Args:
        field: as it was changed.
        earlier: the step.
        refiner: the new one.
    """
    leg = earlier.state
    own = isinstance(leg, Leg) and isinstance(leg.method, Refine) and leg.grid.shape == field.grid.shape
    if own and leg.state.first.shape == field.values.shape:
        return dataclasses.replace(leg, state=dataclasses.replace(leg.state, field=field.values))
    return Leg(refiner, field.grid, earlier.linear, "refine", state=refiner.taken_up(field.values))
