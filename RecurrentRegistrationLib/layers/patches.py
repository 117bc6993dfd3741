"""Equal patches of a grid: cut out, and blended together again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Patches:
    """How a grid is cut into patches of equal size, side by side or overlapping.

    Args:
        shape: voxels of the grid, S.
        count: patches along each axis, before any overlap; fewer where they would have less than `smallest` voxels.
        overlap: share of a patch, from 0 to below 1, that it has in common with the next one along an axis.
        multiple: a patch's sides are multiples of this; the grid is padded with zeros where they do not fit.
        smallest: the least voxels of a patch's side for which an axis is cut at all.

    Attributes:
        size: voxels of a patch.
        regions: where each patch lies on the padded grid.
    """

    def __init__(
        self, shape: Sequence[int], count: int, *, overlap: float = 0.0, multiple: int = 1, smallest: int = 1
    ) -> None:
        self.shape = tuple(shape)
        counts = [max(1, min(count, n // smallest)) for n in self.shape]
        self.size = tuple(-(-n // (c * multiple)) * multiple for n, c in zip(self.shape, counts, strict=True))
        starts = [_starts(n, size, overlap) for n, size in zip(self.shape, self.size, strict=True)]
        self.padded = tuple(s[-1] + size for s, size in zip(starts, self.size, strict=True))
        self.regions = [
            (..., *(slice(a, a + size) for a, size in zip(corner, self.size, strict=True)))
            for corner in itertools.product(*starts)
        ]

    def cut(self, values: Tensor) -> list[Tensor]:
        """The patches `[B, C, *size]` of `[B, C, *S]`."""
        ends = [(0, p - n) for n, p in zip(self.shape, self.padded, strict=True)]
        values = F.pad(values, [side for pair in reversed(ends) for side in pair])
        return [values[region] for region in self.regions]

    def join(self, patches: Sequence[Tensor]) -> Tensor:
        """The grid `[B, C, *S]` of patches `[B, C, *size]`; where they overlap, their middles count more."""
        first = patches[0]
        inside = (..., *(slice(n) for n in self.shape))
        if len(self.regions) == 1:
            return first[inside]
        window = self._window(first)
        total = first.new_zeros(*first.shape[:2], *self.padded)
        weight = first.new_zeros(1, 1, *self.padded)
        for patch, region in zip(patches, self.regions, strict=True):
            total[region] += patch * window
            weight[region] += window
        return (total / weight)[inside]

    def _window(self, like: Tensor) -> Tensor:
        """Positive weights `[*size]` that rise linearly from each face of a patch to its middle."""
        window = torch.ones((), dtype=like.dtype, device=like.device)
        for size in self.size:
            centres = torch.arange(size, dtype=like.dtype, device=like.device) + 0.5
            window = window[..., None] * torch.minimum(centres, size - centres)
        return window


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """First voxels of patches that cover an axis."""
    stride = max(1, math.floor(size * (1 - overlap)))
    return [stride * i for i in range(1 + max(0, -(-(length - size) // stride)))]
