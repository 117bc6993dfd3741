"""YAML of strangers: plain values, of a bounded size once its aliases are written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MOST = 100_000  # values of a file, aliases written out; the largest of ours has some hundreds


def read(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML of plain values, holds itself, or grows too large.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _require_bounded(yaml.compose(text, Loader=yaml.SafeLoader), {}, set())
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _require_bounded(node: yaml.Node | None, sizes: dict[int, int], above: set[int]) -> int:
    """Values below a node, itself included; each node is counted once, so that a bomb is found at once."""
    if id(node) in above:
        raise ValueError("it holds itself")
    if id(node) in sizes:
        return sizes[id(node)]
    above.add(id(node))
    below: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        below = node.value
    elif isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    sizes[id(node)] = 1 + sum(_require_bounded(each, sizes, above) for each in below)
    above.remove(id(node))
    if sizes[id(node)] > MOST:
        raise ValueError(f"more than {MOST} values, once its aliases are written out")
    return sizes[id(node)]
