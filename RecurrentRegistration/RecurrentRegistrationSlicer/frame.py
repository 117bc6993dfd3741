"""Where things lie: Slicer counts RAS millimetres, the worker LPS; in 2D the worker sees the plane of the fixed slice.

Matrices are homogeneous, 4×4. An index counts (i, j, k), an array is [k, j, i].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import vtk

from RecurrentRegistrationSlicer.errors import RegistrationError

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
ROLE = "RecurrentRegistration.Role"  # attribute of the transforms that a run puts between a node and its own parent


def arrayFromMatrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """A vtkMatrix4x4 as an array."""
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def matrixFromArray(array: np.ndarray) -> vtk.vtkMatrix4x4:
    """An array as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    for r in range(4):
        for c in range(4):
            matrix.SetElement(r, c, float(array[r, c]))
    return matrix


def parentTransform(node):
    """The transform node that a node is under, apart from those that runs have put there; None for the world."""
    parent = node.GetParentTransformNode()
    while parent is not None and parent.GetAttribute(ROLE):
        parent = parent.GetParentTransformNode()
    return parent


def toWorld(node) -> np.ndarray:
    """From a node's coordinates to the world's, RAS. Raises RegistrationError under a non-linear transform."""
    return worldMatrix(parentTransform(node), node.GetName())


def worldMatrix(transformNode, name: str) -> np.ndarray:
    """From below a transform node (None for the world) to the world, RAS.

    Raises:
        RegistrationError: it is not linear; `name` is who lives there.
    """
    if transformNode is None:
        return np.eye(4)
    if not transformNode.IsTransformToWorldLinear():
        raise RegistrationError(f"'{name}' is under a non-linear transform: harden it first (Transforms module).")
    matrix = vtk.vtkMatrix4x4()
    transformNode.GetMatrixTransformToWorld(matrix)
    return arrayFromMatrix(matrix)


def indexToWorld(volumeNode) -> np.ndarray:
    """From a volume's index (i, j, k) to the world, LPS."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return FLIP @ toWorld(volumeNode) @ arrayFromMatrix(matrix)


def dimension(volumeNode) -> int:
    """3, or 2 for a volume of a single slice."""
    return 2 if volumeNode.GetImageData().GetDimensions()[2] == 1 else 3


@dataclass(frozen=True)
class Frame:
    """The coordinates in which the worker sees a pair.

    Attributes:
        dimension: 2 or 3.
        world: from the worker's to the world's coordinates, LPS: the identity in 3D.
        offset: from the fixed slice to the moving one along their normal, millimetres; 0 in 3D.
    """

    dimension: int
    world: np.ndarray
    offset: float = 0.0

    @classmethod
    def of(cls, fixedNode, movingNode) -> Frame:
        """The frame of a pair of volume nodes.

        Raises:
            RegistrationError: a parent is not linear, or two slices do not lie in parallel planes.
        """
        if dimension(fixedNode) == 3:
            return cls(3, np.eye(4))
        plane = planeOf(indexToWorld(fixedNode))
        moving = np.linalg.inv(plane) @ indexToWorld(movingNode)
        if np.abs(moving[2, :2]).max() > 1e-3 * np.abs(moving[:2, :2]).max():
            raise RegistrationError("The two slices do not lie in parallel planes: turn one of them first.")
        return cls(2, plane, float(moving[2, 3]))

    def seen(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix from anything to the world (LPS) as one to the worker's coordinates."""
        return np.linalg.inv(self.world) @ matrix

    def into(self, parent: np.ndarray) -> np.ndarray:
        """From the worker's coordinates to those below a parent (its matrix to the world, RAS), RAS."""
        return np.linalg.inv(parent) @ FLIP @ self.world

    def reversed(self) -> Frame:
        """For the map from moving to fixed points."""
        return Frame(self.dimension, self.world, -self.offset)

    def toDict(self) -> dict:
        """For the scene."""
        return {"dimension": self.dimension, "world": self.world.tolist(), "offset": self.offset}

    @classmethod
    def fromDict(cls, fields: dict) -> Frame:
        """From the scene."""
        return cls(fields["dimension"], np.array(fields["world"]), fields["offset"])


def planeOf(index: np.ndarray) -> np.ndarray:
    """Coordinates in the plane of a slice, to the world: x along i, y in the plane, z along the normal, origin at 0."""
    x = index[:3, 0] / np.linalg.norm(index[:3, 0])
    y = index[:3, 1] - x * (x @ index[:3, 1])
    y = y / np.linalg.norm(y)
    plane = np.eye(4)
    plane[:3, :3] = np.stack([x, y, np.cross(x, y)], axis=1)
    plane[:3, 3] = index[:3, 3]
    return plane
