"""Linear attention against the quadratic one, and the aligner made of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from RecurrentRegistrationLib import spatial
from RecurrentRegistrationLib.layers.linear_attention import AttentionAligner, linear_attention
from RecurrentRegistrationLib.layers.residual_aligner import Alignment


def test_linear_attention_is_attention_with_its_kernel():
    """Every pair of voxels weighed by `f(q) . f(k)`, written out."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5)
    value = torch.randn(2, 7, 6, 5)
    q, k = (F.elu(x.flatten(2)) + 1 for x in (query, key))
    weight = torch.einsum("bcq,bck->bqk", q, k)
    weight = weight / weight.sum(dim=2, keepdim=True)
    expected = torch.einsum("bqk,bvk->bvq", weight, value.flatten(2)).view(2, 7, 4, 5)
    torch.testing.assert_close(linear_attention(query, key, value), expected)


def test_a_level_sees_its_partner_through_what_was_found_before():
    torch.manual_seed(0)
    aligner = AttentionAligner(2, [4, 6])
    one, other, before = torch.randn(1, 6, 5, 7), torch.randn(1, 6, 5, 7), torch.randn(1, 2, 5, 7)
    alone = aligner(1, torch.cat([one, spatial.warp(other, before)]), None)
    seen = aligner(1, torch.cat([one, other]), Alignment(torch.cat([before, torch.zeros_like(before)])))
    torch.testing.assert_close(seen[0][:1], alone[0][:1])
    torch.testing.assert_close(seen[1].displacement[:1], alone[1].displacement[:1] + before)
    assert alone[1].displacement.abs().max() < 0.01, "near zero at first"
    assert not torch.equal(alone[0][:1], one)
