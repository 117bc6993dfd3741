"""The U-net backbone: its sizes, and the parameter counts of the published networks that are made of it."""

import pytest
import torch

from RecurrentRegistrationLib.layers.unet import UNet, displacement_unet, legacy_widths

VM_RIIR = {"encoder": (16, 16, 32, 32, 32), "decoder": ((32,), (32,), (32,), (16,), (16,), (8,))}


@pytest.mark.parametrize(
    ("widths", "dimension", "expected"),
    [(legacy_widths(16), 3, 355_875), (legacy_widths(32), 3, 1_416_771), (VM_RIIR, 3, 254_499), (VM_RIIR, 2, 84_938)],
)
def test_counts_of_published_networks(widths, dimension, expected):
    assert sum(p.numel() for p in displacement_unet(dimension, **widths).parameters()) == expected


@pytest.mark.parametrize("shape", [(33, 18), (7, 5), (17, 9, 12), (1, 40)])
def test_any_size_without_padding(shape):
    net = UNet(len(shape), 2, encoder=(4, 4, 4), decoder=((4,), (4,), (4,), (3,)))
    assert net(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)


def test_every_level_meets_its_skip():
    """Zeroing the coarse path must leave a result that still depends on the image, through the last skip."""
    net = UNet(2, 1, encoder=(4,), decoder=((4,), (2,)))
    with torch.no_grad():
        net.decoder[0][0][0].weight.zero_()
    image = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(net(image), net(2 * image))


@pytest.mark.parametrize(("shape", "half"), [((33, 18), (17, 9)), ((8, 12, 16), (4, 6, 8))])
def test_as_many_levels_as_convolutions_end_at_half_the_size(shape, half):
    net = UNet(len(shape), 2, encoder=(4, 4), decoder=((4,), (3,)))
    assert net(torch.randn(1, 2, *shape)).shape == (1, 3, *half)


@pytest.mark.parametrize("decoder", [((4,),), ((4,), (4,), (4,), (4,))])
def test_decoder_needs_a_level_for_each_size(decoder):
    with pytest.raises(ValueError, match="2 encoder convolutions need as many decoder levels, or one more"):
        UNet(2, 1, encoder=(4, 4), decoder=decoder)
