"""A correction: what a guide asks for is done at once, around where it asks; everywhere else nothing changes.

Only places that do not yet fit are worked on: landmarks that are apart, structures that do not overlap, regions that
bend. A window of compact support around them says how far the displacement may change, and the images are optimised
within it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.boxes import Box, box_between, first_of, last_of, wider
from RecurrentRegistrationLib.layers.regions import faded
from RecurrentRegistrationLib.losses.guidance import Guidance
from RecurrentRegistrationLib.losses.overlap import CLOSE
from RecurrentRegistrationLib.methods.refine import Refine
from RecurrentRegistrationLib.pipeline.guide import Guide
from RecurrentRegistrationLib.pipeline.guide_on_grid import cropped, on_grid
from RecurrentRegistrationLib.pipeline.preparation import Prepared
from RecurrentRegistrationLib.transform import DisplacementField
from RecurrentRegistrationLib.volume import Grid

APART = 0.25  # voxels: landmarks that are to be corrected
BENT = 0.05  # millimetres: regions that are
REACH = 8  # voxels around structures and regions that may give way
EFFORT = 3_000_000  # voxels times iterations
FEWEST, MOST = 3, 20  # iterations
SPARE = 4  # voxels around what may change that are looked at

Place = tuple[Box, Tensor]  # a box of a tensor, and weights there


def corrected(
    field: DisplacementField,
    grid: Grid,
    images: tuple[Prepared, Prepared],
    linear: np.ndarray,
    guide: Guide,
    refiner: Refine,
) -> DisplacementField | None:
    """The displacement with what a guide asks for; None where it asks for nothing.

    Args:
        field: so far; on `grid` it stays bit by bit what it is beyond the guide's reach.
        grid: what is worked on; the field's own, or a finer one.
        images: fixed and moving.
        linear: from fixed to moving points, LPS millimetres; it follows the field.
        guide: what the user knows.
        refiner: what optimises the images.
    """
    values = spatial.resize_displacement(field.values.to(images[0].values.device).float(), grid.shape)
    window = _window(on_grid(guide, grid, linear, values.device)(grid.shape), values)
    if window is None:
        return None
    box, weights = window
    shift = torch.zeros(grid.dimension)
    if guide.still is None:  # what is around moves by so much, which needs no looking at
        shift = values[box].mean(dim=[0, *range(2, values.ndim)]).round().cpu()
    offset = shift.to(values).view(1, -1, *[1] * grid.dimension)
    part = wider(box, SPARE + math.ceil(float((values[box] - offset).abs().max())), grid.shape)
    size = values[part].shape[2:]
    weight = values.new_zeros(1, 1, *size)
    weight[box_between(first_of(box), last_of(box), first_of(part))] = weights
    here = cropped(grid, part)
    moved = linear @ _shifted(grid, shift)
    fixed, moving = images[0].onto(here), images[1].onto(here, moved)
    guidance = on_grid(guide, here, moved, values.device, weight)
    count = min(max(EFFORT // weight.numel(), FEWEST), MOST)
    refiner.schedule = ((1, count),)
    *_, turn = refiner.steps(
        fixed.values,
        moving.values,
        fixed_mask=fixed.mask,
        moving_mask=moving.mask,
        initial=guidance(size).settled(values[part] - offset),
        guide=guidance,
        count=count,
    )
    result = values.clone()
    result[part] = torch.where(weight > 0, turn.values + offset, values[part])
    return DisplacementField(result, grid)


def _window(guidance: Guidance, values: Tensor) -> Place | None:
    """How far each voxel of a box may change, `[1, 1, *box]` from 0 to 1; None where nothing has to."""
    places = list(_asked(guidance, values))
    if not places:
        return None
    first = [min(each) for each in zip(*[first_of(box) for box, _ in places], strict=True)]
    last = [max(each) for each in zip(*[last_of(box) for box, _ in places], strict=True)]
    whole = box_between(first, last)
    weights = torch.zeros_like(values[:, :1][whole])
    for box, weight in places:
        inner = box_between(first_of(box), last_of(box), first)
        weights[inner] = torch.maximum(weights[inner], weight.to(weights))
    return whole, weights


def _asked(guidance: Guidance, values: Tensor) -> Iterator[Place]:
    """What does not fit yet: the places, and how far each voxel around them may change."""
    landmarks, regions = guidance.landmarks, guidance.regions
    touched = torch.zeros_like(values[:, :1], dtype=torch.bool)
    if landmarks is not None:
        apart = landmarks.distances(values) > APART * float(landmarks.spacing.min())
        radius = float(landmarks.radii(values)[apart].max()) if bool(apart.any()) else 0.0
        for point in landmarks.fixed[apart]:
            for box, near in landmarks.around(point, radius, values.shape[2:]):
                touched[box] |= near > 0
                yield box, _ramp(near)
    for structure in guidance.structures:
        if float(structure.loss(values[structure.box])) > CLOSE:
            warped = spatial.warp(structure.moving, values[structure.box])
            yield _around(structure.box, torch.maximum(structure.fixed, warped) > 0.5, values)
    if regions is not None:
        for region in regions.regions:
            if regions.misfit(values, region) > BENT or bool((touched[region.box] & (region.weight >= 1)).any()):
                yield _around(region.box, region.weight > 0, values)


def _around(box: Box, inside: Tensor, values: Tensor) -> Place:
    """A box around voxels, and weights that fade out around them."""
    whole = wider(box, REACH, values.shape[2:])
    wide = torch.zeros_like(values[:, :1][whole], dtype=torch.bool)
    wide[box_between(first_of(box), last_of(box), first_of(whole))] = inside
    if not bool(wide.any()):
        return whole, torch.zeros_like(wide, dtype=values.dtype)
    return whole, faded(ndimage.distance_transform_edt(~wide[0, 0].cpu().numpy()), 1, REACH - 1)


def _ramp(near: Tensor) -> Tensor:
    """Weights that are 1 where a landmark's kernel is a tenth at least, and 0 where it is."""
    return (10 * near).clamp(max=1)


def _shifted(grid: Grid, shift: Tensor) -> np.ndarray:
    """A shift by voxels as a matrix between physical points."""
    matrix = np.eye(grid.dimension + 1)
    matrix[:-1, -1] = grid.tensor_to_physical[:-1, :-1] @ shift.double().numpy()
    return matrix
