"""SimpleITK affine with mutual information: what a linear registration alone reaches."""

import SimpleITK as sitk
from common import Task, displacement_of, main
from linear import affine


def register(task: Task) -> sitk.Image:
    """Register linearly only."""
    fixed = task.fixed
    return displacement_of(affine(task, fixed, task.moving), fixed)


if __name__ == "__main__":
    main(register)
