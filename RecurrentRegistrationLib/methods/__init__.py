"""The methods, one file each. A file is found by its name and offers `CARD` and `create(dimension, **options)`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from RecurrentRegistrationLib.errors import InputError
from RecurrentRegistrationLib.methods.base import Card, Method

__all__ = ["Card", "Method", "card", "create", "names"]


def names() -> list[str]:
    """Names of all methods, as on the command line."""
    files = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.name.startswith("_"))
    return sorted(name.replace("_", "-") for name in files)


def _module(name: str) -> Any:
    if name not in names():
        raise InputError(f"There is no method '{name}'; choose one of {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def card(name: str) -> Card:
    """The card of a method. Raises InputError for an unknown name."""
    return _module(name).CARD


def create(name: str, dimension: int = 3, **options: Any) -> Method:
    """A method for images of 2 or 3 dimensions; options are those of the method's own class.

    Raises:
        InputError: the name is unknown, the method does not serve this dimension, or it has no such options.
    """
    module = _module(name)
    if dimension not in module.CARD.dimensions:
        raise InputError(f"The method '{name}' does not register {dimension}D images.")
    try:
        return module.create(dimension, **options)
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise InputError(f"The method '{name}' cannot be made with these options: {error}.") from error
