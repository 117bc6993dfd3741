"""What a user has chosen: it is saved with the scene, and bound to the widgets that name it in the .ui."""

from typing import Annotated, Union

from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTransformNode,
)
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from RecurrentRegistrationSlicer.errors import RegistrationError

MaskNode = Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007 - the wrapper knows this form


@parameterNodeWrapper
class Parameters:
    """The parameters of the panel; 0 and "" leave a choice to the registration."""

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    fixedMask: MaskNode
    movingMask: MaskNode
    fixedLandmarks: vtkMRMLMarkupsFiducialNode
    movingLandmarks: vtkMRMLMarkupsFiducialNode
    initialTransform: vtkMRMLTransformNode
    initial: str = "auto"

    preset: str = "auto"
    method: str = "auto"
    weights: str = ""
    linear: str = "auto"
    stop: str = "off"
    steps: Annotated[int, WithinRange(0, 10000)] = 0
    refine: Annotated[int, WithinRange(0, 10000)] = 0
    spacing: Annotated[float, WithinRange(0, 20)] = 0.0
    device: str = "auto"

    continueSteps: Annotated[int, WithinRange(1, 10000)] = 10
    refineSteps: Annotated[int, WithinRange(1, 10000)] = 20

    transform: str = "composite"
    gridSpacing: Annotated[float, WithinRange(0, 20)] = 0.0
    interpolation: str = "linear"
    background: str = ""
    makeWarped: bool = True
    makeInverse: bool = False
    makeJacobian: bool = True
    makeDisplacement: bool = False
    makeReport: bool = True
    applyTransform: bool = True


INPUTS = ("fixedMask", "movingMask", "fixedLandmarks", "movingLandmarks", "initialTransform", "initial")


def inputs(parameters) -> dict:
    """What is checked before a run, beside the two volumes."""
    return {name: getattr(parameters, name) for name in INPUTS}


def settings(parameters, cards: list[dict]) -> dict:
    """The settings of a registration; `cards` are the methods' that are known: trained ones take weights."""
    names = ("preset", "method", "linear", "stop", "device")
    untrained = ("auto", "none", *(card["name"] for card in cards if not card["trained"]))
    optional = (*(["weights"] if parameters.method not in untrained else []), "steps", "refine", "spacing")
    return (
        inputs(parameters)
        | {name: getattr(parameters, name) for name in names}
        | {name: getattr(parameters, name) or None for name in optional}
    )


def outputs(parameters) -> dict:
    """What an accepted step is turned into."""
    return {
        "transform": parameters.transform,
        "spacing": parameters.gridSpacing or None,
        "inverse": parameters.makeInverse,
        "warped": parameters.makeWarped,
        "jacobian": parameters.makeJacobian,
        "displacement": parameters.makeDisplacement,
        "report": parameters.makeReport,
        "apply": parameters.applyTransform,
        "interpolation": parameters.interpolation,
        "background": background(parameters),
    }


def background(parameters) -> float | None:
    """The value outside of the moving volume; None where none is given. Raises RegistrationError for no number."""
    text = parameters.background.strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise RegistrationError(
            f"The background '{text}' is not a number: give a number, or leave it empty."
        ) from error
