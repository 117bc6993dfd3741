"""ConvexAdam with MIND features (PyPI convexadam), after an affine; its defaults, three dimensions only.

It works in voxels and in blocks of 6, so it is given the foreground of the fixed image on an isotropic grid whose
sides are multiples of 12. Options: `spacing` (mm, default the finest of the fixed image but at least 1),
`grid` (6 voxels between the points of the coarse search; 3, 4 or 6).
"""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from common import Task, compose, decline, in_physical_axes, main, onto
from convexAdam.convex_adam_MIND import convex_adam_pt
from linear import affine

MULTIPLE = 12
MARGIN = 12.0  # mm around the foreground


def working_grid(fixed: sitk.Image, mask: sitk.Image | None, spacing: float) -> sitk.Image:
    """An isotropic grid over the foreground of the fixed image (or its mask)."""
    foreground = mask if mask is not None else sitk.OtsuThreshold(fixed, 0, 1)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(foreground)
    box = np.array(shape.GetBoundingBox(1), float)
    step = np.array(fixed.GetSpacing())
    low = np.maximum(box[:3] - MARGIN / step, 0)
    high = np.minimum(box[:3] + box[3:] + MARGIN / step, fixed.GetSize())
    size = np.ceil((high - low) * step / spacing / MULTIPLE).astype(int) * MULTIPLE
    grid = sitk.Image(size.tolist(), sitk.sitkUInt8)
    grid.SetSpacing([spacing] * 3)
    grid.SetDirection(fixed.GetDirection())
    grid.SetOrigin(fixed.TransformContinuousIndexToPhysicalPoint(low.tolist()))
    return grid


def array_xyz(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)


def register(task: Task) -> sitk.Image:
    """Register with ConvexAdam."""
    fixed, moving = task.fixed, task.moving
    if fixed.GetDimension() != 3:
        decline("ConvexAdam registers three-dimensional images only")
    torch.set_num_threads(task.threads)
    linear = affine(task, fixed, moving)
    spacing = float(task.options.get("spacing", max(1.0, min(fixed.GetSpacing()))))
    grid = working_grid(fixed, task.fixed_mask, spacing)
    background = [sitk.GetArrayViewFromImage(image).min().item() for image in (fixed, moving)]
    identity = sitk.Transform(3, sitk.sitkIdentity)
    images = [
        array_xyz(sitk.Resample(fixed, grid, identity, sitk.sitkLinear, background[0])),
        array_xyz(sitk.Resample(moving, grid, linear, sitk.sitkLinear, background[1])),
    ]
    masks: dict[str, object] = {}
    if task.fixed_mask is not None and task.moving_mask is not None:
        masks["use_mask"] = True
        for name, mask, transform in (("fixed", task.fixed_mask, identity), ("moving", task.moving_mask, linear)):
            path = Path(task.folder) / f"{name}.nii.gz"
            values = array_xyz(sitk.Resample(mask, grid, transform, sitk.sitkNearestNeighbor, 0))
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
            masks[f"path_{name}_mask"] = path
    voxels = convex_adam_pt(
        *images, grid_sp=int(task.options.get("grid", "6")), dtype=torch.float32, device=torch.device("cpu"), **masks
    )
    displacement = in_physical_axes(voxels.transpose(2, 1, 0, 3), grid)
    return compose(linear, onto(displacement, fixed), fixed)


if __name__ == "__main__":
    main(register)
