"""Target registration error of landmarks."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class LandmarkErrors:
    """Distances between mapped and true points, in millimetres.

    Attributes:
        mean: over the landmarks.
        median: over the landmarks.
        deviation: standard deviation over the landmarks.
        tre30: what the worst 30 per cent of the landmarks exceed (70th percentile).
        maximum: of the worst landmark.
        each: one distance for each landmark, in their order.
    """

    mean: float
    median: float
    deviation: float
    tre30: float
    maximum: float
    each: tuple[float, ...]

    def as_dict(self) -> dict[str, object]:
        """For a report."""
        return asdict(self)


def target_registration_error(mapped: np.ndarray, moving: np.ndarray) -> LandmarkErrors:
    """Distances `|T(x_fixed) - x_moving|` of `[N, d]` mapped fixed points and their partners, both in millimetres."""
    distances = np.linalg.norm(np.asarray(mapped, float) - np.asarray(moving, float), axis=1)
    return LandmarkErrors(
        mean=distances.mean().item(),
        median=np.median(distances).item(),
        deviation=distances.std().item(),
        tre30=np.percentile(distances, 70).item(),
        maximum=distances.max().item(),
        each=tuple(distances.tolist()),
    )
