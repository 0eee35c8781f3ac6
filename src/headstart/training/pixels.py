"""Photos as the source of a run: for training the whole backbone, where nothing can be cached."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from headstart.data.decode_pool import DecodePool
from headstart.data.scan import Sample
from headstart.data.stream import decode_chunk
from headstart.data.views import get_source_size, make_view
from headstart.errors import DatasetError
from headstart.features.extract import read_content

Numbers = npt.NDArray[np.intp]

# Every epoch sees another view.
_VIEWS = 2**20


class Pixels:
    """Decodes and augments photos each time they are read.

    Args:
        samples: The photos.
        image_size: Side of the square pixels.
        views: 1 for the central square only; more for augmentation without an end.
        seed: Of the views.
    """

    def __init__(self, samples: Sequence[Sample], image_size: int, views: int, seed: int) -> None:
        self.samples, self._size, self._seed = samples, image_size, seed
        self.views = 1 if views == 1 else _VIEWS
        workers = os.cpu_count() or 1
        self._exact = DecodePool(image_size, workers)
        self._larger = DecodePool(get_source_size(image_size), workers)
        self._threads = ThreadPoolExecutor(workers + 1, "pixels")

    def read(self, rows: Numbers, views: Numbers | int = 0) -> npt.NDArray[Any]:
        """``(row, size, size, 3)`` uint8 pixels of samples, each in its view.

        Raises:
            DatasetError: A photo cannot be read any more.
        """
        chosen = np.broadcast_to(np.asarray(views), rows.shape)
        pairs = zip(rows.tolist(), chosen.tolist(), strict=True)
        return np.stack(list(self._threads.map(self._read, pairs)))

    def _read(self, wanted: tuple[int, int]) -> npt.NDArray[np.uint8]:
        row, view = wanted
        sample = self.samples[row]
        pool = self._larger if view else self._exact
        pixels, (reason,), _ = decode_chunk([sample], read_content, pool)
        if reason is not None:
            raise DatasetError(f"{sample.path} cannot be read any more: {reason}. Run again.")
        return make_view(pixels[0], self._size, sample.digest, view, self._seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._exact.close()
        self._larger.close()
