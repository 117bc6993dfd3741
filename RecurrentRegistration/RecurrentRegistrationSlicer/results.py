"""What an accepted step leaves in the scene, and how all that a run has made is taken away again."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from RecurrentRegistrationSlicer import quality, trace, volumes
from RecurrentRegistrationSlicer.found import Found
from RecurrentRegistrationSlicer.frame import parentTransform, toWorld
from RecurrentRegistrationSlicer.runs import MADE, RESULTS, Outputs, Result, Run
from RecurrentRegistrationSlicer.transforms import setReferences, updateTransform


def load(run: Run, found: Found, wanted: Outputs) -> Result:
    """Turn what was found into the nodes that are wanted; those of an earlier result are updated or removed."""
    report, name = found.report, run.movingNode.GetName()
    step = report["steps"][-1]["index"]
    result = Result(step, report)
    if wanted.transform != "none":
        node = result.transformNode = _node(run, "result", "vtkMRMLTransformNode", f"{name} registered")
        updateTransform(node, found.transform(wanted), role="result")
        _place(node, parentTransform(run.movingNode))
        setReferences(node, run.fixedNode, run.movingNode)
    if wanted.inverse:
        node = result.inverseNode = _node(run, "inverse", "vtkMRMLTransformNode", f"{name} registered (inverse)")
        updateTransform(node, found.inverse(), role="inverse")
        _place(node, parentTransform(run.fixedNode))
        setReferences(node, run.movingNode, run.fixedNode)
    if wanted.warped:
        result.warpedNode = _volume(run, "warped", f"{name} warped", found.warped(wanted))
        _showLike(result.warpedNode, run.movingNode)
    if wanted.jacobian:
        node = result.jacobianNode = _volume(run, "jacobian", f"{name} Jacobian", found.jacobian())
        run.refer("jacobianColors", quality.describeJacobian(node, run.referred("jacobianColors")))
    if wanted.displacement:
        length = found.length()
        node = result.displacementNode = _volume(run, "displacement", f"{name} displacement (mm)", length)
        quality.describeDisplacement(node, float(length.max()))
    result.landmarks = _landmarks(run, result.transformNode)
    if wanted.report:
        result.reportNode = _node(run, "report", "vtkMRMLTableNode", f"{name} report")
        quality.fillReport(result.reportNode, report, result.landmarks, trace.rows(run, report))
    if wanted.apply and result.transformNode is not None:
        _place(run.movingNode, result.transformNode)
    elif isOurs(run, run.movingNode.GetParentTransformNode()):
        _place(run.movingNode, parentTransform(run.movingNode))
    _dropUnwanted(run, result)
    landmarks = result.landmarks.toDict() if result.landmarks is not None else None
    run.keep("result", {"step": step, "report": report, "landmarks": landmarks})
    return result


def remove(run: Run) -> None:
    """Take everything that a run has made out of the scene; its moving volume goes back to where it was."""
    parent = run.referred("movingParent")
    if run.movingNode is not None and isOurs(run, run.movingNode.GetParentTransformNode()):
        _place(run.movingNode, parent)
    steps = run.stepTransformNode
    _handOn(run, (steps, run.referred("result")), parent)
    for role in reversed(MADE):
        removeNode(run.referred(role))
    removeNode(steps)


def release(run: Run) -> None:
    """Leave what was accepted in the scene, as nodes like any other, and take everything else of a run away."""
    steps, parent = run.stepTransformNode, run.referred("result") or run.referred("movingParent")
    if run.movingNode is not None and steps is not None and run.movingNode.GetParentTransformNode() is steps:
        _place(run.movingNode, parent)
    _handOn(run, (steps,), parent)
    for role in reversed(MADE):
        if role not in RESULTS:
            removeNode(run.referred(role))
    removeNode(steps)


def removeNode(node: Any) -> None:
    """Remove a node with its display and storage nodes."""
    if node is None or node.GetScene() is None:
        return
    belongings = []
    if node.IsA("vtkMRMLDisplayableNode"):
        belongings += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLTransformNode"):  # the display node of a transform makes colours for itself alone
        belongings += [shown.GetColorNode() for shown in belongings if shown is not None]
    if node.IsA("vtkMRMLStorableNode"):
        belongings += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    slicer.mrmlScene.RemoveNode(node)
    for other in belongings:
        if other is not None and other.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(other)


def isOurs(run: Run, transformNode: Any) -> bool:
    """Whether a run has made a transform node to deform its moving volume."""
    return transformNode is not None and transformNode in (run.stepTransformNode, run.referred("result"))


def _handOn(run: Run, nodes: tuple[Any, ...], parent: Any) -> None:
    """A later run of the same volume began below nodes that go: it is to go back to what was above them."""
    for other in Run.all():
        before = other.referred("movingParent")
        if other.node is not run.node and before is not None and before in nodes:
            other.refer("movingParent", parent)


def _node(run: Run, role: str, kind: str, name: str) -> Any:
    """The node of a role, made where there is none yet."""
    node = run.referred(role)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(kind, slicer.mrmlScene.GetUniqueNameByString(name))
        run.refer(role, node)
    return node


def _volume(run: Run, role: str, name: str, array: np.ndarray) -> Any:
    """A volume node on the fixed grid."""
    node = run.referred(role)
    if node is None:
        node = volumes.addVolume(array, run.fixedNode, name)
        run.refer(role, node)
    else:
        volumes.updateVolume(node, array, run.fixedNode)
    return node


def _place(node: Any, parent: Any) -> None:
    node.SetAndObserveTransformNodeID(parent.GetID() if parent is not None else None)


def _showLike(node: Any, other: Any) -> None:
    """Same colours and window as another volume."""
    if other.GetDisplayNode() is not None and other.GetDisplayNode().IsA(node.GetDisplayNode().GetClassName()):
        node.GetDisplayNode().CopyContent(other.GetDisplayNode())


def _landmarks(run: Run, transformNode: Any) -> quality.LandmarkErrors | None:
    fixed, moving = run.referred("fixedLandmarks"), run.referred("movingLandmarks")
    if fixed is None or moving is None:
        return None
    return quality.landmarkErrors(fixed, moving, transformNode, toWorld(run.movingNode))


def _dropUnwanted(run: Run, result: Result) -> None:
    """Remove what an earlier accepted step left and this one does not want."""
    wanted = {
        "result": result.transformNode,
        "inverse": result.inverseNode,
        "warped": result.warpedNode,
        "jacobian": result.jacobianNode,
        "displacement": result.displacementNode,
        "report": result.reportNode,
        "jacobianColors": result.jacobianNode,
    }
    if result.transformNode is None:
        _handOn(run, (run.referred("result"),), run.referred("movingParent"))
    for role in RESULTS:
        if wanted[role] is None:
            removeNode(run.referred(role))
