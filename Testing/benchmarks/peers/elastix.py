"""Elastix (PyPI itk-elastix): its default rigid, affine and B-spline parameter maps.

The number of threads comes from ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS alone: an explicit count crashes the B-spline.
"""

import itk
import SimpleITK as sitk
from common import AIR, METAL, Task, main

START = {"geometry": "GeometricalCenter", "moments": "CenterOfGravity"}


def read(task: Task, path):
    """Read an image, CT within the range of Hounsfield units."""
    image = itk.imread(str(path), itk.F)
    if task.modality == "ct":
        itk.array_view_from_image(image).clip(AIR, METAL, out=itk.array_view_from_image(image))
    return image


def register(task: Task) -> sitk.Image:
    """Register with elastix."""
    fixed, moving = read(task, task.fixed_path), read(task, task.moving_path)
    parameters = itk.ParameterObject.New()
    for name in ("rigid", "affine", "bspline"):
        stage = parameters.GetDefaultParameterMap(name)
        if name == "rigid":
            stage["AutomaticTransformInitialization"] = ["false" if task.initial == "header" else "true"]
            if task.initial in START:
                stage["AutomaticTransformInitializationMethod"] = [START[task.initial]]
        stage["RandomSeed"] = ["1"]
        parameters.AddParameterMap(stage)
    # The fixed mask alone, as its manual advises: with both, elastix gives up for samples that leave the moving one.
    masks = {}
    if task.fixed_mask_path is not None:
        masks["fixed_mask"] = itk.imread(str(task.fixed_mask_path), itk.UC)
    _, transform = itk.elastix_registration_method(
        fixed, moving, parameter_object=parameters, log_to_console=False, **masks
    )
    field = itk.transformix_deformation_field(moving, transform)
    image = sitk.GetImageFromArray(itk.array_view_from_image(field), isVector=True)
    image.CopyInformation(sitk.ReadImage(str(task.fixed_path)))
    return image


if __name__ == "__main__":
    main(register)
