"""Engines that compute for one caller at a time, as many as there are callers at once."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Compute = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


class EnginePool:
    """A session made of engines that are not thread-safe.

    An engine is made for one size of batch, because static shapes are the faster ones, and is used
    again by the next caller with such a batch. An engine that has raised is not.

    >>> made = []
    >>> pool = EnginePool(lambda batch: made.append(batch) or (lambda images: images * 2.0))
    >>> pool(np.ones((2, 1), np.uint8)).tolist(), pool(np.ones((2, 1), np.uint8)).tolist(), made
    ([[2.0], [2.0]], [[2.0], [2.0]], [2])
    """

    def __init__(self, make: Callable[[int], Compute]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._free: defaultdict[int, list[Compute]] = defaultdict(list)

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The rows of a batch, on an engine that nobody else uses meanwhile."""
        batch = len(images)
        with self._lock:
            engine = self._free[batch].pop() if self._free[batch] else None
        engine = engine or self._make(batch)
        rows = engine(images)
        with self._lock:
            self._free[batch].append(engine)
        return rows
