"""Grids, parts of transforms, and nodes that are updated in place."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="3D Slicer's core is not installed: pip install slicer-core")

import SimpleITK as sitk
import slicer
from RecurrentRegistrationSlicer import transforms
from RecurrentRegistrationSlicer.frame import FLIP, Frame, parentTransform
from RecurrentRegistrationSlicer.transforms import Field
from registered import accepted, pair

GRID = {
    "size": [9, 5, 3],
    "spacing": [1.0, 2.0, 4.0],
    "origin": [3.0, -4.0, 5.0],
    "direction": [0, 1, 0, 1, 0, 0, 0, 0, 1],
}


def test_a_coarser_grid_keeps_its_outer_nodes():
    found = transforms.coarser(GRID, 3.0)
    assert found["size"] == [4, 4, 3]
    ends = [np.array(each["size"]) - 1 for each in (GRID, found)]
    corners = [transforms.indexOf(each)[:3, :3] @ end for each, end in zip((GRID, found), ends, strict=True)]
    assert np.allclose(*corners)
    assert transforms.coarser(GRID, None) is GRID


def test_parts_are_applied_in_the_order_of_the_file(tmp_path):
    first, second = sitk.TranslationTransform(3, [1, 0, 0]), sitk.AffineTransform(3)
    second.Scale(2.0)
    chain = sitk.CompositeTransform([second, first])  # ITK applies the last one first
    sitk.WriteTransform(chain, str(tmp_path / "chain.h5"))
    parts = transforms.readParts(tmp_path / "chain.h5", Frame(3, np.eye(4)))
    made = transforms.vtkTransformOf(parts, FLIP)
    assert np.allclose(made.TransformPoint(-3, 0, 0), [-8, 0, 0])  # RAS: 3 + 1, doubled, towards the left


def test_a_map_in_a_plane_stays_there(tmp_path):
    sitk.WriteTransform(sitk.TranslationTransform(2, [1, 2]), str(tmp_path / "flat.tfm"))
    parts = transforms.readParts(tmp_path / "flat.tfm", Frame(2, np.eye(4), offset=5.0))
    made = transforms.vtkTransformOf(parts, np.eye(4))
    assert np.allclose(made.TransformPoint(0, 0, 7), [1, 2, 12])


def test_interpolation_is_linear():
    vectors = np.zeros((3, 3, 3, 3), np.float32)
    vectors[1, 1, 1] = (1, 0, 0)
    made = transforms.gridTransform(Field(vectors, np.eye(4)), np.eye(4))
    assert made.TransformPoint(1.25, 1, 1)[0] == pytest.approx(2.0)


def test_outside_of_its_grid_a_field_goes_on_as_at_its_edge():
    vectors = np.ones((3, 3, 3, 3), np.float32)
    made = transforms.gridTransform(Field(vectors, np.eye(4)), np.eye(4))
    assert made.TransformPoint(50, 1, 1) == pytest.approx((51, 2, 2))


def test_a_node_that_is_updated_stays_the_same_node_and_says_so(scene, tmp_path):
    case = pair("regular", "no parent")
    run, result = accepted(case, tmp_path)
    heard = []
    node = result.transformNode
    node.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, lambda *_: heard.append(1))
    transforms.updateTransform(node, transforms.vtkTransformOf([np.eye(4)], np.eye(4)), role="result")
    assert len(heard) == 1
    assert node.GetTransformFromParent().TransformPoint(1, 2, 3) == pytest.approx((1, 2, 3))
    assert parentTransform(case.movingNode) is None  # what a run has put there is none of its own
    assert run.referred("result") is node
