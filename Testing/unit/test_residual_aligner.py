"""Parts of the residual aligner."""

from __future__ import annotations

import pytest
import torch

from RecurrentRegistrationLib.layers.residual_aligner import Alignment, ResidualAligner, SampleNorm, partner


def test_norm_is_over_space_and_channels_of_each_sample():
    features = torch.randn(3, 4, 5, 6) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1) + 7
    normed = SampleNorm()(features)
    torch.testing.assert_close(normed.mean((1, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normed.std((1, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert normed[0].mean((1, 2)).abs().max() > 0.05, "channels keep their differences"
    assert sum(p.numel() for p in SampleNorm().parameters()) == 2


def test_a_flat_sample_becomes_zero():
    assert not SampleNorm()(torch.full((1, 2, 3, 3), 4.0)).any()


def test_partner_is_the_other_image_of_the_pair():
    assert partner(torch.arange(6)).tolist() == [3, 4, 5, 0, 1, 2]


def test_upsampled_displacements_count_in_finer_voxels():
    alignment = Alignment(torch.ones(2, 2, 3, 4), torch.arange(24.0).view(2, 1, 3, 4))
    larger = alignment.upsampled(2)
    assert (larger.displacement == 2).all()
    assert larger.displacement.shape == (2, 2, 6, 8)
    assert torch.equal(larger.attributes[..., ::2, ::2], alignment.attributes)
    assert alignment.upsampled(1) is alignment


@pytest.mark.parametrize("heads", [1, 6])
@pytest.mark.parametrize("confident", [True, False])
def test_levels_follow_each_other(heads, confident):
    torch.manual_seed(0)
    aligner = ResidualAligner(2, [4, 6], [2, 1], heads=heads, confident=confident)
    features, alignment = aligner(0, torch.randn(4, 4, 5, 7), None)
    assert features.shape == (4, 4, 5, 7)
    assert alignment.displacement.shape == (4, 2, 5, 7)
    assert alignment.attributes.shape == (4, heads, 5, 7)
    assert (alignment.confidence is not None) == confident
    features, finer = aligner(1, torch.randn(4, 6, 5, 7), alignment)
    assert features.shape == (4, 6, 5, 7)
    assert not torch.equal(finer.displacement, alignment.displacement)


def test_both_directions_are_one_rule():
    """The images' sides exchanged, all results are exchanged."""
    torch.manual_seed(0)
    aligner = ResidualAligner(2, [4], [2])
    features = torch.randn(4, 4, 5, 7)
    there, back = aligner(0, features, None), aligner(0, partner(features), None)
    torch.testing.assert_close(partner(there[0]), back[0])
    torch.testing.assert_close(partner(there[1].displacement), back[1].displacement)


def test_what_was_found_before_shows_the_partner_shifted():
    """A partner that lies 2 voxels further is seen in place through a displacement of 2."""
    torch.manual_seed(0)
    aligner = ResidualAligner(2, [3, 3], [1, 1])
    own = torch.randn(1, 3, 8, 12)
    shifted = own.roll(2, dims=3)
    before = torch.zeros(2, 2, 8, 12)
    before[0, 1] = 2
    attributes = torch.zeros(2, 6, 8, 12)
    # A bias would show where the warp reads outside, so only the middle is compared.
    aligner.levels[1].resample.bias.data.zero_()
    seen = aligner._match(aligner.levels[1], torch.cat([own, shifted]), Alignment(before, attributes))
    level = aligner.levels[1]
    placed = level.resample(partner(torch.cat([own, own])))
    placed[0, ..., 10:] = 0
    placed[1] = level.resample(own)[0]
    first, second, third = level.match
    activate = torch.nn.functional.leaky_relu
    matched = activate(
        first(torch.cat([level.norm_self(torch.cat([own, shifted])), level.norm_partner(placed)], 1)), 0.01
    )
    expected = activate(third(activate(second(matched), 0.01)) + matched, 0.01)
    torch.testing.assert_close(seen[0], expected[0], atol=1e-5, rtol=1e-4)


def test_displacements_end_at_twice_the_image():
    aligner = ResidualAligner(2, [4], [1])
    with torch.no_grad():
        aligner.fuse_out.bias.fill_(1e6)
    displacement = aligner(0, torch.randn(2, 4, 5, 7), None)[1].displacement
    assert displacement.amax((0, 2, 3)).tolist() == [9, 13]


def test_displacements_stay_float32_in_half_precision():
    aligner = ResidualAligner(2, [4, 4], [2, 1])
    with torch.autocast("cpu", torch.bfloat16):
        features, alignment = aligner(0, torch.randn(2, 4, 5, 7), None)
        _, alignment = aligner(1, features, alignment)
    assert alignment.displacement.dtype == torch.float32
