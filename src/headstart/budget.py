"""A time budget: how much is left, and an end that is reached in good order."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from headstart.errors import HeadstartError

# Where none is given: what the recipe ``auto`` may take beyond what every recipe needs.
DEFAULT_SECONDS = 120.0

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


class OutOfTimeError(Exception):
    """The budget is spent; whoever started the step goes on with what there is."""


class BudgetError(HeadstartError):
    """The budget is less than the least that is needed."""


@dataclass(frozen=True)
class Budget:
    """Seconds that a training may take, counted from when this object was made.

    Attributes:
        seconds: In all.
        is_strict: Whether it was asked for. Else it only decides what is begun: the first pass
            over the photos and the probe may take longer.
        start: Reading of `time.monotonic` from which on it counts.
    """

    seconds: float
    is_strict: bool = True
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left; negative when it is overdrawn."""
        return self.seconds - self.spent

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def check(self, reserve: float = 0.0) -> None:
        """Raise `OutOfTimeError` when no more than a reserve is left."""
        if self.left <= reserve:
            raise OutOfTimeError


def parse_duration(text: str) -> float:
    """Seconds of ``"90"``, ``"90s"``, ``"2m"``, ``"1h30m"``.

    Raises:
        HeadstartError: Another form, or not above 0.

    >>> parse_duration("2m"), parse_duration("1h30m"), parse_duration("45")
    (120.0, 5400.0, 45.0)
    """
    found = _DURATION.fullmatch(text.strip().lower())
    parts = found.groups() if found else ()
    seconds = sum(float(part or 0) * _UNITS[unit] for part, unit in zip(parts, "hms", strict=False))
    if seconds <= 0:
        raise HeadstartError(
            f"{text!r} is not a duration; accepted are seconds, or forms such as 90s, 2m, 1h30m."
        )
    return seconds


def make_budget(seconds: float | None) -> Budget | None:
    """A strict budget that begins now, or none.

    Raises:
        HeadstartError: Not a number above 0.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise HeadstartError(f"budget_seconds is {seconds!r}; accepted are numbers above 0.")
    return Budget(float(seconds))


def begin_budget(text: str | None, recipe: str) -> Budget | None:
    """The budget of a command: as asked for; else one that is not strict, for the recipe auto.

    It counts from the start of the process, where the system tells when that was (Linux).

    Raises:
        HeadstartError: Not a duration.

    >>> begin_budget("30s", "probe").seconds, begin_budget(None, "probe") is None
    (30.0, True)
    """
    if text is not None:
        return Budget(parse_duration(text), start=time.monotonic() - _get_process_age())
    return Budget(DEFAULT_SECONDS, is_strict=False) if recipe == "auto" else None


def _get_process_age() -> float:
    """Seconds since this process began, or 0."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, float(Path("/proc/uptime").read_text().split()[0]) - began)
    return 0.0


def format_duration(seconds: float) -> str:
    """For people.

    >>> format_duration(4.21), format_duration(75), format_duration(7260)
    ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
