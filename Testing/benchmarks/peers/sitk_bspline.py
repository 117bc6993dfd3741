"""SimpleITK: affine, then a cubic B-spline on an image pyramid with Mattes mutual information and L-BFGS-B.

ITK's B-spline touches every parameter for every sample, so few of both is what its users can afford.
Options: `mesh` (8 cells along the longest side), `samples` (5000) and `iterations` (50) per level.
"""

import SimpleITK as sitk
from common import Task, displacement_of, main
from linear import affine, mattes


def register(task: Task) -> sitk.Image:
    """Register with a B-spline."""
    fixed, moving = task.fixed, task.moving
    linear = affine(task, fixed, moving)
    method = mattes(task, fixed, samples=int(task.options.get("samples", "5000")))
    method.SetMovingInitialTransform(linear)
    extent = [size * step for size, step in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    step = max(extent) / int(task.options.get("mesh", "8"))
    mesh = [max(1, round(length / step)) for length in extent]
    method.SetInitialTransform(sitk.BSplineTransformInitializer(fixed, mesh, order=3), inPlace=True)
    method.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-5, numberOfIterations=int(task.options.get("iterations", "50"))
    )
    result = method.Execute(fixed, moving)
    # The moving initial transform acts after the optimised one.
    return displacement_of(sitk.CompositeTransform([linear, result]), fixed)


if __name__ == "__main__":
    main(register)
