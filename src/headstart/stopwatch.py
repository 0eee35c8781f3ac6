"""Where the time of a job goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# The keys of ``seconds`` in reports, in the order of the work.
STEPS = ("scan", "decode", "prefix", "groups", "probe", "fine_tune", "trust", "evaluate")


class Stopwatch:
    """Seconds per step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._start = time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of a block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def move(self, origin: str, seconds: dict[str, float]) -> None:
        """Book seconds that were measured within a step on other steps."""
        for name, value in seconds.items():
            self.seconds[origin] -= value
            self.seconds[name] += value

    def report(self) -> dict[str, float]:
        """Seconds per step, and ``total`` since this stopwatch was made."""
        total = time.perf_counter() - self._start
        return {name: round(s, 3) for name, s in {**self.seconds, "total": total}.items()}
