"""`python -m RecurrentRegistrationLib`: the commands."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line of this process and exit with its status."""
    try:  # the imports too, so that Ctrl-C is answered from the first moment on
        from RecurrentRegistrationLib.kernels import let_idle_threads_sleep

        let_idle_threads_sleep()
        from RecurrentRegistrationLib.cli import run
        from RecurrentRegistrationLib.cli.interruption import ignore, listen

        listen()
        status = run()
        ignore()
    except KeyboardInterrupt:
        status = 130
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print("error: The commands need more packages: pip install 'RecurrentRegistrationLib[cli]'.", file=sys.stderr)
        status = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # PyTorch takes long to unload, and HDF5 crashes while it unloads after a disk was full


if __name__ == "__main__":
    main()
