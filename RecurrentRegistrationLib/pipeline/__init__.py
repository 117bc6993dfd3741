"""From two volumes to a transform: options, plan, run. `start` gives a `Run` to iterate over, `register` its end."""

from RecurrentRegistrationLib.pipeline.options import Options
from RecurrentRegistrationLib.pipeline.registration import Registration
from RecurrentRegistrationLib.pipeline.run import Run, register, start

__all__ = ["Options", "Registration", "Run", "register", "start"]
