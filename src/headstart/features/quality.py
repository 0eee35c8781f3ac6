"""Blur, brightness and contrast of photos: measured where photos are decoded, and remembered.

Every pass that computes features measures them from the same pixels, which takes a hundredth of it;
whoever asks for them later opens no photo.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from headstart.data.decode import DECODE_VERSION
from headstart.data.quality import QUALITY_VERSION, measure_quality
from headstart.data.scan import Sample
from headstart.data.stream import Batch, map_photos
from headstart.features.cache import ActivationCache, Space
from headstart.features.forward import read_content

Figures = npt.NDArray[np.float32]


class QualityCache:
    """The figures of some photos, as they are decoded for a network.

    Args:
        image_size: Side of the square pixels.
        digests: The photos.

    Raises:
        CacheError, HeadstartError: The cache cannot be read or written; so do all methods.
    """

    def __init__(self, image_size: int, digests: Sequence[str]) -> None:
        self._cache = ActivationCache(_make_space(image_size))
        self._cache.drop_damaged(digests)

    def list_missing(self, digests: Sequence[str]) -> list[str]:
        """The photos, each once and in order, of which nothing is known."""
        return self._cache.missing(digests)

    def append(self, batch: Batch[Sample]) -> None:
        """Remember the figures of those photos of a batch that are not known."""
        if len(batch.looks):
            known = self._cache.find(sample.digest for sample in batch.items)
            rows = [row for row, sample in enumerate(batch.items) if sample.digest not in known]
            keys = [(batch.items[row].digest, 0) for row in rows]
            self._cache.append(keys, batch.looks[rows])

    def read(self, digests: Sequence[str]) -> Figures:
        """``(photo, 3)``, NaN where nothing is known."""
        self._cache.flush()
        missing = set(self._cache.missing(digests))
        known = np.array([digest not in missing for digest in digests], bool)
        figures = np.full((len(digests), 3), np.nan, np.float32)
        figures[known] = self._cache.read([d for d in digests if d not in missing])
        return figures

    def close(self) -> None:
        """Write what is left, and close."""
        try:
            self._cache.flush()
        finally:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _make_space(image_size: int) -> Space:
    return Space(
        backbone="photo quality",
        weights_digest="",
        boundary="blur, brightness, contrast",
        shape=(3,),
        image_size=image_size,
        decode_version=DECODE_VERSION,
        runtime=f"quality {QUALITY_VERSION}",
        dtype="float32",
    )


def extract_quality(
    samples: Sequence[Sample],
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Figures:
    """``(sample, 3)`` blur, brightness, contrast; NaN where a photo cannot be read any more.

    Args:
        samples: The photos.
        image_size: Side of the pixels that the network sees, whose pass has measured most of them.
        progress: Called with ``(done, all)`` photos.

    Raises:
        CacheError, HeadstartError: The cache cannot be read or written.
    """
    digests = [sample.digest for sample in samples]
    with QualityCache(image_size, digests) as cache:
        first = {sample.digest: sample for sample in reversed(samples)}
        new = [first[digest] for digest in cache.list_missing(digests)]
        done = len(samples) - len(new)
        batches = map_photos(new, read_content, image_size, lambda _: _NOTHING, measure_quality)
        with contextlib.closing(batches) as results:
            for batch in results:
                cache.append(batch)
                done += len(batch.order)
                if progress is not None:
                    progress(done, len(samples))
        return cache.read(digests)


_NOTHING = np.empty(0)
