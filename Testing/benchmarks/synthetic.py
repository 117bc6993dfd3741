"""Pairs whose mapping is known: a real scan pulled onto other grids through a smooth displacement.

An adapter that mixes up axes, units, directions or the order of its stages cannot recover them, because the grids are
anisotropic, oblique, permuted and left-handed, and the mapping has a rotation as well as a deformation.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import yaml
from scipy.ndimage import gaussian_filter

SCAN_3D = "brain_oblique/sub-03_T1w.nii.gz"
SCAN_2D = "brain_2d_r16_r64/r16slice.nii.gz"
OBLIQUE = ((0.0, 0.259, 0.966), (-1.0, 0.0, 0.0), (0.0, 0.966, -0.259))  # permuted axes, tilted by 15°


def grids(moving: sitk.Image) -> dict[str, sitk.Image]:
    """Fixed grids over the same anatomy, by name."""
    if moving.GetDimension() == 2:
        return {"plane": _grid(moving, (200, 160), (1.1, 1.5), np.array([[0.966, 0.259], [0.259, -0.966]]))}
    mirrored = np.array(OBLIQUE) * (1, 1, -1)
    return {
        "anisotropic": _grid(moving, (96, 112, 64), (2.0, 2.0, 3.0), np.eye(3)),
        "oblique": _grid(moving, (80, 112, 72), (2.4, 2.0, 2.8), np.array(OBLIQUE)),
        "left_handed": _grid(moving, (80, 112, 72), (2.4, 2.0, 2.8), mirrored),
    }


def _grid(moving: sitk.Image, size: tuple[int, ...], spacing: tuple[float, ...], axes: np.ndarray) -> sitk.Image:
    """A grid with the given axes as columns, centred on the scan's centre of mass."""
    axes = np.linalg.svd(axes)[0] @ np.linalg.svd(axes)[2]  # exactly orthonormal
    array = sitk.GetArrayViewFromImage(moving)
    index = [
        float(np.average(np.arange(n), weights=array.sum(axis=_others(array.ndim, k))))
        for k, n in enumerate(array.shape)
    ]
    centre = np.array(moving.TransformContinuousIndexToPhysicalPoint(index[::-1]))
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(spacing)
    grid.SetDirection(axes.ravel().tolist())
    grid.SetOrigin((centre - axes @ ((np.array(size) - 1) * spacing / 2)).tolist())
    return grid


def _others(dimension: int, axis: int) -> tuple[int, ...]:
    return tuple(k for k in range(dimension) if k != axis)


def mapping(grid: sitk.Image, *, seed: int, amplitude: float = 4.0, width: float = 14.0) -> sitk.Image:
    """A smooth displacement (mm, LPS): rotation and shift, then random bumps of `width` mm with rms `amplitude`."""
    dimension = grid.GetDimension()
    generator = np.random.default_rng(seed)
    shape = (*grid.GetSize()[::-1], dimension)
    sigma = [width / step for step in grid.GetSpacing()[::-1]]
    bumps = np.stack([gaussian_filter(generator.standard_normal(shape[:-1]), sigma) for _ in range(dimension)], -1)
    bumps *= amplitude / np.sqrt((bumps**2).sum(-1).mean())
    deformation = sitk.GetImageFromArray(bumps, isVector=True)
    deformation.CopyInformation(grid)
    centre = grid.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in grid.GetSize()])
    rigid = sitk.Euler2DTransform() if dimension == 2 else sitk.Euler3DTransform()
    rigid.SetCenter(centre)
    rigid.SetParameters((0.08, 4.0, -3.0) if dimension == 2 else (0.06, -0.04, 0.08, 4.0, -3.0, 5.0))
    return sitk.TransformToDisplacementField(
        sitk.CompositeTransform([rigid, sitk.DisplacementFieldTransform(deformation)]),
        sitk.sitkVectorFloat64,
        grid.GetSize(),
        grid.GetOrigin(),
        grid.GetSpacing(),
        grid.GetDirection(),
    )


def write(data: Path, folder: Path) -> Path:
    """Write the pairs into a folder and return their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for scan in (SCAN_3D, SCAN_2D):
        moving = sitk.ReadImage(str(data / scan), sitk.sitkFloat32)
        if moving.GetDimension() == 3:
            moving = sitk.BinShrink(moving, [2, 2, 2])
        for seed, (name, grid) in enumerate(grids(moving).items()):
            truth = mapping(grid, seed=seed)
            transform = sitk.DisplacementFieldTransform(sitk.Image(truth))
            fixed = sitk.Resample(moving, grid, transform, sitk.sitkBSpline, 0.0)
            for kind, image in (("fixed", fixed), ("moving", moving), ("truth", truth)):
                sitk.WriteImage(image, str(folder / f"{name}_{kind}.nii.gz"))
            pairs.append(
                {
                    "name": name,
                    "fixed": f"{name}_fixed.nii.gz",
                    "moving": f"{name}_moving.nii.gz",
                    "reference_field": f"{name}_truth.nii.gz",
                }
            )
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump({"name": "synthetic", "initial": "moments", "pairs": pairs}), encoding="utf-8")
    return manifest
