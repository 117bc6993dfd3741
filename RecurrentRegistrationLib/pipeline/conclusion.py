"""What ends a deformation: only what it has earned is kept, and no fold stays."""

from __future__ import annotations

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


def unfolded(field: DisplacementField, least: float) -> DisplacementField:
    """The deformation smoothed where its Jacobian determinant falls below a value, and no more than it takes."""
    return DisplacementField(spatial.remove_folding(field.values, minimum=least), field.grid)


def folded_voxels(step: Step) -> int:
    """Voxels of the fixed image with a Jacobian determinant of 0 or less; a linear map folds none."""
    return step.volume_change["folded_voxels"] if bool(step.field.values.any()) else 0
