"""Near duplicates among photos whose features are at hand; what two photos look like is remembered.

The cache keeps the correlations of every pair of photos that was compared, so that a second run
opens no photo, and new photos are only compared with their own neighbours.
"""

from __future__ import annotations

import contextlib

import numpy as np

from headstart.data.decode import DECODE_VERSION, Pixels
from headstart.data.duplicates import Pair, find_near_duplicates
from headstart.data.registration import (
    REGISTRATION_VERSION,
    THUMBNAIL_SIDE,
    Floats,
    Rows,
    compare_photos,
    read_thumbnail,
)
from headstart.data.scan import Sample
from headstart.errors import UnreadablePhotoError
from headstart.features.cache import ActivationCache, Space
from headstart.features.extract import Features
from headstart.files import digest_bytes

# Pairs that are compared before what they gave is handed to the cache.
_PART = 4096


def find_pairs(features: Features) -> list[Pair]:
    """Pairs of near duplicates, by their rows.

    Raises:
        CacheError, HeadstartError: The cache cannot be read or written.
    """
    with contextlib.closing(ActivationCache(_SPACE)) as cache:
        return find_near_duplicates(features.array, _Comparison(features.samples, cache).compare)


_SPACE = Space(
    backbone="near duplicates",
    weights_digest="",
    boundary="pairs of photos",
    shape=(2,),
    image_size=THUMBNAIL_SIDE,
    decode_version=DECODE_VERSION,
    runtime=f"registration {REGISTRATION_VERSION}",
    dtype="float32",
)


class _Comparison:
    """`compare_photos`, but only for pairs that the cache does not know."""

    def __init__(self, samples: tuple[Sample, ...], cache: ActivationCache) -> None:
        self._samples, self._cache = samples, cache

    def compare(self, pairs: Rows, floor: float) -> Floats:
        # A pair that was given up at a floor has no correlation for who wants it without one.
        view = 0 if floor < 0 else 1
        keys = [self._name(*pair) for pair in pairs.tolist()]
        self._cache.drop_damaged(keys, view)
        missing = set(self._cache.missing(keys, view))
        unknown = np.array([row for row, key in enumerate(keys) if key in missing], np.intp)
        for start in range(0, len(unknown), _PART):
            rows = unknown[start : start + _PART]
            compared = compare_photos(pairs[rows], self._load, floor)
            could = np.isfinite(compared).all(1)
            if could.any():
                self._cache.append([(keys[row], view) for row in rows[could]], compared[could])
                missing -= {keys[row] for row in rows[could]}
        self._cache.flush()
        known = np.array([key not in missing for key in keys], bool)
        correlations = np.full((len(keys), 2), np.nan, np.float32)
        correlations[known] = self._cache.read([k for k in keys if k not in missing], view)
        return correlations

    def _name(self, row: int, other: int) -> str:
        # The order counts: the second photo is moved onto the first.
        return digest_bytes(f"{self._samples[row].digest} {self._samples[other].digest}".encode())

    def _load(self, row: int) -> Pixels:
        sample = self._samples[row]
        if sample.content is not None:
            return read_thumbnail(sample.content)
        content = sample.path.read_bytes()
        # Only bytes that the decoding processes have survived are opened here.
        if digest_bytes(content) != sample.digest:
            raise UnreadablePhotoError("changed while running; run again")
        return read_thumbnail(content)
