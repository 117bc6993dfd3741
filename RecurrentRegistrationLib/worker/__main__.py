"""`python -m RecurrentRegistrationLib.worker`: the process behind the 3D Slicer module."""

from RecurrentRegistrationLib.worker import serve

serve()
