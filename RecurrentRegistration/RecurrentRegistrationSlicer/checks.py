"""What can be said of the inputs at once, in one sentence, before anything is calculated."""

from __future__ import annotations

from typing import Any

import numpy as np

from RecurrentRegistrationSlicer import volumes
from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import Frame, dimension, indexToWorld, parentTransform, toWorld, worldMatrix
from RecurrentRegistrationSlicer.quality import landmarkErrors


def problem(fixedVolumeNode: Any, movingVolumeNode: Any, **settings: Any) -> str | None:
    """Why a registration cannot begin; None where it can.

    Args:
        fixedVolumeNode: the volume that stays, or None.
        movingVolumeNode: the volume that is brought onto it, or None.
        settings: fields of `runs.Settings`, of which the nodes and `initial` are looked at.
    """
    try:
        _checkImages(fixedVolumeNode, movingVolumeNode)
        _checkPlaces(fixedVolumeNode, movingVolumeNode, **settings)
    except RegistrationError as error:
        return str(error)
    return None


def notice(fixedVolumeNode: Any, movingVolumeNode: Any, **settings: Any) -> str | None:
    """What the user should know although the registration can begin; None for nothing."""
    if problem(fixedVolumeNode, movingVolumeNode, **settings) is not None:
        return None
    if not _overlap(fixedVolumeNode, movingVolumeNode):
        return "The volumes do not overlap: the registration first searches for a common position."
    if fixedVolumeNode.GetParentTransformNode() is not parentTransform(fixedVolumeNode):
        return "The fixed volume counts as it was before its own registration: harden its transform to change that."
    return None


def checkUnchanged(run: Any) -> None:
    """Raises RegistrationError where the moving volume is no longer what was registered, as after hardening."""
    node = run.movingNode
    if node is not None and not volumes.isUnchanged(node, run.kept("moving")):
        raise RegistrationError(f"'{node.GetName()}' was changed since it was registered: register it again.")


def checkFixed(run: Any) -> None:
    """Raises RegistrationError where the fixed volume no longer has the grid that the worker writes on."""
    node = run.fixedNode
    if node is not None and not volumes.isPlaced(node, run.kept("fixed")):
        raise RegistrationError(f"'{node.GetName()}' was moved or cropped since: register again.")


def checkBackground(run: Any, background: float | None) -> None:
    """Raises RegistrationError for a background that would come out as another value: voxels may be whole numbers."""
    image = run.movingNode.GetImageData() if run.movingNode is not None else None
    if image is not None and background is not None:
        low, high = image.GetScalarTypeMin(), image.GetScalarTypeMax()
        if not low <= background <= high:
            raise RegistrationError(
                f"The moving volume holds values from {low:g} to {high:g}: choose a background in this range."
            )


def checkStep(index: int | None) -> None:
    """Raises RegistrationError for a step before the first."""
    if index is not None and index < 1:
        raise RegistrationError("Nothing is registered yet at this step: choose a later one.")


def _checkImages(fixedNode: Any, movingNode: Any) -> None:
    for name, node in (("fixed", fixedNode), ("moving", movingNode)):
        if node is None:
            raise RegistrationError(f"Choose the {name} volume.")
        if node.GetScene() is None:
            raise RegistrationError(f"The {name} volume is no longer in the scene: choose another one.")
        if node.IsA("vtkMRMLSequenceNode"):
            raise RegistrationError(f"'{node.GetName()}' is a sequence: choose the volume of one of its frames.")
        if not node.IsA("vtkMRMLScalarVolumeNode"):
            raise RegistrationError(f"The {name} image '{node.GetName()}' is not a volume: choose a scalar volume.")
        image = node.GetImageData()
        if image is None or min(image.GetDimensions()) < 1:
            raise RegistrationError(f"The {name} volume '{node.GetName()}' is empty: choose another one.")
        if image.GetNumberOfScalarComponents() != 1:
            raise RegistrationError(f"The {name} volume '{node.GetName()}' is in colour: convert it to greyscale.")
        if min(image.GetDimensions()[:2]) < 2:
            raise RegistrationError(
                f"The {name} volume '{node.GetName()}' is a line, not an image: choose another one."
            )
        low, high = image.GetScalarRange()
        if not np.isfinite([low, high]).all():
            raise RegistrationError(f"The {name} volume '{node.GetName()}' holds infinite values: replace them first.")
        if low == high:
            raise RegistrationError(f"The {name} volume '{node.GetName()}' is constant: there is nothing to register.")
    for name, node in (("fixed", fixedNode), ("moving", movingNode)):
        axes = indexToWorld(node)[:3, :3]
        if not np.isfinite(axes).all() or abs(np.linalg.det(axes)) < 1e-9:
            raise RegistrationError(
                f"The axes of the {name} volume '{node.GetName()}' do not span space: correct them."
            )
    if fixedNode is movingNode:
        raise RegistrationError("The fixed and the moving volume are the same: choose another one.")
    if dimension(fixedNode) != dimension(movingNode):
        kinds = ["a single slice" if dimension(node) == 2 else "a volume" for node in (fixedNode, movingNode)]
        raise RegistrationError(f"The fixed image is {kinds[0]}, the moving one {kinds[1]}: give two of the same kind.")


def _checkPlaces(
    fixedNode: Any,
    movingNode: Any,
    *,
    initial: str = "auto",
    initialTransform: Any = None,
    fixedMask: Any = None,
    movingMask: Any = None,
    fixedLandmarks: Any = None,
    movingLandmarks: Any = None,
    **_: Any,
) -> None:
    Frame.of(fixedNode, movingNode)
    toWorld(movingNode)
    toWorld(fixedNode)
    if initialTransform is not None:
        _checkInitial(initialTransform, movingNode)
    elif initial == "none" and not _overlap(fixedNode, movingNode):
        raise RegistrationError("The volumes do not overlap: choose an initialisation other than 'none'.")
    for name, mask in (("fixed", fixedMask), ("moving", movingMask)):
        if mask is not None:
            _checkMask(mask, name)
    if (fixedLandmarks is None) != (movingLandmarks is None):
        raise RegistrationError("Choose landmarks in both images, or in none.")
    if fixedLandmarks is not None:
        landmarkErrors(fixedLandmarks, movingLandmarks)


def _checkInitial(transformNode: Any, movingNode: Any) -> None:
    try:
        worldMatrix(transformNode, movingNode.GetName())
    except RegistrationError as error:
        name = transformNode.GetName()
        raise RegistrationError(f"The initial transform '{name}' is not linear: choose a linear transform.") from error


def _checkMask(maskNode: Any, name: str) -> None:
    toWorld(maskNode)
    if maskNode.IsA("vtkMRMLSegmentationNode"):
        empty = maskNode.GetSegmentation().GetNumberOfSegments() == 0
    else:
        image = maskNode.GetImageData()
        empty = image is None or image.GetScalarRange() == (0.0, 0.0)
    if empty:
        raise RegistrationError(f"The mask of the {name} image is empty: mark some voxels or leave it out.")


def _overlap(fixedNode: Any, movingNode: Any) -> bool:
    """Whether the boxes of two volumes meet."""
    size = np.array(movingNode.GetImageData().GetDimensions())
    between = np.linalg.inv(indexToWorld(movingNode)) @ indexToWorld(fixedNode)
    ends = [(-0.5, n - 0.5) for n in fixedNode.GetImageData().GetDimensions()]
    corners = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 3) @ between[:3, :3].T + between[:3, 3]
    if dimension(fixedNode) == 2:
        corners, size = corners[:, :2], size[:2]
    return bool(((corners.max(axis=0) > -0.5) & (corners.min(axis=0) < size - 0.5)).all())


def isUnder(node: Any, transformNode: Any) -> bool:
    """Whether a transform node is among those above a node."""
    parent = parentTransform(node)
    while parent is not None and parent is not transformNode:
        parent = parentTransform(parent)
    return parent is transformNode
