"""What ends a deformation: only what it has earned is kept, and no fold stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.pipeline.harm import earned
from RecurrentRegistrationLib.pipeline.preparation import Prepared
from RecurrentRegistrationLib.step import Step
from RecurrentRegistrationLib.transform import DisplacementField

UNFOLDING = (0.02, 0.05, 0.1, 0.2, 0.3)  # least Jacobian determinants that are asked of the field, one after the other


def kept(field: DisplacementField, fixed: Prepared, moving: Prepared) -> DisplacementField | None:
    """The deformation without what explains nothing of the images; None where all of it is earned.

    Args:
        field: on its own grid, through the outer voxels of the images' grid.
        fixed: the fixed image on the working grid.
        moving: the moving image there, after the linear stage.
    """
    whole = spatial.resize_displacement(field.values.float(), fixed.values.shape[2:])
    masks = {"fixed_mask": fixed.mask, "moving_mask": moving.mask}
    damped = earned(fixed.values, moving.values, whole, **masks)
    return None if damped is whole else DisplacementField(damped, fixed.grid)


def unfolded(step: Step) -> Iterator[tuple[str, DisplacementField]]:
    """Rounds of smoothing, each with a name, until nothing is folded; a field is smoothed no more than it takes."""
    for number, least in enumerate(UNFOLDING, start=1):
        if not folded_voxels(step):
            return
        field = DisplacementField(spatial.remove_folding(step.field.values, minimum=least), step.field.grid)
        yield f"unfold {number}/{len(UNFOLDING)}", field
        step = dataclasses.replace(step, field=field)


def folded_voxels(step: Step) -> int:
    """Voxels of the fixed image with a Jacobian determinant of 0 or less."""
    if not bool(step.field.values.any()):
        return 0
    return int((step.transform.jacobian_determinant(step.domain) <= 0).sum())
