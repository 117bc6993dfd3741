"""A guide on a grid: from physical space to the parts that an optimisation takes (`losses.guidance.Guidance`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from RecurrentRegistrationLib.layers.boxes import Box, box_between, first_of, last_of
from RecurrentRegistrationLib.layers.landmarks import Landmarks
from RecurrentRegistrationLib.layers.regions import Region, Regions, faded
from RecurrentRegistrationLib.losses.guidance import Guidance
from RecurrentRegistrationLib.losses.overlap import Structure
from RecurrentRegistrationLib.pipeline.guide import Guide, Label, LabelPair, LandmarkPairs
from RecurrentRegistrationLib.pipeline.preparation import Prepared
from RecurrentRegistrationLib.transform import Affine, DisplacementField
from RecurrentRegistrationLib.volume import Grid, Volume

FADE = 6  # voxels around a region over which it fades into the rest
AROUND = 4  # voxels around a structure that are looked at
PLACES = 2000  # of a region that tell how it moves
LEAST = 10  # voxels of a region that are worth a fit

OnGrid = Callable[[Sequence[int]], Guidance]


def on_grid(guide: Guide, grid: Grid, linear: np.ndarray, device: torch.device, window: Tensor | None = None) -> OnGrid:
    """The guide on every size of grid over an extent, each made once.

    Args:
        guide: what the user knows.
        grid: any grid of this extent.
        linear: from fixed to moving points, LPS millimetres; it follows the displacement.
        device: where it is used.
        window: `[1, 1, *S]` on `grid`, how much the displacement may change; None for freely.
    """
    made: dict[tuple[int, ...], Guidance] = {}

    def at(shape: Sequence[int]) -> Guidance:
        key = tuple(shape)
        if key not in made:
            made[key] = _guidance(guide, grid.through(key), linear, device, window)
        return made[key]

    return at


def _guidance(guide: Guide, grid: Grid, linear: np.ndarray, device: torch.device, window: Tensor | None) -> Guidance:
    landmarks = None if not guide.landmarks else landmarks_on(guide.landmarks, grid, linear, device)
    found = (structure_on(pair, grid, linear, device) for pair in guide.labels)
    return Guidance(
        landmarks, [each for each in found if each is not None], regions_on(guide, grid, linear, device), window
    )


def landmarks_on(pairs: LandmarkPairs, grid: Grid, linear: np.ndarray, device: torch.device) -> Landmarks:
    """Landmarks in voxels of a grid, the moving ones before the linear map."""
    to_voxels = Affine(grid.physical_to_tensor)
    fixed = to_voxels.map_points(pairs.fixed)
    moving = to_voxels.map_points(Affine(linear).inverse().map_points(pairs.moving))
    flat = [float(n == 1) for n in grid.shape]
    values = (fixed, moving, grid.spacing[::-1], pairs.error, flat)
    return Landmarks(*(torch.tensor(np.asarray(v), dtype=torch.float32, device=device) for v in values))


def structure_on(pair: LabelPair, grid: Grid, linear: np.ndarray, device: torch.device) -> Structure | None:
    """A structure on the box of a grid that holds it in both images; None where the grid does not show it."""
    fixed, moving = _alone(pair.fixed), _alone(pair.moving)
    back = np.linalg.inv(linear)
    corners = [fixed.grid.corners(), Affine(back).map_points(moving.grid.corners())]
    box = _box(np.concatenate([Affine(grid.physical_to_tensor).map_points(c) for c in corners]), grid.shape, AROUND)
    if box is None:
        return None
    here = cropped(grid, box)
    values = fixed.onto(here).values, moving.onto(here, linear).values
    return Structure(box, *(v.to(device) for v in values))


def _alone(label: Label) -> Prepared:
    """A label, cropped, as an image that is 1 in it."""
    inside = label.inside
    where = ndimage.find_objects(inside.astype(np.int8))[0]
    first, last = (
        [max(s.start - 2, 0) for s in where],
        [min(s.stop + 2, n) for s, n in zip(where, inside.shape, strict=True)],
    )
    crop = inside[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    size = [b - a for a, b in zip(first, last, strict=True)]
    grid = label.volume.grid.cropped(first[::-1], size[::-1])
    return Prepared(torch.from_numpy(crop.astype(np.float32))[None, None], grid)


def regions_on(guide: Guide, grid: Grid, linear: np.ndarray, device: torch.device) -> Regions | None:
    """The regions on a grid; None for none."""
    parts = [(part, False) for part in _parts(guide.rigid)] + [(part, True) for part in _whole(guide.still)]
    placed = [region for part, still in parts if (region := _region(part, grid, still)) is not None]
    if not placed:
        return None
    placed = _apart(placed, grid.shape)
    moved = [Region(r.box, r.weight.to(device), r.points) for r in placed]
    return Regions(moved, grid.tensor_to_physical, linear @ grid.tensor_to_physical)


def _parts(volume: Volume | None) -> Iterator[Volume]:
    """Each connected part of each value, alone on its box."""
    if volume is None:
        return
    for value in np.unique(volume.array):
        if value == 0:
            continue
        parts, _ = ndimage.label(volume.array[0] == value)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            inside = parts[box] == number
            if inside.sum() >= LEAST:
                first, size = [s.start for s in box], inside.shape
                yield Volume(inside[None].astype(np.uint8), volume.grid.cropped(first[::-1], size[::-1]))


def _whole(volume: Volume | None) -> Iterator[Volume]:
    if volume is not None:
        yield Volume((volume.array[:1] != 0).astype(np.uint8), volume.grid)


def _region(part: Volume, grid: Grid, still: bool) -> Region | None:
    """A region on a grid; None where the grid is too coarse to show it or does not reach it."""
    corners = Affine(grid.physical_to_tensor).map_points(part.grid.corners())
    box = _box(corners, grid.shape, FADE + 2)
    if box is None:
        return None
    here = cropped(grid, box)
    inside = part.resampled(here, interpolation="nearest").array[0] != 0
    if not inside.any():
        return None
    thickest = max(s for s, n in zip(grid.spacing, grid.size, strict=True) if n > 1)
    distance = ndimage.distance_transform_edt(~inside, sampling=grid.spacing[::-1])
    weight = faded(distance, thickest, FADE * thickest)
    points = None if still else _places(part, grid)
    return Region(box, weight, points)


def _places(part: Volume, grid: Grid) -> Tensor:
    """Some of a part's voxels, in voxels of a grid, tensor order."""
    index = np.argwhere(part.array[0] != 0)[:, ::-1]
    index = index[:: max(1, len(index) // PLACES)]
    points = Affine(grid.physical_to_tensor).map_points(part.grid.physical(index))
    size = np.array(grid.shape)
    inside = ((points >= 0) & (points <= size - 1)).all(axis=1)
    return torch.tensor(points[inside] if inside.sum() > part.grid.dimension else points, dtype=torch.float32)


def _apart(regions: Sequence[Region], shape: tuple[int, ...]) -> list[Region]:
    """Where the surroundings of two regions meet they share; none reaches into another."""
    if len(regions) == 1:
        return list(regions)
    total, owned = torch.zeros(1, 1, *shape), torch.zeros(1, 1, *shape)
    for region in regions:
        total[region.box] += region.weight
        owned[region.box] += (region.weight >= 1).float()
    apart = []
    for region in regions:
        foreign = owned[region.box] - (region.weight >= 1).float() > 0
        weight = torch.where(
            foreign & (region.weight < 1),
            0.0,
            region.weight / torch.where(region.weight >= 1, owned[region.box], total[region.box]).clamp(min=1),
        )
        apart.append(Region(region.box, weight, region.points))
    return apart


def _box(corners: np.ndarray, shape: Sequence[int], margin: int) -> Box | None:
    """What corners `[N, d]` (voxels) span on a grid, with a margin; None outside the grid."""
    first = [max(0, int(np.floor(low)) - margin) for low in corners.min(axis=0)]
    last = [min(n, int(np.ceil(high)) + margin + 1) for high, n in zip(corners.max(axis=0), shape, strict=True)]
    return box_between(first, last) if all(a < b for a, b in zip(first, last, strict=True)) else None


def cropped(grid: Grid, box: Box) -> Grid:
    """The part of a grid that a box of its tensors spans."""
    size = [b - a for a, b in zip(first_of(box), last_of(box), strict=True)]
    return grid.cropped(first_of(box)[::-1], size[::-1])


class Steering:
    """The guide of a run, which may change between two turns of a method.

    Attributes:
        guide: what the user knows now; None for nothing.
    """

    def __init__(self, guide: Guide | None = None) -> None:
        self.guide = guide

    def __call__(
        self, grid: Grid, linear: np.ndarray, device: torch.device
    ) -> Callable[[Sequence[int]], Guidance | None]:
        """Whatever the guide is then, on every size of grid over an extent; see `on_grid`."""
        made: list[tuple[Guide, OnGrid]] = []

        def at(shape: Sequence[int]) -> Guidance | None:
            if self.guide is None:
                return None
            if not made or made[0][0] is not self.guide:
                made[:] = [(self.guide, on_grid(self.guide, grid, linear, device))]
            return made[0][1](shape)

        return at

    @property
    def labelled(self) -> bool:
        """Whether the guide brings structures onto each other."""
        return self.guide is not None and bool(self.guide.labels)

    def settled(self, field: DisplacementField, linear: np.ndarray) -> DisplacementField:
        """A deformation on its own grid, with what the guide asks for as far as nothing folds."""
        if self.guide is None:
            return field
        guidance = on_grid(self.guide, field.grid, linear, field.values.device)(field.grid.shape)
        return DisplacementField(guidance.settled(field.values.float()), field.grid)
