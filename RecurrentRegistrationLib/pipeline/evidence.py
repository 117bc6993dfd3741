"""How well a map explains the fixed image, judged by a measure that no method follows.

Methods follow local correlation or descriptors of self-similarity. Both can be raised by motion that is not there:
where contrasts differ, where slices are thick, and where there is nothing but noise. The judge is what remains unknown
of a fixed voxel once the warped one is seen, `-log p(f | w)`, with one joint histogram for the whole image (the
conditional entropy of Wells et al., Medical Image Analysis 1996). It needs no likeness of contrasts, and a wrong
displacement in one place cannot make a relation that holds everywhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from RecurrentRegistrationLib.losses.similarity import MutualInformation

BINS = 32


def surprise(fixed: Tensor, warped: Tensor, weight: Tensor) -> Tensor:
    """`-log p(f | w)` at every voxel, natural logarithm, `[1, 1, *S]`.

    Args:
        fixed: `[1, 1, *S]` in [0, 1].
        warped: the same of the moving image.
        weight: `[1, 1, *S]`, how much each voxel counts in the histogram.
    """
    joint = MutualInformation(BINS).joint_histogram(fixed, warped, weight)[0]
    known = (joint + 1e-7) / (joint.sum(dim=0, keepdim=True) + BINS * 1e-7)
    row = (fixed * (BINS - 1)).round().long().clamp(0, BINS - 1)
    column = (warped * (BINS - 4) + 1.5).round().long().clamp(0, BINS - 1)  # as the histogram places it
    return -torch.log(known[row, column])
