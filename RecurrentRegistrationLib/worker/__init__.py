"""The process behind the 3D Slicer module: `process` reads requests, `session` holds one registration."""

from RecurrentRegistrationLib.kernels import let_idle_threads_sleep


def serve() -> None:
    """Serve requests on standard input until it closes."""
    let_idle_threads_sleep()
    from RecurrentRegistrationLib.worker import process  # imports PyTorch

    process.serve()
