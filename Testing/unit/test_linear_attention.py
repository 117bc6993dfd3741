"""Linear attention against the quadratic one, and the aligner made of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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


def test_displacements_add_to_what_was_found_before():
    torch.manual_seed(0)
    aligner = AttentionAligner(2, [4, 6])
    features, before = torch.randn(4, 6, 5, 7), Alignment(torch.randn(4, 2, 5, 7))
    alone, added = aligner(1, features, None), aligner(1, features, before)
    torch.testing.assert_close(added[1].displacement, alone[1].displacement + before.displacement)
    assert alone[1].displacement.abs().max() < 0.01, "near zero at first"
    torch.testing.assert_close(added[0], alone[0])
    assert not torch.equal(alone[0], features)
