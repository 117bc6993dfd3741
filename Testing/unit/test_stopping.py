"""Patience with a sign."""

from __future__ import annotations

import torch

from RecurrentRegistrationLib.layers.stopping import Patience


def test_stops_after_low_signs_in_a_row_and_stays_stopped():
    patience = Patience(threshold=1.0, steps=2)
    low = torch.zeros(3)
    for signs in ([0.5, 0.5, 2.0], [0.5, 1.5, 0.5], [9.0, 0.5, 9.0]):
        low = patience.count(low, torch.tensor(signs))
    assert patience.stopped(low).tolist() == [True, False, False]
    assert low.tolist() == [2, 1, 0]
