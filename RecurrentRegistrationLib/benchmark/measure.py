"""Run one command and write what it cost: python measure.py COST.json COMMAND...

A process of its own, as small as can be, because Linux counts the memory of the process that starts a command as the
command's own until it has grown beyond it. On Windows only the seconds are known.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time


def end_with(parent: int) -> None:
    """End this process and all of its group once its parent is gone: a killed benchmark leaves nothing at work."""
    while os.getppid() == parent:
        time.sleep(0.25)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Return the command's exit status, having written seconds and, where the system tells, CPU seconds and memory."""
    target, *command = sys.argv[1:]
    os.environ["BENCHMARK_STARTED"] = repr(time.time())
    start = time.perf_counter()
    if sys.platform == "win32":
        status = subprocess.call(command)
        cost: dict[str, float] = {}
    else:
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
        child = os.posix_spawnp(command[0], command, os.environ)
        _, waited, usage = os.wait4(child, 0)
        status = os.waitstatus_to_exitcode(waited)
        unit = 1024**2 if sys.platform == "darwin" else 1024
        cost = {
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_mib": round(usage.ru_maxrss / unit),
        }
    with open(target, "w", encoding="utf-8") as file:
        json.dump({"seconds": round(time.perf_counter() - start, 2), **cost}, file)
    return status


if __name__ == "__main__":
    sys.exit(main() & 0xFF)
