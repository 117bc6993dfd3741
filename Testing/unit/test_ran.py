"""RAN: published sizes, variants, the grids of its steps, both directions."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.layers.residual_aligner import ResidualAligner
from RecurrentRegistrationLib.methods import ran
from RecurrentRegistrationLib.methods.base import Turn
from RecurrentRegistrationLib.methods.ran import MotionSeparableNetwork, Structure, on_extent
from RecurrentRegistrationLib.metrics.separability import cell_sizes

SMALL = Structure((2, 2, 1), (2, 1, 1), skips=3, first=1, encoder=(2, 4), decoder=(4, 4, 3))


def small(dimension: int) -> MotionSeparableNetwork:
    torch.manual_seed(0)
    return MotionSeparableNetwork(dimension, SMALL, ResidualAligner).eval()


def parameters(method: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in method.parameters())


def test_released_network_has_its_published_size():
    assert parameters(ran.create(3)) == 738_065
    assert parameters(ran.create(3, confident=False)) == 738_030


@pytest.mark.parametrize(("variant", "count"), [("ran0", 631_161), ("ran4", 661_729), ("ran4+", 687_665)])
def test_sizes_of_the_other_variants(variant, count):
    assert parameters(ran.create(3, variant=variant)) == count


@pytest.mark.parametrize(("variant", "common"), [("ran0", 0), ("ran3", 3), ("ran4", 4), ("ran4+", 4)])
def test_variants_raise_as_many_levels_as_they_say(variant, common):
    assert list(ran.STRUCTURES[variant].scales) == cell_sizes(5, common)


@pytest.mark.parametrize("variant", ran.STRUCTURES)
@pytest.mark.parametrize("options", [{}, {"heads": 1}, {"confident": False}])
@pytest.mark.parametrize("shape", [(9, 14), (3, 6, 5)])
def test_every_variant_runs_with_every_ablation(variant, options, shape):
    torch.manual_seed(0)
    method = ran.create(len(shape), variant=variant, **options).eval()
    with torch.no_grad():
        steps = list(method.steps(torch.rand(1, 1, *shape), torch.rand(1, 1, *shape)))
    scales = ran.STRUCTURES[variant].scales
    assert [tuple(step.values.shape[2:]) for step in steps] == [tuple(-(-n // s) for n in shape) for s in scales]
    assert all(("confidence" in step.attached) == options.get("confident", True) for step in steps)


@pytest.mark.parametrize("shape", [(13, 10), (7, 6, 9)])
def test_exchanged_images_exchange_the_directions(shape):
    method, fixed, moving = small(len(shape)), torch.rand(2, 1, *shape), torch.rand(2, 1, *shape)
    with torch.no_grad():
        there, back = list(method.steps(fixed, moving)), list(method.steps(moving, fixed))
    for step, other in zip(there, back, strict=True):
        torch.testing.assert_close(step.attached["backward"], other.values)


@pytest.mark.parametrize(("variant", "padded"), [("ran0", (32, 48)), ("ran3", (18, 34)), ("ran4", (18, 34))])
def test_images_are_padded_no_more_than_the_levels_need(variant, padded):
    image = torch.rand(1, 1, 17, 33)
    step = next(ran.create(2, variant=variant).steps(image, image))
    assert tuple(2 * n for n in step.state.skips[0].shape[2:]) == padded


def test_features_of_a_depth_lie_over_the_voxels_that_they_were_pooled_from():
    fine, deep = torch.zeros(1, 1, 9, 7), torch.arange(6.0).view(1, 1, 3, 2)
    deepest = ran._at(2, (fine, torch.zeros(1, 1, 5, 4), deep), 0)
    assert deepest.shape == fine.shape
    for i, j in ((0, 0), (3, 3), (4, 4), (8, 6)):
        assert deepest[0, 0, i, j] == deep[0, 0, i // 4, j // 4]


def test_both_directions_learn():
    method = small(2)
    step = list(method.steps(torch.rand(1, 1, 12, 8), torch.rand(1, 1, 12, 8)))[-1]
    step.attached["backward"].square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_more_steps_than_levels_are_refused():
    method, image = small(2), torch.rand(1, 1, 8, 8)
    steps = list(method.steps(image, image))
    assert len(steps) == 3
    with pytest.raises(InputError, match="3 of its 3 levels left"):
        next(method.steps(image, image, count=4))
    with pytest.raises(InputError, match="0 of its 3 levels left"):
        next(method.steps(image, image, count=1, state=steps[-1].state))


@pytest.mark.parametrize("shape", [(11, 16), (9, 14, 11)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_pooled_grids_are_laid_over_the_image(shape, scale):
    """A displacement linear in the image's voxels, written at the centres of pooled voxels, comes back as it was."""
    dimension = len(shape)
    pooled = [-(-n // scale) + 2 for n in shape]  # padding reaches further than the image
    centres = torch.stack(
        torch.meshgrid(*[scale * torch.arange(float(n)) + (scale - 1) / 2 for n in pooled], indexing="ij")
    )
    slopes = torch.tensor([0.1, -0.2, 0.3])[:dimension].view(1, -1, *[1] * dimension)
    values = on_extent(slopes * centres.unsqueeze(0) / scale, scale, shape)
    step = Turn(1, "", values, shape)
    voxels = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))
    # Outside the outermost centres the pooled grid knows nothing: its edge values go on there.
    inside = (..., *[slice(scale + 1, None)] * dimension)
    expected = (slopes * voxels).expand(1, -1, *shape)
    torch.testing.assert_close(step.displacement[inside], expected[inside], atol=1e-4, rtol=0)


def test_unknown_variants_are_refused():
    with pytest.raises(InputError, match="no variant 'ran9'"):
        ran.create(3, variant="ran9")
