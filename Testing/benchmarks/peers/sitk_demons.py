"""SimpleITK: affine, then diffeomorphic demons on a pyramid, intensities matched by histogram.

Demons has no masks and compares intensities, so it is not a method for pairs of different contrast.
Options: `iterations` (100x50x25), `sigma` (1.5 voxels, smoothing of the field).
"""

import SimpleITK as sitk
from common import Task, compose, displacement_of, main, onto
from linear import affine, shrink_factors


def coarser(image: sitk.Image, factor: int) -> sitk.Image:
    """Smooth and shrink by a factor along every axis."""
    if factor == 1:
        return image
    smoothed = sitk.SmoothingRecursiveGaussian(image, [factor / 2 * s for s in image.GetSpacing()])
    return sitk.Shrink(smoothed, [factor] * image.GetDimension())


def register(task: Task) -> sitk.Image:
    """Register with diffeomorphic demons."""
    fixed, moving = task.fixed, task.moving
    linear = affine(task, fixed, moving)
    background = sitk.GetArrayViewFromImage(moving).min().item()
    aligned = sitk.Resample(moving, fixed, linear, sitk.sitkLinear, background)
    aligned = sitk.HistogramMatching(aligned, fixed, 256, 15, thresholdAtMeanIntensity=True)

    factors = shrink_factors(fixed)
    counts = [int(count) for count in task.options.get("iterations", "100x50x25").split("x")]
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetStandardDeviations(float(task.options.get("sigma", "1.5")))
    demons.SmoothDisplacementFieldOn()
    field = displacement_of(sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity), coarser(fixed, factors[0]))
    for factor, count in zip(factors, counts[-len(factors) :], strict=True):
        level = coarser(fixed, factor)
        demons.SetNumberOfIterations(count)
        # Resampling the vectors, not rescaling them: they are in millimetres.
        field = demons.Execute(level, coarser(aligned, factor), onto(field, level))
    return compose(linear, field, fixed)


if __name__ == "__main__":
    main(register)
