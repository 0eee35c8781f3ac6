"""Where a run gets its activations from, and how they are read while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.intp]

# So many are read while one is trained on: decoding and training keep all cores busy.
_BATCHES_AHEAD = 2


class Source(Protocol):
    """What gives activations; `headstart.features.activations.Activations` does."""

    @property
    def views(self) -> int:
        """Views per sample."""

    def read(self, rows: Numbers, views: Numbers | int = 0) -> Floats:
        """``(row, *shape)`` activations of samples, each in its view."""


def read_ahead(
    source: Source, wanted: Sequence[tuple[Numbers, Numbers | int]]
) -> Generator[tuple[Numbers, Floats]]:
    """Samples in their views, batch by batch; the next ones are read while one is computed.

    Args:
        source: Gives activations.
        wanted: Samples and views of each batch.

    Yields:
        Samples, and their activations.
    """
    waiting: deque[tuple[Numbers, Future[Floats]]] = deque()
    with ThreadPoolExecutor(_BATCHES_AHEAD, "read ahead") as pool:
        try:
            for rows, views in wanted:
                waiting.append((rows, pool.submit(source.read, rows, views)))
                if len(waiting) > _BATCHES_AHEAD:
                    first, found = waiting.popleft()
                    yield first, found.result()
            while waiting:
                first, found = waiting.popleft()
                yield first, found.result()
        finally:
            for _, found in waiting:
                found.cancel()
