"""ANTs SyN (PyPI antspyx): its usual affine, then symmetric normalisation, all defaults.

Options: `metric` (mattes; CC with radius 4), `iterations` (40x20x0; 100x70x50x20 is the long ANTs setting).
"""

import ants
import SimpleITK as sitk
from common import AIR, METAL, Task, main


def read(task: Task, path) -> ants.ANTsImage:
    """Read an image; ANTs wants CT intensities of at least 0."""
    image = ants.image_read(str(path), pixeltype="float")
    if task.modality != "ct":
        return image
    return ants.from_numpy_like(image.numpy().clip(AIR, METAL) - AIR, image)


def register(task: Task) -> sitk.Image:
    """Register with SyN."""
    fixed, moving = read(task, task.fixed_path), read(task, task.moving_path)
    masks = {}
    if task.fixed_mask_path is not None:
        masks["mask"] = ants.image_read(str(task.fixed_mask_path), pixeltype="float") > 0
    if task.moving_mask_path is not None:
        masks["moving_mask"] = ants.image_read(str(task.moving_mask_path), pixeltype="float") > 0
    metric = task.options.get("metric", "mattes")
    result = ants.registration(
        fixed,
        moving,
        type_of_transform="SyN",
        syn_metric=metric,
        syn_sampling=4 if metric == "CC" else 32,
        reg_iterations=[int(count) for count in task.options.get("iterations", "40x20x0").split("x")],
        random_seed=1,
        outprefix=str(task.folder / "syn_"),
        **masks,
    )
    composed = ants.apply_transforms(fixed, moving, result["fwdtransforms"], compose=str(task.folder / "total_"))
    return sitk.ReadImage(composed)


if __name__ == "__main__":
    main(register)
