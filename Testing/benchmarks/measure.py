"""Run one command and write what it cost: python measure.py COST.json COMMAND...

A process of its own, as small as can be, because Linux counts the memory of the process that starts a command as the
command's own until it has grown beyond it. Linux and macOS.
"""

import json
import os
import sys
import time


def main() -> int:
    """Return the command's exit status, having written seconds, cpu_seconds and peak_mib."""
    target, *command = sys.argv[1:]
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    unit = 1024**2 if sys.platform == "darwin" else 1024
    cost = {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / unit),
    }
    with open(target, "w") as file:
        json.dump(cost, file)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main() & 0xFF)
