"""How much memory there is."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch

from RecurrentRegistrationLib.errors import OutOfMemoryError, is_out_of_memory

T = TypeVar("T")

UNKNOWN = 8 * 2**30  # where the system does not tell


def available(device: torch.device) -> int:
    """Bytes that a new job may take on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if sys.platform.startswith("linux"):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), UNKNOWN)
        return min(free, _group_limit())
    if sys.platform == "win32":
        return _windows()
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS tells the total only
    return UNKNOWN


def peak() -> int:
    """Most bytes this process has held so far; 0 where the system does not tell."""
    status = Path("/proc/self/status")  # Linux's getrusage begins with what the parent held when it started this one
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def _group_limit() -> int:
    """What a container leaves of its limit."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        return int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no limit
        return sys.maxsize


def _windows() -> int:
    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *[
                (name, ctypes.c_ulonglong)
                for name in ("total", "free", "page", "free_page", "virtual", "free_virtual", "x")
            ],
        ]

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        return UNKNOWN
    return int(status.free)


def guarded(items: Iterator[T]) -> Iterator[T]:
    """The items. Raises OutOfMemoryError, with advice, where one of them did not fit."""
    try:
        yield from items
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                "There is not enough memory: close other programs or give a coarser working spacing."
            ) from error
        raise
