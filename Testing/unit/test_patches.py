"""Patches: what is cut and joined again is what it was, and seams are blended."""

import pytest
import torch

from RecurrentRegistrationLib.layers.patches import Patches


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
@pytest.mark.parametrize(("shape", "count", "multiple"), [((17, 30), 2, 8), ((9, 12, 23), 3, 2), ((5, 6), 1, 8)])
def test_joined_patches_are_the_grid(shape, count, multiple, overlap):
    values = torch.rand(2, 3, *shape)
    patches = Patches(shape, count, overlap=overlap, multiple=multiple)
    cut = patches.cut(values)
    assert all(patch.shape[2:] == patches.size for patch in cut)
    assert all(side % multiple == 0 for side in patches.size)
    torch.testing.assert_close(patches.join(cut), values)


def test_side_by_side_there_are_as_many_as_asked_for():
    assert len(Patches((40, 48, 56), 2, multiple=8).regions) == 8
    assert Patches((40, 48, 56), 2, multiple=8).size == (24, 24, 32)
    assert len(Patches((40, 48, 56), 2, multiple=8, overlap=0.3).regions) > 8


def test_short_axes_are_not_cut():
    assert len(Patches((40, 20), 2, smallest=16).regions) == 2


def test_a_seam_fades_from_one_patch_to_the_next():
    patches = Patches((16,), 1, overlap=0.5)
    patches = Patches((24,), 2, overlap=0.5)
    levels = [torch.full((1, 1, *patches.size), float(i)) for i in range(len(patches.regions))]
    joined = patches.join(levels).flatten()
    assert (joined.diff() >= 0).all()
    assert joined.diff().max() < 0.2
    assert joined[0] == 0


def test_gradients_pass():
    values = torch.rand(1, 1, 9, 11, requires_grad=True)
    patches = Patches((9, 11), 2, overlap=0.25)
    patches.join(patches.cut(values)).sum().backward()
    torch.testing.assert_close(values.grad, torch.ones_like(values))
