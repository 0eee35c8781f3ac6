"""Exact and near duplicates → groups: photos that must not be on different sides of a split.

Exact copies have equal bytes. Near duplicates are resized, recompressed, mirrored or lightly cropped
copies, and shots of one burst. They are proposed by neighbourhood of the network's features, which
survive all of these, and confirmed by comparing the pictures themselves: two photos of different
dresses are near for the network, but their pixels do not line up.

Lining up is registration by Gauss-Newton steps from coarse to fine (Lucas and Kanade 1981,
https://www.ijcai.org/Proceedings/81-2/Papers/017.pdf). What is compared then are the photos between
two blurs, the scales at which perceptual hashes compare them too: coarser ones only tell that both
show something dark on a bright ground, and finer ones do not survive resizing. The measure is the
correlation over the overlap, which does not see brightness and contrast.

The thresholds are set between copies planted among real photos and different things that look
alike; benchmarks/duplicates.py measures both.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from headstart.data.decode import FORMATS, Pixels, array_to_image
from headstart.errors import UnreadablePhotoError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

# Sides of the squares that are compared, coarse to fine, with the Gauss-Newton steps at each. A
# shift of 5 % is less than a pixel at the coarsest, and an eighth of a pixel at the last but one is
# exact enough for the finest, so that this needs no steps.
_LEVELS = ((16, 8), (32, 5), (64, 4), (128, 0))
THUMBNAIL_SIDE = _LEVELS[-1][0]

# Proposed are pairs that are among each other's nearest photos. Planted copies have cosines from
# 0.70 up; what matters below is only the time for refuting more pairs.
_NEIGHBOURS, _PROPOSED = 5, 0.65

# Confirmed are correlations from here on: planted copies have 0.82 or more, different things up to
# 0.68. A burst may have less, when the network too finds its photos unusually alike.
_COPY = 0.75
_BURST, _BURST_SIMILARITY = 0.6, 0.9

# Below this at a coarse level a pair is dropped: planted copies have 0.89 or more.
_FLOOR = 0.75

# Photos picked at random do not line up: the upper quartile of their correlations is 0.05 to 0.11
# for real photos. It is 0.37 for handwritten digits, which line up with one another as well as with
# their copies, and high for views of a fixed camera: then lining up proves nothing.
_STRANGERS, _MOST_ALIKE = 64, 0.2

# Pairs compared at once, by one thread; thumbnails kept (16 KB each); rows of a block of cosines.
_CHUNK, _KEPT, _BLOCK = 32, 8192, 256


@dataclass(frozen=True)
class Pair:
    """Two photos that are one picture, or two shots of one moment.

    Attributes:
        row: The one that comes first.
        other: The other one.
        similarity: Cosine of their features.
        correlation: Of their pixels, lined up; 1 is equal but for brightness and contrast.
        kind: ``"same"`` (equal features), ``"copy"``, ``"mirrored"`` or ``"burst"``.
    """

    row: int
    other: int
    similarity: float
    correlation: float
    kind: str


def find_near_duplicates(
    features: npt.NDArray[np.floating], load_thumbnail: Callable[[int], Pixels]
) -> list[Pair]:
    """Pairs of near duplicates among photos, by row; the order of the photos does not matter.

    Args:
        features: ``(sample, feature)``. Rows that are equal are paired without a look.
        load_thumbnail: Gives the thumbnail of a row as `read_thumbnail` does; called from several
            threads. A photo for which it fails with `UnreadablePhotoError` or `OSError` has no near
            duplicates.

    >>> ramps = np.add.outer(np.arange(128), np.arange(128)) % np.array([[[37]], [[37]], [[53]]])
    >>> pictures = (ramps * 4).astype(np.uint8)
    >>> features = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    >>> [(pair.row, pair.other, pair.kind) for pair in find_near_duplicates(features, list(pictures).__getitem__)]
    [(0, 1, 'copy')]
    """
    keys = [hashlib.sha256(row.tobytes()).digest() for row in np.ascontiguousarray(features)]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    found = [
        Pair(first[key], row, 1.0, 1.0, "same") for row, key in enumerate(keys) if first[key] != row
    ]
    distinct = np.array([first[key] for key in sorted(first)], np.intp)
    ranks = np.empty(len(keys), np.intp)
    ranks[distinct] = np.arange(len(distinct))
    ones, others, similarities = _propose(features[np.sort(distinct)])
    ones, others = np.sort(distinct)[ones], np.sort(distinct)[others]
    # Which one is moved onto the other must not depend on the order of the photos.
    is_turned = ranks[ones] > ranks[others]
    correlate = _Comparison(load_thumbnail)
    correlations, mirrored = correlate(
        np.where(is_turned, others, ones), np.where(is_turned, ones, others), _FLOOR
    )
    is_burst = (similarities >= _BURST_SIMILARITY) & (correlations >= _BURST)
    kept = np.flatnonzero((correlations >= _COPY) | is_burst)
    if not len(kept) or _are_all_alike(distinct, set(zip(ones, others, strict=True)), correlate):
        return found
    for number in kept:
        correlation = float(correlations[number])
        kind = "burst" if correlation < _COPY else "mirrored" if mirrored[number] else "copy"
        pair = int(ones[number]), int(others[number]), float(similarities[number])
        found.append(Pair(*pair, correlation, kind))
    return sorted(found, key=lambda pair: (pair.row, pair.other))


def _are_all_alike(distinct: Rows, proposed: set[tuple[Any, Any]], correlate: _Comparison) -> bool:
    """Whether also photos that nobody proposed line up; without such photos, no."""
    half = len(distinct) // 2
    picked = zip(distinct[:_STRANGERS], distinct[half : half + _STRANGERS], strict=False)
    pairs = [tuple(sorted(pair)) for pair in picked]
    strangers = np.array([pair for pair in pairs if pair not in proposed], np.intp).reshape(-1, 2)
    if not len(strangers):
        return False
    correlations, _ = correlate(strangers[:, 0], strangers[:, 1], -1.0)
    return bool(np.percentile(correlations, 75) > _MOST_ALIKE)
