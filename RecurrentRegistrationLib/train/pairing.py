"""Which cases form pairs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.train.cases import TRAIN, Case, Collection, Names

Pairing = Literal[
    "random", "inter-subject", "longitudinal", "same-group", "next", "reference", "within-group", "listed"
]

RULES = {
    "random": lambda fixed, moving: True,
    "inter-subject": lambda fixed, moving: fixed.subject != moving.subject,
    "longitudinal": lambda fixed, moving: fixed.subject == moving.subject,
    "same-group": lambda fixed, moving: fixed.subject != moving.subject and fixed.group == moving.group,
    "within-group": lambda fixed, moving: fixed.group == moving.group,
    "reference": lambda fixed, moving: fixed.reference and fixed.group == moving.group,
}


def pairs(cases: Sequence[Case], pairing: Pairing, collection: Collection, part: str) -> list[Names]:
    """All ordered pairs (fixed, moving) of a part that the pairing allows.

    Args:
        cases: of the part.
        pairing: "random" any two; "inter-subject" of different, "longitudinal" of the same subject; "same-group" of
            different subjects and the same group; "within-group" of the same group; "reference" a group's reference
            with each other one; "next" each with the following; "listed" those that the source lists.
        collection: for its lists.
        part: whose list.

    Raises:
        InputError: there is no such pair.
    """
    names = {case.name for case in cases}
    if pairing == "listed":
        found = [pair for pair in collection.pairs.get(part, ()) if names.issuperset(pair)]
    elif pairing == "next":
        found = [(a.name, b.name) for a, b in itertools.pairwise(cases)]
    else:
        rule = RULES[pairing]
        found = [
            (a.name, b.name)
            for group in _groups(cases, pairing)
            for a, b in itertools.permutations(group, 2)
            if rule(a, b)
        ]
    if not found:
        more = "" if part == TRAIN else ", for example data.init_args.split={train: 8, validation: 2, test: 0}"
        raise InputError(
            f"There is no pair for {part}: the pairing '{pairing}' finds none in {len(cases)} cases; "
            f"change the pairing or the split{more}."
        )
    return found


def _groups(cases: Sequence[Case], pairing: Pairing) -> list[list[Case]]:
    """Cases that can form pairs at all, so that long series do not try each frame with each other."""
    if pairing not in ("reference", "within-group", "same-group"):
        return [list(cases)]
    groups = defaultdict(list)
    for case in cases:
        groups[case.group].append(case)
    return list(groups.values())


def spread(found: Sequence[Names], limit: int | None) -> list[Names]:
    """At most `limit` of the pairs, evenly spread."""
    if limit is None or len(found) <= limit:
        return list(found)
    return [found[n * len(found) // limit] for n in range(limit)]
