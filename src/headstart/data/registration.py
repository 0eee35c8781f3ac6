"""Two photos → how well they line up: the measure behind near duplicates.

Registration is by Gauss-Newton steps from coarse to fine (Lucas and Kanade 1981,
https://www.ijcai.org/Proceedings/81-2/Papers/017.pdf). What is compared then are the photos between
two blurs: a perceptual hash (Zauner 2010, https://www.phash.org/docs/pubs/thesis_zauner.pdf) keeps
coarser structure only, in which two shirts on one floor are equal, and finer structure does not
survive resizing. Each neighbourhood counts the same, whatever its contrast, so that an outline or a
frame that two photos share does not outweigh all else. The measure is the correlation over the
overlap.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from headstart.data.decode import Pixels, array_to_image, open_image
from headstart.data.stream import Content
from headstart.errors import UnreadablePhotoError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

# Raised whenever the same two photos would get another correlation: correlations are remembered.
REGISTRATION_VERSION = 1

# Sides of the squares that are compared, with the Gauss-Newton steps at each. A shift of 5 % is
# less than a pixel of the coarsest; what is in line at 64 is so at 128, without steps.
_LEVELS = ((16, 8), (32, 5), (64, 4), (128, 0))
THUMBNAIL_SIDE = _LEVELS[-1][0]

# Deviations: of both blurs and of a neighbourhood, in pixels of each level; of noise, in deviations
# of the whole photo.
_BLURS, _NOISE = (0.8, 3.0, 6.0), 0.02

# Scale and shift along x, then y, in half sides: what is cropped away, either way.
_WARP_LIMITS = ((0.85, -0.2, 0.85, -0.2), (1.18, 0.2, 1.18, 0.2))

# Pairs compared at once, by one thread; thumbnails kept (16 KB each).
_CHUNK, _KEPT = 32, 2048

# Whatever Pillow finds odd about a photo's metadata: the decoder has already had its say.
warnings.filterwarnings("ignore", module="PIL")


def compare_photos(pairs: Rows, load: Callable[[int], Pixels], floor: float = -1.0) -> Floats:
    """Correlations of pairs of photos, lined up; the second one is moved.

    Args:
        pairs: ``(pair, 2)`` rows.
        load: Gives the thumbnail of a row as `read_thumbnail` does; called from several threads.
        floor: See `register_pairs`.

    Returns:
        ``(pair, 2)``: of the photos as they are, and with the second one mirrored. NaN where a
        photo cannot be read (``load`` raises `UnreadablePhotoError` or `OSError`).
    """
    from threadpoolctl import threadpool_limits

    load = functools.lru_cache(_KEPT)(load)
    correlations = np.full((len(pairs), 2), np.nan, np.float32)

    def compare(numbers: Rows) -> None:
        loaded, kept = [], []
        for number in numbers:
            with contextlib.suppress(UnreadablePhotoError, OSError):
                loaded.append([load(int(row)) for row in pairs[number]])
                kept.append(number)
        if kept:
            ones, others = np.array(loaded, np.float32).swapaxes(0, 1)
            correlations[kept, 0] = register_pairs(ones, others, floor)
            correlations[kept, 1] = register_pairs(ones, others[:, :, ::-1], floor)

    # Photos of a folder, which are each other's neighbours, are compared together: loaded once.
    order = np.argsort(pairs.min(1), kind="stable") if len(pairs) else ()
    chunks = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    # Small matrix products are ten times slower on several threads of a BLAS.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compare, chunks))
    return correlations


def register_pairs(ones: Floats, others: Floats, floor: float = -1.0) -> Floats:
    """Correlations of thumbnails with others, lined up by scales and shifts along both axes.

    Both are ``(pair, side, side)``; the others are moved. A pair whose correlation is below the
    floor at a coarse level is given up, and gets -1.
    """
    warps = np.tile(np.array([1, 0, 1, 0], np.float32), (len(ones), 1))
    correlations = np.full(len(ones), -1, np.float32)
    left = np.arange(len(ones))
    pyramids = zip(_list_levels(ones), _list_levels(others), strict=True)
    for (side, steps), levels in zip(_LEVELS, pyramids, strict=True):
        fixed, moving = (
            _standardise(level[left], np.ones((1, side, side), np.float32)) for level in levels
        )
        for _ in range(steps):
            warps[left] += _solve_step(fixed, moving, warps[left])
            warps[left] = np.clip(warps[left], *_WARP_LIMITS)
        moved, inside = _warp(moving, warps[left])
        first, second = (_standardise(_flatten(part), inside) for part in (fixed, moved))
        reached = (first * second).sum((1, 2)) / inside.sum((1, 2))
        if side == THUMBNAIL_SIDE:
            correlations[left] = reached
        left = left[reached >= floor]
    return correlations


def _solve_step(fixed: Floats, moving: Floats, warps: Floats) -> Floats:
    """The Gauss-Newton step of the warps; gain and offset of the brightness are solved along."""
    pairs, side, _ = fixed.shape
    moved, inside = _warp(moving, warps)
    # Derivatives by the position in the moving photo, from those of the moved one.
    down, right = (slope * (side / 2) for slope in np.gradient(moved, axis=(1, 2)))
    down, right = down / warps[:, 2, None, None], right / warps[:, 0, None, None]
    x = _centres(side)
    columns = (right * x, right, down * x[:, None], down, moved, np.ones_like(moved))
    jacobian = (np.stack(columns, 1) * inside[:, None]).reshape(pairs, 6, side**2)
    residual = ((fixed - moved) * inside).reshape(pairs, side**2, 1)
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    damping = np.trace(normal, axis1=1, axis2=2) / 6e3 + 1e-6
    normal += damping[:, None, None] * np.eye(6, dtype=np.float32)
    return np.asarray(np.linalg.solve(normal, jacobian @ residual)[:, :4, 0], np.float32)


def _warp(images: Floats, warps: Floats) -> tuple[Floats, Floats]:
    """Images read at ``scale * position + shift``, bilinear, and 1 where that is inside of them."""
    side = images.shape[1]
    pixels = np.arange(side, dtype=np.float32)
    matrices, insides = [], []
    for scale, shift in (np.hsplit(warps[:, 2:], 2), np.hsplit(warps[:, :2], 2)):
        places = (scale * _centres(side) + shift + 1) * (side / 2) - 0.5
        insides.append(((places >= -0.5) & (places <= side - 0.5)).astype(np.float32))
        places = np.clip(places, 0, side - 1)[:, :, None]
        matrices.append(np.maximum(1 - np.abs(places - pixels), 0))
    moved: Floats = matrices[0] @ images @ matrices[1].transpose(0, 2, 1)
    return moved, insides[0][:, :, None] * insides[1][:, None, :]


def _centres(side: int) -> Floats:
    """Centres of the pixels along an axis, from -1 to 1."""
    return (2 * np.arange(side, dtype=np.float32) + 1) / np.float32(side) - 1


def _list_levels(images: Floats) -> list[Floats]:
    """Means of square blocks, for each of the levels; of whole numbers they are exact."""
    levels = [images]
    while levels[0].shape[1] > _LEVELS[0][0]:
        rows = levels[0][:, ::2] + levels[0][:, 1::2]
        smaller: Floats = (rows[:, :, ::2] + rows[:, :, 1::2]) * np.float32(0.25)
        levels.insert(0, smaller)
    return levels


def _standardise(images: Floats, inside: Floats) -> Floats:
    """Zero mean and unit variance over what is inside; zero elsewhere."""
    counts = inside.sum((1, 2), keepdims=True)
    centred = (images - (images * inside).sum((1, 2), keepdims=True) / counts) * inside
    deviations = np.sqrt((centred**2).sum((1, 2), keepdims=True) / counts)
    return np.asarray(centred / np.maximum(deviations, 1e-3), np.float32)


def _flatten(images: Floats) -> Floats:
    """What is between two blurs, over its own local deviation."""
    fine, coarse, wide = (_blur_matrix(images.shape[1], deviation) for deviation in _BLURS)
    band = fine @ images @ fine.T - coarse @ images @ coarse.T
    return np.asarray(band / np.sqrt(wide @ band**2 @ wide.T + _NOISE**2), np.float32)


@functools.cache
def _blur_matrix(side: int, deviation: float) -> Floats:
    offsets = np.subtract.outer(np.arange(side), np.arange(side))
    weights = np.exp(-0.5 * (offsets / deviation) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def read_thumbnail(content: Path | Content) -> Pixels:
    """The whole photo, upright, in grey, squashed to a square for `find_near_duplicates`.

    Raises:
        UnreadablePhotoError: It cannot be read.

    >>> read_thumbnail(np.zeros((300, 200, 3), np.uint8)).shape
    (128, 128)
    """
    try:
        if isinstance(content, Path):
            content = content.read_bytes()
        if isinstance(content, bytes):
            image = open_image(content)
            image.draft("L", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        else:
            image = content if isinstance(content, Image.Image) else array_to_image(content)
        is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
        grey = ImageOps.exif_transpose(image).convert("F" if is_deep else "L")
        is_small = min(image.size) < THUMBNAIL_SIDE
        kind = Image.Resampling.BICUBIC if is_small else Image.Resampling.HAMMING
        square = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), kind)
        small = np.nan_to_num(np.asarray(square, np.float32))
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise UnreadablePhotoError(str(error)) from error
    if is_deep:
        small = (small - small.min()) * (255 / max(float(np.ptp(small)), 1e-6))
    return small.astype(np.uint8)
