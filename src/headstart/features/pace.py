"""Seconds per photo of a pass through a frozen network: measured on the way, remembered after."""

from __future__ import annotations

import contextlib
import time
from statistics import median
from typing import Any

from headstart.engines import current_engine
from headstart.errors import HeadstartError
from headstart.models.boundary import Prefix
from headstart.runtimes.memory import recall, remember

# A pass of fewer photos, those of the first batch left out, says too little.
LEAST = 24

# Batches that the time of one core is the median of.
_SOME = 256


class Stride:
    """The time that passes per photo, from the first batch on: what is opened first is left out.

    >>> Stride().seconds_per_photo is None
    True
    """

    def __init__(self) -> None:
        self._begin: tuple[float, int] | None = None
        self._end = (0.0, 0)
        self._each: list[float] = []

    def see(self, photos: int, core_seconds: float) -> None:
        """A batch came.

        Args:
            photos: In it.
            core_seconds: Of one core, on all of it.
        """
        self._end = time.perf_counter(), self._end[1] + photos
        self._begin = self._begin or self._end
        if photos and len(self._each) < _SOME:
            self._each.append(core_seconds / photos)

    @property
    def seconds_per_photo(self) -> float | None:
        """Of the pass; None where it had fewer photos than `LEAST`."""
        if self._begin is None or self._end[1] - self._begin[1] < LEAST:
            return None
        (begin, first), (end, last) = self._begin, self._end
        # Batches that this thread was kept from seeing come all at once.
        least = median(self._each) / current_engine().slots / 2 if self._each else 0.0
        return max((end - begin) / (last - first), least)


def keep_pace(prefix: Prefix, runtime: str, pace: float) -> None:
    """Remember the pace of a pass on this machine and engine, for forecasts.

    Args:
        prefix: What computed.
        runtime: What was asked for, ``"auto"`` included.
        pace: Seconds per photo, decoding included.
    """
    with contextlib.suppress(HeadstartError):  # forecasts will be rougher, no more
        remember("paces", _list_sources(prefix, runtime), {"seconds_per_photo": pace})


def recall_pace(prefix: Prefix, runtime: str) -> float | None:
    """What `keep_pace` kept last, or None."""
    found = recall("paces", _list_sources(prefix, runtime))
    return None if found is None else float(found["seconds_per_photo"])


def _list_sources(prefix: Prefix, runtime: str) -> dict[str, Any]:
    engine = current_engine()
    return {
        "weights_digest": prefix.weights_digest,
        "image_size": prefix.image_size,
        "boundary": prefix.boundary,
        "runtime": runtime,
        "engine": engine.name,
        "slots": engine.slots,
    }
