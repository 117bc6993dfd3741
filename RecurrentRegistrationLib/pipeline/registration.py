"""`Registration`: what a run leaves behind at one of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.transform import DisplacementField, Transform
from RecurrentRegistrationLib.volume import Grid, Volume, resample


@dataclass(frozen=True)
class Registration:
    """A registration as it stood after a step.

    Attributes:
        transform: from fixed to moving points.
        grid: the fixed image's grid.
        moving: the moving image.
        steps: `Step.record` of each step up to it.
        report: settings, versions, seconds, memory, steps and what the transform does.
    """

    transform: Transform
    grid: Grid
    moving: Volume
    steps: list[dict[str, Any]]
    report: dict[str, Any]

    def warped(
        self, moving: Volume | None = None, *, interpolation: str = "linear", background: float | None = None
    ) -> Volume:
        """An image of the moving space (default: the moving image) on the fixed grid."""
        moving = self.moving if moving is None else moving
        value = float(moving.array.min()) if background is None else background
        image = resample(
            moving.to_sitk(), self.grid, self.transform.to_sitk(), interpolation=interpolation, background=value
        )
        return Volume.from_sitk(image)

    def displacement(self) -> DisplacementField:
        """The whole transform as a field on the fixed grid."""
        return self.transform.displacement_on(self.grid)

    def jacobian(self) -> Volume:
        """Jacobian determinants on the fixed grid: above 1 a fixed voxel covers more of the moving image."""
        determinant = spatial.jacobian_determinant(self.displacement().values)
        return Volume(determinant[0].numpy(), self.grid)
