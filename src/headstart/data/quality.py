"""Is a photo blurred, dark or blank? Three figures from its small pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headstart.data.decode import Pixels

Floats = npt.NDArray[np.float32]

# Side of the pixels that are looked at: blur that a network would notice is visible here.
QUALITY_SIDE = 128
# Part of the cache's keys: raised whenever the same pixels would get other figures.
QUALITY_VERSION = 1

# Of red, green and blue in what looks grey (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WINDOW = 11


def measure_quality(images: Pixels) -> Floats:
    """``(photo, 3)``: blur between 0 and 1, brightness and contrast between 0 and 1.

    Brightness is the 95th percentile of the grey values: a dark photo has nothing bright. Contrast
    is the distance of the 95th from the 5th percentile. For blur see `measure_blur`.

    Args:
        images: ``(photo, side, side, 3)`` uint8.

    >>> black = np.zeros((1, 32, 32, 3), np.uint8)
    >>> measure_quality(black).tolist()
    [[1.0, 0.0, 0.0]]
    """
    greys: Floats = images.astype(np.float32) @ (_LUMA / np.float32(255))
    low, high = np.percentile(greys, (5, 95), axis=(1, 2))
    return np.stack([measure_blur(greys), high, high - low], axis=1).astype(np.float32)


def measure_blur(greys: Floats) -> Floats:
    """``(photo,)`` how little is lost when a photo is blurred once more: 1, it has no detail.

    The metric of Crete, Dolmiere, Ladret and Nicolas 2007 (https://hal.science/hal-00232709): the
    share of the differences between neighbours that a mean over 11 pixels leaves; the larger one
    of rows and columns.

    Args:
        greys: ``(photo, side, side)``.
    """
    return np.maximum(_measure_along(greys), _measure_along(greys.swapaxes(1, 2)))


def _measure_along(greys: Floats) -> Floats:
    """Along the last axis."""
    half = _WINDOW // 2
    padded = np.pad(greys, ((0, 0), (0, 0), (half + 1, half)), mode="edge")
    sums = np.cumsum(padded, axis=2, dtype=np.float64)
    smooth = ((sums[:, :, _WINDOW:] - sums[:, :, :-_WINDOW]) / _WINDOW).astype(np.float32)
    before, after = np.abs(np.diff(greys, axis=2)), np.abs(np.diff(smooth, axis=2))
    lost = np.maximum(before - after, 0).sum((1, 2), dtype=np.float64)
    total = before.sum((1, 2), dtype=np.float64)
    share = 1 - np.divide(lost, total, out=np.zeros_like(lost), where=total > 0)
    return np.asarray(share, np.float32)
