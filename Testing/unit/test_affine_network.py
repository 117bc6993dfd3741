"""The affine network: the paper's parameter count, any size, identity at the start."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib.layers.affine_map import affine_displacement, identity_affine
from RecurrentRegistrationLib.layers.affine_network import AffineNetwork


def test_flattened_variant_has_the_published_count() -> None:
    assert sum(p.numel() for p in AffineNetwork(3, image_shape=(80, 192, 192)).parameters()) == 147_920


@pytest.mark.parametrize("shape", [(33, 50), (5, 200), (20, 34, 65)])
def test_any_size_moves_almost_nothing_at_the_start(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 2, 1, *shape)
    affine = AffineNetwork(len(shape))(*images)
    assert affine.shape == (2, len(shape), len(shape) + 1)
    assert affine_displacement(affine, shape).abs().max() < 0.01
    assert not torch.equal(affine, identity_affine(2, len(shape), affine))


def test_flattened_variant_reads_one_size_only() -> None:
    network = AffineNetwork(2, image_shape=(40, 64), identity_residual=False)
    assert network(*torch.rand(2, 1, 1, 40, 64)).shape == (1, 2, 3)
    with pytest.raises(ValueError, match=r"\(40, 64\)"):
        network(*torch.rand(2, 1, 1, 64, 64))


def test_without_residual_the_map_itself_is_predicted() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 1, 32, 32)
    network = AffineNetwork(2, identity_residual=False)
    residual = AffineNetwork(2)
    residual.load_state_dict(network.state_dict())
    identity = identity_affine(1, 2, images)
    torch.testing.assert_close(residual(*images), network(*images) + identity)


def test_the_order_of_the_images_matters_and_background_is_zero() -> None:
    torch.manual_seed(0)
    network, (a, b) = AffineNetwork(2, identity_residual=False), torch.rand(2, 1, 1, 32, 32)
    assert not torch.allclose(network(a, b), network(b, a))
    framed = torch.nn.functional.pad(a, [2, 2, 2, 2]), torch.nn.functional.pad(b, [2, 2, 2, 2])
    wider = torch.nn.functional.pad(framed[0], [1] * 4), torch.nn.functional.pad(framed[1], [1] * 4)
    torch.testing.assert_close(network(*framed), network(*wider))
