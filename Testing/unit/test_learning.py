"""Every method with weights learns: trained for some seconds on tiny pairs, it finds most of what it should find.

It is trained on the same few pairs that it is measured on: this shows that the gradients lead somewhere. How well it
does on pairs that it has not seen takes minutes: `Testing/benchmarks/learning.py`.
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

SHAPES = {2: (32, 28), 3: (16, 20, 18)}
# Iterations, pairs, and how many times smaller than that of no displacement the error must become.
GOALS = {
    ("avsm", 2): (50, 4, 1.5),
    ("cross-attention", 2): (150, 4, 2.0),
    ("dual-prnet", 2): (130, 4, 4.0),
    ("global-local", 2): (140, 4, 2.0),
    ("gradirn", 2): (60, 4, 2.5),
    ("lapirn", 2): (70, 4, 2.0),
    ("r2n2", 2): (40, 2, 1.2),
    ("ran", 2): (50, 4, 1.4),
    ("rcn", 2): (110, 4, 1.4),
    ("riir", 2): (50, 4, 1.4),
    ("rwcnet", 2): (40, 4, 2.0),
    ("voxelmorph", 2): (150, 4, 5.0),
    ("voxelmorph", 3): (60, 4, 1.6),
}


def test_all_methods_with_weights_have_a_recipe_and_a_goal():
    trained = {name for name in methods.names() if methods.card(name).trained}
    assert set(learning.RECIPES) == trained == {name for name, _ in GOALS}


@pytest.mark.parametrize(("name", "dimension"), GOALS, ids=[f"{name}-{dimension}d" for name, dimension in GOALS])
def test_it_learns(name, dimension, monkeypatch):
    monkeypatch.setattr(learning, "SHAPES", SHAPES)
    iterations, count, factor = GOALS[name, dimension]
    recipe = replace(learning.RECIPES[name], iterations=iterations)
    torch.manual_seed(0)
    method = methods.create(name, dimension, **recipe.options).eval()
    known = learning.pairs(dimension, count, torch.Generator().manual_seed(1))
    before = learning.error(torch.zeros_like(known[2]), known[2])
    learning.train(method, recipe, lambda: known, dimension)
    assert learning.measured(method, recipe, *known) < before / factor
