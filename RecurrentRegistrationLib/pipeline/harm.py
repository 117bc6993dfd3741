"""A deformation has to earn itself, place by place; where it does not, the linear result is kept.

A displacement that follows true motion explains a good part of what the linear result leaves unknown, also by a
measure that it was not fitted to (`evidence.surprise`); one that follows noise, thick slices or unlike contrasts hardly
does. Both images are smoothed before they are judged, since a displacement can match noise but not what is left of it.
On real scans true motion of hippocampi, livers, lungs and brains took away 17 to 34 % of what was unknown; where there
was none, it was 8 % at most (medians over the body).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.pipeline.evidence import surprise

NOTHING, ENOUGH = 0.08, 0.14  # share explained: up to the first all of a displacement goes, from the second all stays
NOISE = 60  # the image's mean side over the standard deviation of the Gaussian that takes its noise away
NEIGHBOURHOOD = 10  # the image's mean side over the standard deviation of the Gaussian that averages around a place
OVERALL = 0.1  # weight of the whole image's mean in each place, which speaks where a place says little itself


def earned(
    fixed: Tensor,
    moving: Tensor,
    displacement: Tensor,
    *,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
) -> Tensor:
    """The displacement, smoothly damped to zero where it explains nothing; itself where it is earned everywhere.

    Args:
        fixed: `[1, 1, *S]` in [0, 1].
        moving: the same, on the same grid, after the linear stage.
        displacement: `[1, d, *S]` in voxels.
        fixed_mask: `[1, 1, *S]`, above 0 where the fixed image counts; None for everywhere.
        moving_mask: the same of the moving image.

    Returns:
        `[1, d, *S]`, without folding where the displacement had none.
    """
    share = kept_share(explained(fixed, moving, displacement, fixed_mask=fixed_mask, moving_mask=moving_mask))
    if bool((share >= 1).all()):
        return displacement
    return spatial.remove_folding(displacement * share)


def kept_share(gain: Tensor) -> Tensor:
    """From 0 at `NOTHING` to 1 at `ENOUGH`, level at both ends."""
    ramp = ((gain - NOTHING) / (ENOUGH - NOTHING)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def explained(
    fixed: Tensor,
    moving: Tensor,
    displacement: Tensor,
    *,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
) -> Tensor:
    """Share of what the linear result leaves unknown around a place that a displacement explains, `[1, 1, *S]`.

    Arguments as `earned`. Below 0 where it leaves more unknown.
    """
    weight = torch.ones_like(fixed) if fixed_mask is None else (fixed_mask > 0).to(fixed)
    fixed, moving = (spatial.gaussian_smooth(image, _side(image) / NOISE) for image in (fixed, moving))
    warped = spatial.warp(moving, displacement, padding="border")
    seen = weight  # both are judged where both show something
    if moving_mask is not None:
        seen = weight * (moving_mask > 0.5) * (spatial.warp(moving_mask, displacement, padding="border") > 0.5)
    before, after = (_around(surprise(fixed, image, seen) * seen) for image in (moving, warped))
    gain = 1 - after / before.clamp_min(1e-6)
    return spatial.resize(gain, fixed.shape[2:])


def _around(values: Tensor) -> Tensor:
    """Averages around each place, on a coarser grid, with a little of the whole image's."""
    shape, sigma = values.shape[2:], _side(values) / NEIGHBOURHOOD
    factor = max(1, int(sigma / 2))
    coarse = [max(math.ceil(n / factor), min(n, 2)) for n in shape]
    values = F.interpolate(values, size=coarse, mode="area")
    return spatial.gaussian_smooth(values, sigma / factor) + OVERALL * values.mean()


def _side(image: Tensor) -> float:
    """Voxels along a side, on average over the axes that have several."""
    sides = [n for n in image.shape[2:] if n > 1]
    return math.prod(sides) ** (1 / max(len(sides), 1))
