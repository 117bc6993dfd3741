"""The panel of the module, one section of it a file. `Panel` is what the sections share.

Properties are read and written as PythonQt has them (`label.text`); what is connected to a signal takes no argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from RecurrentRegistrationSlicer.errors import FAILURES, sentence


@dataclass
class Panel:
    """What the sections share.

    Attributes:
        ui: the widgets of the .ui by their names.
        logic: the module's logic.
        changed: brings the whole panel up to date.
        tell: gives an event to all sections.
        parameters: the parameter node; None while there is no scene.
        message: what was last told beside the progress bar.
    """

    ui: Any
    logic: Any
    changed: Callable[[], None]
    tell: Callable[[dict], None]
    parameters: Any = None
    message: str = ""

    def attempt(self, action: Callable[..., Any], *arguments: Any, **settings: Any) -> bool:
        """Call an action of the logic; what forbids it is told in the panel. Whether it was done."""
        error = ""
        self.message = ""
        try:
            action(*arguments, **settings)
        except FAILURES as problem:
            error = sentence(problem)
        self.message = error or self.message
        self.changed()
        return not error
