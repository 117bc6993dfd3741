"""`methods`: what there is to choose from."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as one JSON array.")] = False,
) -> None:
    """List the methods and their cards."""
    from rich.console import Console
    from rich.table import Table

    from RecurrentRegistrationLib import methods, weights
    from RecurrentRegistrationLib.io.documents import to_json

    cards = [methods.card(name) for name in methods.names()]
    sets = {card.name: [m for m in weights.models() if m.method == card.name] for card in cards}
    if as_json:
        print(
            to_json([{**dataclasses.asdict(c), "weights": [m.card() for m in sets[c.name]]} for c in cards], indent=2)
        )
        return
    table = Table("Method", "For", "Steps", "Masks", "Weights", "What it does", box=None, pad_edge=False)
    for card in cards:
        dimensions = ", ".join(f"{d}D" for d in card.dimensions)
        present = "\n".join(f"{m.name} ({m.bytes / 1e6:.1f} MB, {m.sha256[:8]})" for m in sets[card.name])
        needed = "needs training" if card.trained else "none needed"
        masks = "used" if card.uses_masks else "not used"
        table.add_row(card.name, dimensions, str(card.default_steps), masks, present or needed, card.summary)
    Console().print(table)
