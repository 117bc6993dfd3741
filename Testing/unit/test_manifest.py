"""Manifests of strangers: whatever stands where, they are read or refused in one sentence."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from RecurrentRegistrationLib.benchmark import manifest
from RecurrentRegistrationLib.errors import InputError

WHOLE: dict[str, Any] = {
    "name": "set",
    "accuracy": "tre_mm",
    "against": "ours",
    "repeats": 1,
    "timeout": 3600,
    "uncertainty": ["steps"],
    "motion": False,
    "methods": {"ours": {"method": "refine"}, "greedy": "greedy", "tool": {"command": "tool {fixed}"}},
    "pairs": [
        {
            "name": "p",
            "fixed": "a.mha",
            "moving": "b.mha",
            "structures": {"liver": 5, "aorta": [23, 7]},
            "reference": [{"file": "a.txt", "inverse": True}],
            "region": {"file": "b.nii.gz", "through": [{"file": "a.txt"}]},
        }
    ],
}
ODD = (5, -1, "x", [], {}, None, True, [[]], [None], {5: 6}, {"a": {"b": [1]}})


def places(tree: Any, above: tuple = ()) -> Iterator[tuple]:
    """The path to every entry of nested dictionaries and lists."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield (*above, key)
        yield from places(value, (*above, key))


def test_an_entry_of_another_kind_is_one_sentence(tmp_path):
    file, said = tmp_path / "m.yaml", list[str]()
    for place in places(WHOLE):
        for odd in ODD:
            content = copy.deepcopy(WHOLE)
            branch = content
            for key in place[:-1]:
                branch = branch[key]
            branch[place[-1]] = odd
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
            try:
                manifest.read(file, tmp_path, check=False)
            except InputError as error:
                said.append(str(error))
    assert len(said) > 100
    assert not [sentence for sentence in said if "\n" in sentence]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("repeats", 1.5, "'repeats' is a whole number above 0"),
        ("threads", True, "'threads' is a whole number above 0"),
        ("timeout", -1, "'timeout' is a number above 0"),
        ("motion", "yes", "'motion' is true or false"),
        ("methods", 5, "of another kind"),
        ("pairs", [None], "of another kind"),
    ],
)
def test_settings_of_another_kind_are_named(tmp_path, key, value, sentence):
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(WHOLE | {key: value}), encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        manifest.read(tmp_path / "m.yaml", tmp_path, check=False)
