"""The script that checks the papers' findings: what counts as a finding, and where it measures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs the extra 'train'")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import findings
from findings import Claim

LOW = np.linspace(1.0, 2.0, 12).repeat(2).reshape(12, 2).T  # two seeds, twelve pairs
GAIN = np.linspace(0.1, 0.3, 12)
SIGNS = np.tile([1, -1], 6)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((GAIN, 2 * GAIN), "holds"),
        ((-GAIN, -2 * GAIN), "does not hold"),
        ((-GAIN, 3 * GAIN), "undecided"),  # the seeds disagree
        ((GAIN * SIGNS, GAIN * SIGNS), "undecided"),  # the pairs do
        ((0 * GAIN, 0 * GAIN), "undecided"),
    ],
)
def test_a_claim_holds_only_where_pairs_and_seeds_agree(gains, verdict):
    assert Claim("", ("a", LOW), ("b", LOW + np.stack(gains))).verdict == verdict


def test_a_pair_without_a_value_is_left_out():
    high = LOW + GAIN
    high[0, 3] = np.nan
    claim = Claim("more helps", ("more", LOW), ("less", high))
    assert claim.differences.shape == (2, 11)
    assert claim.row("steps").startswith("| steps | more helps | more 1.50 ± 0.31, less ")
    assert "11 pairs) | holds |" in claim.row("steps")


def test_an_interface_is_where_the_displacement_jumps():
    truth = torch.zeros(1, 2, findings.SIDE, findings.SIDE)
    truth[:, 0, :, 20:] = 3.0  # two halves that slide along each other
    near = findings.interface(truth)[0, 0]
    columns = near.all(dim=0).nonzero().flatten().tolist()
    assert columns == list(range(19 - findings.NEAR, 20 + findings.NEAR))
    assert near.sum() == len(columns) * findings.SIDE
    assert not findings.interface(torch.full_like(truth, 3.0)).any()


def test_halves_slide_along_their_interface_alone():
    side = findings.SIDE
    truth = findings.Halves(3.0, 6.0)((side, side), torch.Generator().manual_seed(0))
    values = truth[0].flatten(1).T
    ends = values.unique(dim=0)
    assert len(ends) == 2  # each half moves as one
    assert 3.0 <= (ends[0] - ends[1]).norm() <= 6.0
    voxels = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    first = (values == ends[0]).all(dim=1)
    assert 0.2 < first.float().mean() < 0.8
    along = (ends[0] - ends[1]) / (ends[0] - ends[1]).norm()
    reach = voxels @ torch.stack([along[1], -along[0]])  # across the motion
    assert reach[first].max() < reach[~first].min() or reach[~first].max() < reach[first].min()
    assert findings.interface(truth).any()


def test_errors_are_taken_inside_the_object_alone():
    fixed = torch.zeros(2, 1, 8, 8)
    fixed[0, :, 2:6, 2:6] = 1
    truth = torch.zeros(2, 2, 8, 8)
    truth[0, 1, :4] = 2.0  # half of the object
    found = findings.errors([lambda fixed, moving, count: torch.zeros_like(truth)], (fixed, fixed, truth), None)
    assert found[0, 0] == 1.0
    assert np.isnan(found[0, 1])  # nothing to see in the second pair


def test_all_variants_see_the_same_pairs():
    draw = findings.of_length(findings.textures(3), 1.0, 1.0)
    first, second = findings.held_back(draw), findings.held_back(draw)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    lengths = first[2].norm(dim=1).flatten(1).mean(dim=1)
    assert lengths.tolist() == pytest.approx([1.0] * findings.TESTS, rel=1e-4)
