"""Every method with weights learns: after some iterations it is better than no displacement, by one bound for all.

It is measured on the pairs that it is trained on: this shows that the gradients lead somewhere. How well a method does
on pairs that it has not seen takes minutes: `Testing/benchmarks/learning.py`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from RecurrentRegistrationLib import methods

pytest.importorskip("lightning", reason="training needs the extra 'train'")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import learning

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPES = {2: (28, 24)}
ITERATIONS, PAIRS = 40, 2
TRAINED = [name for name in methods.names() if methods.card(name).trained]


def test_all_methods_with_weights_have_a_recipe():
    assert sorted(learning.RECIPES) == TRAINED


@pytest.mark.parametrize("name", TRAINED)
def test_it_learns(name, monkeypatch):
    monkeypatch.setattr(learning, "SHAPES", SHAPES)
    recipe = replace(learning.RECIPES[name], iterations=ITERATIONS)
    torch.manual_seed(0)
    method = methods.create(name, 2, **recipe.options).eval()
    known = learning.pairs(2, PAIRS, torch.Generator().manual_seed(1))
    before = learning.error(torch.zeros_like(known[2]), known[2])
    learning.train(method, recipe, lambda: known, 2)
    assert learning.measured(method, recipe, *known) < 0.95 * before
