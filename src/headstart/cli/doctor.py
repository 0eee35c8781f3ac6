"""``headstart doctor --env``: what is installed, and which runtime is fastest on this machine."""

from __future__ import annotations

import os
import platform
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from headstart.runtimes.measure import Choice, Measurement


def doctor(
    env: Annotated[
        bool, typer.Option("--env", help="The environment: packages, machine, cache, runtimes.")
    ] = False,
    backbone: Annotated[
        str, typer.Option(help="What the runtimes are measured on.")
    ] = "efficientnet-lite0",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Look at the environment: what is installed, and which runtime is fastest here.

    Times every installed runtime, compares it with TensorFlow, and remembers the fastest that
    agrees for the runs with the runtime auto. Takes ten to thirty seconds.
    """
    from headstart.cli import output as out
    from headstart.features.choice import measure_prefix
    from headstart.models.loaders import load_prefix

    if not env:
        raise typer.BadParameter(
            "doctor has one examination so far, of the environment: headstart doctor --env",
            param_hint="--env",
        )
    environment = describe_environment()
    prefix = load_prefix(backbone)
    if not as_json:
        _print_environment(environment)
    choice = measure_prefix(prefix)
    if as_json:
        runtimes = [_describe(measurement, choice) for measurement in choice.measurements]
        chosen = {"backbone": backbone, "runtimes": runtimes, "chosen": choice.chosen}
        out.print_json({**environment, **chosen})
        return
    out.stdout().print(f"\n{backbone}, one batch per core:")
    out.print_rows(
        (_row(measurement, choice) for measurement in choice.measurements),
        *("runtime", "photos per second", "error against TensorFlow", ""),
    )


def describe_environment() -> dict[str, Any]:
    """Versions (None where not installed), machine, and cache; nothing heavy is imported."""
    from headstart import __version__
    from headstart.features.maintenance import describe_cache
    from headstart.files import cache_folder
    from headstart.runtimes.measure import describe_machine

    return {
        "python": platform.python_version(),
        "headstart": __version__,
        "packages": _list_versions(),
        "machine": describe_machine(),
        "cores": os.cpu_count(),
        "memory_bytes": get_memory_bytes(),
        "cache": {
            "folder": str(cache_folder()),
            "bytes": sum(space["bytes"] for space in describe_cache()),
        },
    }


def _list_versions() -> dict[str, str | None]:
    """Version by package; None where it is not installed."""
    import importlib.util

    from headstart.runtimes import RUNTIMES, get_version

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


def _print_environment(environment: dict[str, Any]) -> None:
    from headstart.cli import output as out

    memory, cache = environment["memory_bytes"], environment["cache"]
    rows = {
        "Python": environment["python"],
        "headstart": environment["headstart"],
        **{name: version or "not installed" for name, version in environment["packages"].items()},
        "machine": environment["machine"],
        "memory": f"{memory / 1e9:,.1f} GB" if memory else "not known",
        "cache": f"{cache['folder']}, {cache['bytes'] / 1e6:,.1f} MB of activations",
    }
    out.print_rows(rows.items(), "environment", "")


def _describe(measurement: Measurement, choice: Choice) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **asdict(measurement),
        "agrees": measurement.agrees,
        "is_chosen": measurement.runtime == choice.chosen,
    }


def _row(measurement: Measurement, choice: Choice) -> tuple[str, str, str, str]:
    speed, error = measurement.photos_per_second, measurement.relative_error
    says = "chosen" if measurement.runtime == choice.chosen else ""
    return (
        measurement.runtime,
        "" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.2g}",
        "" if error is None else f"{error:.1e}",
        ", ".join(filter(None, (says, measurement.problem))),
    )
