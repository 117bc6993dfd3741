"""`worker`: the process that 3D Slicer drives."""

from __future__ import annotations


def worker() -> None:
    """Serve JSON lines on standard input and output, until standard input closes."""
    import signal

    from RecurrentRegistrationLib.cli.interruption import ASKED
    from RecurrentRegistrationLib.worker import serve

    for each in ASKED:  # Slicer ends its worker by them
        signal.signal(each, signal.SIG_DFL)
    serve()
