"""The panel of the module, one section of it a file. `Panel` is what the sections share.

Properties are read and written as PythonQt has them (`label.text`); what is connected to a signal takes no argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from RecurrentRegistrationSlicer.errors import RegistrationError


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
        except RegistrationError as problem:
            error = str(problem)
        except (OSError, RuntimeError) as problem:  # of writing the worker's files, by Python or by ITK
            reason = getattr(problem, "strerror", None) or str(problem).strip().splitlines()[-1]
            error = _("Temporary files cannot be written ({reason}): make room on the disk.").format(reason=reason)
        self.message = error or self.message
        self.changed()
        return not error
