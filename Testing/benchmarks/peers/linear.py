"""The linear stage for peers that bring none: SimpleITK, rigid then affine, Mattes mutual information."""

import SimpleITK as sitk
from common import Task


def shrink_factors(image: sitk.Image) -> list[int]:
    """Pyramid 4-2-1, without the levels that leave fewer than 12 voxels along an axis."""
    return [factor for factor in (4, 2, 1) if factor == 1 or min(image.GetSize()) // factor >= 12]


def mattes(task: Task, fixed: sitk.Image, *, samples: int) -> sitk.ImageRegistrationMethod:
    """A registration method with the metric, masks and pyramid that the linear and B-spline stages share."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    factors = shrink_factors(fixed)
    voxels = [fixed.GetNumberOfPixels() / factor ** fixed.GetDimension() for factor in factors]
    method.SetMetricSamplingPercentagePerLevel([min(1.0, samples / count) for count in voxels], seed=1)
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0 for factor in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    if task.fixed_mask is not None:
        method.SetMetricFixedMask(task.fixed_mask)
    if task.moving_mask is not None:
        method.SetMetricMovingMask(task.moving_mask)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def centred(task: Task, fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """The rigid transform to start from."""
    dimension = fixed.GetDimension()
    rigid = sitk.Euler2DTransform() if dimension == 2 else sitk.Euler3DTransform()
    if task.initial == "header":
        centre = [(size - 1) / 2 for size in fixed.GetSize()]
        rigid.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint(centre))
        return rigid
    modes = {
        "geometry": sitk.CenteredTransformInitializerFilter.GEOMETRY,
        "moments": sitk.CenteredTransformInitializerFilter.MOMENTS,
    }
    return sitk.CenteredTransformInitializer(fixed, moving, rigid, modes[task.initial])


def affine(task: Task, fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Affine transform from fixed to moving points."""
    dimension = fixed.GetDimension()
    rigid = centred(task, fixed, moving)
    for transform, rate in ((rigid, 1.0), (sitk.AffineTransform(dimension), 0.5)):
        if isinstance(transform, sitk.AffineTransform):
            transform.SetMatrix(rigid.GetMatrix())
            transform.SetTranslation(rigid.GetTranslation())
            transform.SetCenter(rigid.GetCenter())
        method = mattes(task, fixed, samples=50_000)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=rate, minStep=1e-3, numberOfIterations=200, gradientMagnitudeTolerance=1e-6
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(fixed, moving)
    return transform
