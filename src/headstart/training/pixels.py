"""Photos as the source of a run: for the whole backbone, and for views that are drawn anew.

Nothing of them is kept, so that memory and disk are the same for a hundred photos and a million.
"""

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
from headstart.data.stream import BATCH_SIZE, decode_chunk
from headstart.data.views import get_source_size, make_view
from headstart.errors import DatasetError
from headstart.features.forward import read_content
from headstart.runtimes import Session
from headstart.training.source import Source

Numbers = npt.NDArray[np.intp]

# Views that are drawn anew: no epoch of any training sees one again.
_ENDLESS = 2**20


class Pixels:
    """Decodes and augments photos each time they are read.

    Args:
        samples: The photos.
        image_size: Side of the square pixels.
        views: Of each photo, the central square included; None for views without an end.
        seed: Of the views.
    """

    def __init__(
        self, samples: Sequence[Sample], image_size: int, views: int | None, seed: int
    ) -> None:
        self.samples, self._size, self._seed = samples, image_size, seed
        self.views = views or _ENDLESS
        workers = os.cpu_count() or 1
        self._exact = DecodePool(image_size, workers)
        self._larger = DecodePool(get_source_size(image_size), workers, network_size=image_size)
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


class Live:
    """Activations of views that are drawn anew; those of the photos as they are come from a cache.

    Args:
        pixels: The views.
        cached: Activations of the same samples; only view 0 is read.
        session: Computes the prefix; called from several threads.
    """

    def __init__(self, pixels: Pixels, cached: Source, session: Session) -> None:
        self._pixels, self.cached, self._session = pixels, cached, session
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, "live")
        self.views = pixels.views

    def read(self, rows: Numbers, views: Numbers | int = 0) -> npt.NDArray[Any]:
        """``(row, *shape)`` float16 activations of samples, each in its view.

        Raises:
            DatasetError: A photo cannot be read any more.
        """
        chosen = np.broadcast_to(np.asarray(views), rows.shape)
        is_new = chosen != 0
        if not is_new.any():
            return self.cached.read(rows)
        pixels = self._pixels.read(rows[is_new], chosen[is_new])
        parts = [pixels[start : start + BATCH_SIZE] for start in range(0, len(pixels), BATCH_SIZE)]
        found = np.concatenate(list(self._threads.map(self._session, parts)))
        result = np.empty((len(rows), *found.shape[1:]), np.float16)
        result[is_new] = found
        if not is_new.all():
            result[~is_new] = self.cached.read(rows[~is_new])
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
