"""`worker`: the process that 3D Slicer drives."""

from __future__ import annotations


def worker() -> None:
    """Serve JSON lines on standard input and output, until standard input closes."""
    from RecurrentRegistrationLib.worker import serve

    serve()
