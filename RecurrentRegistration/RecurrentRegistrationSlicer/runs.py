"""A run as the scene keeps it: a hidden node that refers to everything the run was given and has made.

It is saved with the scene, so that the same steps and results are there when the scene is opened again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import slicer

from RecurrentRegistrationSlicer.errors import RegistrationError
from RecurrentRegistrationSlicer.frame import Frame
from RecurrentRegistrationSlicer.quality import LandmarkErrors, Progress
from RecurrentRegistrationSlicer.steps import LONGEST, Steps

KIND = "RecurrentRegistrationRun"  # tells the node of a run from the parameters of the module
GIVEN = ("fixedMask", "movingMask", "fixedLandmarks", "movingLandmarks", "initialTransform")
INPUTS = ("fixed", "moving", "movingParent", *GIVEN)
PROGRESS = (
    "table",
    "marks",
    "chart",
    "similaritySeries",
    "updateSeries",
    "foldingSeries",
    "landmarkSeries",
    "overlapSeries",
    "marksSeries",
)
RESULTS = ("result", "inverse", "warped", "jacobian", "displacement", "report", "jacobianColors")
# In the order in which they are made, nearly: the browser would make the step transform again.
MADE = ("stepTransform", "sequence", "browser", *PROGRESS, *RESULTS, "comparison")


@dataclass
class Settings:
    """What a user can choose before a run.

    Attributes:
        method, preset, steps, refine, device, linear, stop, similarity, spacing, weights, seed: the worker's options.
        initial: where the linear stage begins: "auto", "none", "geometry" or "moments".
        initialTransform: a linear transform node that brings the moving image near the fixed one; wins over `initial`.
        fixedMask, movingMask: label map or segmentation nodes: where the images count.
        fixedLandmarks, movingLandmarks: markups nodes with the same points in both images, for the error only.
        stepsLongest: nodes along the longest side of a step's grid.
    """

    method: str = "auto"
    preset: str = "auto"
    steps: int | None = None
    refine: int | None = None
    device: str = "auto"
    linear: str = "auto"
    stop: str = "off"
    similarity: str | None = None
    spacing: float | None = None
    weights: str | None = None
    seed: int = 0
    initial: str = "auto"
    initialTransform: Any = None
    fixedMask: Any = None
    movingMask: Any = None
    fixedLandmarks: Any = None
    movingLandmarks: Any = None
    stepsLongest: int = LONGEST

    def options(self) -> dict[str, Any]:
        """What goes to the worker and is kept with the scene: everything but the nodes."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if name not in (*GIVEN, "stepsLongest")}

    def nodes(self) -> dict[str, Any]:
        """The nodes that were chosen, by name."""
        return {name: getattr(self, name) for name in GIVEN if getattr(self, name) is not None}


@dataclass
class Outputs:
    """What a user can ask of an accepted step.

    Attributes:
        transform: "composite" (linear part and displacement, the smallest), "grid" (one field) or "none".
        spacing: of that field in millimetres; None for the fixed image's.
        inverse: also a transform node that brings the fixed image onto the moving one.
        warped: the moving image on the fixed grid.
        jacobian: Jacobian determinants on the fixed grid.
        displacement: lengths of the displacements on the fixed grid, millimetres.
        report: a table.
        apply: put the moving volume under the transform.
        interpolation: of the warped image: "linear", "nearest", "label" or "bspline".
        background: of the warped image outside the moving one; None for its lowest value.
    """

    transform: str = "composite"
    spacing: float | None = None
    inverse: bool = False
    warped: bool = True
    jacobian: bool = True
    displacement: bool = False
    report: bool = True
    apply: bool = True
    interpolation: str = "linear"
    background: float | None = None


def divided(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a run, and outputs. Raises RegistrationError for a name that is neither."""
    ours, theirs = ({field.name for field in dataclasses.fields(kind)} for kind in (Settings, Outputs))
    if unknown := set(settings) - ours - theirs:
        raise RegistrationError(f"There is no setting '{unknown.pop()}'; there are {', '.join(sorted(ours | theirs))}.")
    chosen = {name: value for name, value in settings.items() if name in ours}
    return chosen, {name: value for name, value in settings.items() if name in theirs}


@dataclass
class Result:
    """The nodes of an accepted step; None where they were not asked for."""

    step: int
    report: dict[str, Any]
    transformNode: Any = None
    inverseNode: Any = None
    warpedNode: Any = None
    jacobianNode: Any = None
    displacementNode: Any = None
    reportNode: Any = None
    landmarks: LandmarkErrors | None = None


class Run:
    """One registration: its node, and what only matters while it lasts.

    Attributes:
        node: keeps everything in the scene.
        state: "starting", "running", "stopped", "done", "cancelled", "failed" or "restored" (from a saved scene).
        phase: of the worker: "read", "prepare", "align", "deform", "refine", "write" or "".
        planned: steps there will be.
        best: the step that the worker holds for the best so far; None where it does not say.
        elapsed: seconds the worker has worked for it.
        error: one sentence where the state is "failed".
        canContinue: whether the worker still holds it.
        stoppedIn: the phase in which it was stopped; "" where it was not.
        folder: its files; gone with the run.
    """

    def __init__(self, node: Any, folder: Path | None = None) -> None:
        self.node, self.folder = node, folder
        self.state, self.phase, self.error = "restored", "", ""
        self.planned, self.elapsed = 0, 0.0
        self.best: int | None = None
        self.canContinue, self.stoppedIn = False, ""
        self.result = self._storedResult()

    @classmethod
    def create(cls, fixedNode: Any, movingNode: Any, settings: Settings, frame: Frame, folder: Path) -> Run:
        """A run that has not begun."""
        scene = slicer.mrmlScene
        name = scene.GetUniqueNameByString(f"Registration of {movingNode.GetName()}")
        node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", name)
        node.SetHideFromEditors(True)
        node.SetModuleName(KIND)
        given = {"fixed": fixedNode, "moving": movingNode, "movingParent": movingNode.GetParentTransformNode()}
        for role, other in {**given, **settings.nodes()}.items():
            if other is not None:
                node.SetNodeReferenceID(role, other.GetID())
        run = cls(node, folder)
        run.keep("settings", settings.options())
        run.keep("frame", frame.toDict())
        return run

    @classmethod
    def all(cls) -> list[Run]:
        """The runs in the scene, the oldest first."""
        return [cls(node) for node in cls.nodes()]

    @staticmethod
    def nodes() -> list[Any]:
        """The nodes of the runs in the scene, the oldest first."""
        nodes = slicer.mrmlScene.GetNodesByClass("vtkMRMLScriptedModuleNode")
        nodes.UnRegister(slicer.mrmlScene)
        found = [nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems())]
        return [node for node in found if node.GetModuleName() == KIND]

    @cached_property
    def progress(self) -> Progress:
        """The table of its steps, read when it is asked for: scenes may hold many runs."""
        return Progress(self.node)

    def keep(self, name: str, value: Any) -> None:
        """Write something into the scene."""
        self.node.SetParameter(name, json.dumps(value))

    def kept(self, name: str, default: Any = None) -> Any:
        """Read it again."""
        text = self.node.GetParameter(name)
        return json.loads(text) if text else default

    def refer(self, role: str, node: Any) -> None:
        """Note a node that the run has made."""
        self.node.SetNodeReferenceID(role, node.GetID() if node is not None else None)

    def referred(self, role: str) -> Any:
        """The node of a role; None where there is none, or no longer."""
        return self.node.GetNodeReference(role)

    @property
    def frame(self) -> Frame:
        """Where the worker saw the pair."""
        return Frame.fromDict(self.kept("frame"))

    @property
    def fixedNode(self) -> Any:
        """The fixed volume."""
        return self.referred("fixed")

    @property
    def movingNode(self) -> Any:
        """The moving volume."""
        return self.referred("moving")

    @property
    def sequenceNode(self) -> Any:
        """The steps; None before the first."""
        return self.referred("sequence")

    @property
    def browserNode(self) -> Any:
        """What selects a step; None before the first."""
        return self.referred("browser")

    @property
    def stepTransformNode(self) -> Any:
        """What shows the selected step; None before the first. The browser makes another one where it is deleted."""
        return self.referred("stepTransform") or (self.steps.transformNode if self.steps is not None else None)

    @property
    def tableNode(self) -> Any:
        """A row for each step: its similarity, folding and mean update."""
        return self.referred("table")

    @property
    def chartNode(self) -> Any:
        """The curves of the table."""
        return self.referred("chart")

    @property
    def steps(self) -> Steps | None:
        """The kept steps; None before the first, or where somebody removed them."""
        sequenceNode, browserNode = self.sequenceNode, self.browserNode
        return Steps(sequenceNode, browserNode) if sequenceNode is not None and browserNode is not None else None

    @property
    def keptSteps(self) -> list[int]:
        """Indices of the steps that can be shown; 0 is before the first."""
        return self.steps.indices if self.steps else []

    @property
    def selectedStep(self) -> int | None:
        """The step that is shown."""
        return self.steps.selected if self.steps else None

    @property
    def records(self) -> list[dict[str, Any]]:
        """For each step its index, stage, similarity, mean_update_mm, folding, seconds."""
        return self.progress.records

    @property
    def made(self) -> int:
        """Index of the last step."""
        return self.records[-1]["index"] if self.records else 0

    @property
    def notes(self) -> list[str]:
        """Sentences about what was chosen, and why."""
        return self.kept("notes", [])

    @property
    def isComplete(self) -> bool:
        """Whether its images are still in the scene."""
        return all(node is not None and node.GetScene() is not None for node in (self.fixedNode, self.movingNode))

    @property
    def canAccept(self) -> bool:
        """Whether there is a step to accept."""
        return self.isComplete and len(self.keptSteps) > 1

    @property
    def canExtend(self) -> bool:
        """Whether the worker can make more steps: there is nothing to continue before the deformation has begun."""
        return self.canContinue and self.stoppedIn not in ("read", "prepare", "align")

    @property
    def isRunning(self) -> bool:
        """Whether steps are being made."""
        return self.state in ("starting", "running")

    def _storedResult(self) -> Result | None:
        stored = self.kept("result")
        if stored is None:
            return None
        nodes = {role: self.referred(role) for role in RESULTS}
        return Result(
            stored["step"],
            stored["report"],
            nodes["result"],
            nodes["inverse"],
            nodes["warped"],
            nodes["jacobian"],
            nodes["displacement"],
            nodes["report"],
            LandmarkErrors.fromDict(stored["landmarks"]) if stored["landmarks"] else None,
        )
