"""Is a photo blurred, dark or blank? Three figures from its small pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.data.decode import Pixels

Floats = npt.NDArray[np.float32]

# Side of the pixels that are looked at: blur that a network would notice is visible here.
QUALITY_SIDE = 128
# Part of the cache's keys: raised whenever the same photo would get other figures.
QUALITY_VERSION = 3

_HALF = 5


def measure_quality(images: Pixels) -> Floats:
    """``(photo, 3)``: blur between 0 and 1, brightness and contrast between 0 and 1.

    Brightness is the 95th percentile of the grey values: a dark photo has nothing bright. Contrast
    is the distance of the 95th from the 5th percentile. For blur see `measure_blur`.

    Args:
        images: ``(photo, side, side, 3)`` uint8, of any side: they are brought to `QUALITY_SIDE`.
            Of photos that were decoded at 224 the figures are those of the same photos decoded at
            that side, to 0.02.

    >>> black = np.zeros((1, 32, 32, 3), np.uint8)
    >>> measure_quality(black).tolist()
    [[1.0, 0.0, 0.0]]
    """
    return np.array([_measure_one(image) for image in images], np.float32).reshape(-1, 3)


def _measure_one(image: Pixels) -> tuple[float, float, float]:
    small = Image.fromarray(image).convert("L")
    if small.size != (QUALITY_SIDE, QUALITY_SIDE):
        small = small.resize((QUALITY_SIDE, QUALITY_SIDE), Image.Resampling.HAMMING)
    below = np.cumsum(small.histogram()) / QUALITY_SIDE**2
    low, high = np.searchsorted(below, (0.05, 0.95)) / 255
    return measure_blur(np.asarray(small, np.int16)), high, high - low


def measure_blur(grey: npt.NDArray[np.int16]) -> float:
    """How little is lost when a photo is blurred once more: 1, it has no detail.

    The metric of Crete, Dolmiere, Ladret and Nicolas 2007 (https://hal.science/hal-00232709): the
    share of the differences between neighbours that a mean over 11 pixels leaves; the larger one
    of rows and columns.

    Args:
        grey: ``(side, side)`` from 0 to 255.
    """
    return max(_measure_down(grey), _measure_down(np.ascontiguousarray(grey.T)))


def _measure_down(grey: npt.NDArray[np.int16]) -> float:
    """Along the first axis. Differences of a mean over a window are those between its ends."""
    padded = np.pad(grey, ((_HALF, _HALF), (0, 0)), mode="edge")
    window = 2 * _HALF + 1
    before = np.abs(np.diff(grey, axis=0)) * np.int16(window)
    after = np.abs(padded[window:] - padded[:-window])
    total = before.sum(dtype=np.int64)
    return float(1 - np.maximum(before - after, 0).sum(dtype=np.int64) / total) if total else 1.0
