"""GraDIRN's own facts: its blocks, levels and what they descend on."""

import pytest
import torch

from RecurrentRegistrationLib import methods, spatial
from RecurrentRegistrationLib.errors import InputError


def pair(shape, batch=1):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2 * batch, 1, *shape, generator=generator)
    return spatial.gaussian_smooth(images, 1.5).chunk(2)


@pytest.mark.parametrize(
    ("dimension", "options", "expected"),
    [(2, {}, 177_042), (3, {}, 179_976), (3, {"blocks": 3, "repeats": 1}, 539_928)],
)
def test_counts(dimension, options, expected):
    """The published counts of the networks, and one step size for each block."""
    method = methods.create("gradirn", dimension, **options)
    assert sum(parameter.numel() for parameter in method.parameters()) == expected


def test_two_levels_of_three_steps():
    fixed, moving = pair((9, 21))
    with torch.no_grad():
        steps = list(methods.create("gradirn", 2).steps(fixed, moving))
    assert [step.stage for step in steps] == [f"{name} {i}" for name in ("1/2 res", "full res") for i in (1, 2, 3)]
    assert [tuple(step.values.shape[2:]) for step in steps] == [(5, 11)] * 3 + [(9, 21)] * 3


@pytest.mark.parametrize("similarity", ["mse", "ncc"])
@pytest.mark.parametrize("shape", [(15, 22), (9, 12, 11)])
def test_without_the_networks_it_descends_by_the_step_size(similarity, shape):
    method = methods.create("gradirn", len(shape), similarity=similarity, levels=1)
    for block in method.blocks:
        for parameter in block.network.parameters():
            parameter.data.zero_()
    fixed, moving = pair(shape)
    with torch.no_grad():
        first, *_ = method.steps(fixed, moving)
    expected = -method.blocks[0].step_size * 10 * first.attached["gradient"]
    torch.testing.assert_close(first.values, expected)
    assert first.values.abs().max() > 0


def test_repeats_share_a_block_and_steps_beyond_repeat_the_last():
    method = methods.create("gradirn", 3, levels=2)
    used = []
    for i, block in enumerate(method.blocks):
        block.register_forward_hook(lambda *_, i=i: used.append(i))
    with torch.no_grad():
        list(method.steps(*pair((8, 9, 10)), count=8))
    assert used == [0, 0, 0, 1, 1, 1, 1, 1]


def test_the_graph_passes_through_the_gradient_where_asked():
    fixed, moving = pair((12, 14))
    found = {}
    for create_graph in (True, False):
        torch.manual_seed(0)
        method = methods.create("gradirn", 2, create_graph=create_graph)
        method(fixed, moving).square().sum().backward()
        found[create_graph] = method.blocks[0].network[0].weight.grad
    assert not torch.allclose(found[True], found[False], rtol=1e-3)


def test_masked_voxels_do_not_pull():
    fixed, moving = pair((16, 20))
    mask = torch.zeros_like(fixed)
    mask[..., :10] = 1
    with torch.no_grad():
        first, *_ = methods.create("gradirn", 2, levels=1).steps(fixed, moving, fixed_mask=mask)
    gradient = first.attached["gradient"]
    assert not gradient[..., 10:].any()
    assert gradient[..., :10].any()


def test_an_unknown_similarity_is_refused():
    with pytest.raises(InputError, match="no similarity 'ssd'; choose one of mse, ncc"):
        methods.create("gradirn", similarity="ssd")
