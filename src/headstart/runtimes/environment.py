"""What is installed, and on what machine: for ``doctor --env`` and the record of a run."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from typing import Any

from headstart import __version__
from headstart.runtimes import RUNTIMES, get_version
from headstart.runtimes.memory import describe_machine


def describe_environment() -> dict[str, Any]:
    """Versions (None where not installed), and the machine; nothing heavy is imported."""
    return {
        "python": platform.python_version(),
        "headstart": __version__,
        "packages": _list_versions(),
        "machine": describe_machine(),
        "cores": os.cpu_count(),
        "memory_bytes": get_memory_bytes(),
    }


def _list_versions() -> dict[str, str | None]:
    """Version by package; None where it is not installed."""
    names = ("tensorflow", "keras", *(runtime.packages[0] for runtime in RUNTIMES.values()))
    return {
        name: get_version(name) if importlib.util.find_spec(name) else None
        for name in dict.fromkeys(names)
    }


def get_memory_bytes() -> int | None:
    """The machine's memory, or None where the system does not tell."""
    if sys.platform == "win32":
        return _get_windows_memory()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _get_windows_memory() -> int | None:  # pragma: no cover
    import ctypes

    kilobytes = ctypes.c_ulonglong()
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    found = kernel.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
    return kilobytes.value * 1024 if found else None
