"""Greedy (PyPI picsl-greedy): rigid, affine, then greedy diffeomorphic registration with NCC of radius 2.

Options: `radius` (2), `iterations` (100x50x10), `pad` (0; voxels around images whose anatomy reaches the border),
`velocity=1` for the stationary velocity mode (-sv).
"""

import SimpleITK as sitk
from common import Task, main
from picsl_greedy import Greedy2D, Greedy3D

START = {"header": "-ia-identity", "geometry": "-ia-image-centers", "moments": "-ia start"}


def register(task: Task) -> sitk.Image:
    """Register with Greedy."""
    images = {"fixed": task.fixed, "moving": task.moving}
    dimension = images["fixed"].GetDimension()
    masks = ""
    if task.fixed_mask is not None:
        images["fixed_mask"] = task.fixed_mask
        masks += " -gm fixed_mask"
    if task.moving_mask is not None:
        images["moving_mask"] = task.moving_mask
        masks += " -mm moving_mask"
    ncc = "NCC " + "x".join([task.options.get("radius", "2")] * dimension)
    linear_metric = "NMI" if task.modality == "multi" else ncc
    linear = f"-m {linear_metric} -n 100x50x10"
    deformable = f"-m {ncc} -n {task.options.get('iterations', '100x50x10')} -it affine -wp 0"
    if "pad" in task.options:
        deformable += " -ref-pad " + "x".join([task.options["pad"]] * dimension)
    if "velocity" in task.options:
        deformable += " -sv"
    common = f" -i fixed moving{masks} -threads {task.threads} -seed 1 -V 0"

    greedy = Greedy3D() if dimension == 3 else Greedy2D()
    if task.initial == "moments":
        greedy.execute("-i fixed moving -moments 1 -o start -V 0", start=None, **images)
    greedy.execute(f"-a -dof 6 {linear} {START[task.initial]} -o rigid{common}", rigid=None, **images)
    greedy.execute(f"-a -dof 12 {linear} -ia rigid -o affine{common}", affine=None)
    greedy.execute(f"{deformable} -o warp{common}", warp=None)
    greedy.execute(
        f"-rf fixed -rm moving warped -r warp affine -rc composed -wp 0 -V 0 -threads {task.threads}",
        warped=None,
        composed=None,
    )
    return greedy["composed"]


if __name__ == "__main__":
    main(register)
