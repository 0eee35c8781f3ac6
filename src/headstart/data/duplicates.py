"""Exact and near duplicates → groups: photos that must not be on different sides of a split.

Exact copies have equal bytes. Near duplicates are resized, recompressed, mirrored or lightly
cropped copies, and shots of one burst. They are proposed by neighbourhood of the network's
features, which survive all of these, and confirmed by comparing the pictures themselves: two photos
of different dresses are near for the network, but their pixels do not line up.

Lining up is registration by Gauss-Newton steps from coarse to fine (Lucas and Kanade 1981,
https://www.ijcai.org/Proceedings/81-2/Papers/017.pdf). What is compared then are the photos between
two blurs: a perceptual hash (Zauner 2010, https://www.phash.org/docs/pubs/thesis_zauner.pdf) keeps
coarser structure only, in which two shirts on one floor are equal, and finer structure does not
survive resizing. Each neighbourhood counts the same, whatever its contrast, so that an outline or a
frame that two photos share does not outweigh all else. The measure is the correlation over the
overlap. The thresholds lie between copies planted among real photos and different things that look
alike; benchmarks/duplicates.py measures both.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from headstart.data.decode import FORMATS, Pixels, array_to_image
from headstart.data.stream import Content
from headstart.errors import UnreadablePhotoError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

# Sides of the squares that are compared, with the Gauss-Newton steps at each. A shift of 5 % is
# less than a pixel of the coarsest; what is in line at 64 is so at 128, without steps.
_LEVELS = ((16, 8), (32, 5), (64, 4), (128, 0))
THUMBNAIL_SIDE = _LEVELS[-1][0]

# Deviations: of both blurs and of a neighbourhood, in pixels of each level; of noise, in deviations
# of the whole photo.
_BLURS, _NOISE = (0.8, 3.0, 6.0), 0.02

# Scale and shift along x, then y, in half sides: what is cropped away, either way.
_WARP_LIMITS = ((0.85, -0.2, 0.85, -0.2), (1.18, 0.2, 1.18, 0.2))

# Proposed is each photo with its nearest. Planted copies have cosines from 0.70 up.
_NEAREST, _PROPOSED = 3, 0.65

# Confirmed are correlations from here on: planted copies have 0.83 or more, different things up to
# 0.59. A burst may have less, when the network too finds its photos unusually alike.
_COPY, _BURST, _BURST_SIMILARITY = 0.72, 0.6, 0.9

# Below this at a coarse level a pair is given up: planted copies have 0.90 or more.
_FLOOR = 0.75

# Lining up proves nothing where all photos do: handwritten digits, views of a fixed camera. There
# both photos picked at random line up, and each with its tenth nearest (in films only the latter).
# Upper quartiles of the correlations: at random 0.1 for real photos, 0.26 for trousers on one wall,
# 0.3 for digits; with the tenth nearest 0.27 at most, and 0.57 for digits.
_PICKED, _TENTH, _ALIKE_AT_RANDOM, _ALIKE_NEARBY = 64, 10, 0.2, 0.4

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
    """Pairs of near duplicates among photos; which are found does not depend on their order.

    Args:
        features: ``(sample, feature)``. Equal rows are paired without a look at the photos.
        load_thumbnail: Gives the thumbnail of a row as `read_thumbnail` does; called from several
            threads. A photo for which it raises `UnreadablePhotoError` or `OSError` has no near
            duplicates.

    >>> texture = np.random.default_rng(0).integers(0, 256, (3, 128, 128)).astype(np.uint8)
    >>> texture[1] = texture[0, :, ::-1]
    >>> features = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    >>> [pair.kind for pair in find_near_duplicates(features, lambda row: texture[row])]
    ['mirrored']
    """
    keys = [hashlib.sha256(row.tobytes()).digest() for row in features]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    twins = ((first[key], row) for row, key in enumerate(keys) if first[key] != row)
    found = [Pair(row, other, 1.0, 1.0, "same") for row, other in twins]
    # In this order a pair has the same photo moved onto the other, whatever the order of the rows.
    rows = np.array([first[key] for key in sorted(first)], np.intp)
    unit = features[rows].astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    positions, similarities = propose_pairs(unit)
    pairs, load = rows[positions], functools.lru_cache(_KEPT)(load_thumbnail)
    if _are_all_alike(rows, unit, load):
        return found
    correlations, is_mirrored = _compare_photos(pairs, load, _FLOOR)
    is_burst = (similarities >= _BURST_SIMILARITY) & (correlations >= _BURST) & ~is_mirrored
    for number in np.flatnonzero((correlations >= _COPY) | is_burst):
        correlation = float(correlations[number])
        kind = "burst" if correlation < _COPY else "mirrored" if is_mirrored[number] else "copy"
        row, other = sorted(pairs[number].tolist())
        found.append(Pair(row, other, float(similarities[number]), correlation, kind))
    return sorted(found, key=lambda pair: (pair.row, pair.other))


def propose_pairs(unit: Floats, block: int = _BLOCK) -> tuple[Rows, Floats]:
    """``(pair, 2)`` rows of which one is among the nearest of the other, and their cosines.

    Args:
        unit: ``(sample, feature)``, rows of length 1.
        block: Rows whose cosines to all are in memory at once.

    >>> propose_pairs(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))[0].tolist()
    [[0, 1]]
    """
    count, width = len(unit), min(_NEAREST, len(unit) - 1)
    cosine_of: dict[tuple[int, int], float] = {}
    for start in range(0, count, block):
        part = unit[start : start + block] @ unit.T
        np.fill_diagonal(part[:, start:], -np.inf)
        nearest = np.argpartition(part, -width, axis=1)[:, -width:]
        cosines = np.take_along_axis(part, nearest, axis=1)
        for row, column in np.argwhere(cosines >= _PROPOSED):
            one, other = sorted((start + int(row), int(nearest[row, column])))
            cosine_of[one, other] = float(cosines[row, column])
    pairs = np.array(sorted(cosine_of), np.intp).reshape(-1, 2)
    return pairs, np.array([cosine_of[one, other] for one, other in pairs], np.float32)


def _compare_photos(
    pairs: Rows, load: Callable[[int], Pixels], floor: float
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Correlation of each pair, and whether it is that with the mirrored photo."""
    from threadpoolctl import threadpool_limits

    correlations = np.full((len(pairs), 2), -1, np.float32)

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
    order = np.argsort(pairs.min(1), kind="stable")
    chunks = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    # Small matrix products are ten times slower on several threads of a BLAS.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compare, chunks))
    return correlations.max(1), correlations[:, 1] > correlations[:, 0]


def _are_all_alike(rows: Rows, unit: Floats, load: Callable[[int], Pixels]) -> bool:
    """Whether photos line up that are no copies; the order of ``rows`` is random."""
    half = len(rows) // 2
    if half < _TENTH:
        return False
    count = min(half, _PICKED)
    tenth = np.argsort(-(unit[:count] @ unit.T), axis=1)[:, _TENTH]  # each is its own nearest
    for others, limit in ((np.arange(count) + half, _ALIKE_AT_RANDOM), (tenth, _ALIKE_NEARBY)):
        pairs = np.column_stack([rows[:count], rows[others]])
        if np.percentile(_compare_photos(pairs, load, -1.0)[0], 75) < limit:
            return False
    return True


def register_pairs(ones: Floats, others: Floats, floor: float = -1.0) -> Floats:
    """Correlations of thumbnails with others, lined up by scales and shifts along both axes.

    Both are ``(pair, side, side)``; the others are moved. A pair whose correlation is below the
    floor at a coarse level is given up, and gets -1.
    """
    warps = np.tile(np.array([1, 0, 1, 0], np.float32), (len(ones), 1))
    correlations = np.full(len(ones), -1, np.float32)
    left = np.arange(len(ones))
    for side, steps in _LEVELS:
        fixed, moving = (_shrink(images[left], side) for images in (ones, others))
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


def _shrink(images: Floats, side: int) -> Floats:
    """Means of square blocks, standardised."""
    block = images.shape[1] // side
    small = images.reshape(-1, side, block, side, block).mean((2, 4), np.float32)
    return _standardise(small, np.ones((1, side, side), np.float32))


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
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
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


def group_photos(digests: Sequence[str], pairs: Iterable[Pair]) -> list[str]:
    """A group name per photo: equal bytes and near duplicates, directly or through others.

    >>> group_photos(["a", "b", "c", "a"], [Pair(1, 2, 0.9, 0.9, "copy")])
    ['a', 'b', 'b', 'a']
    """
    return join_groups(digests, ((pair.row, pair.other) for pair in pairs))


def join_groups(names: Sequence[str], pairs: Iterable[tuple[int, int]]) -> list[str]:
    """A group name per photo: connected by equal names or by pairs, directly or through others.

    Args:
        names: A name per photo; equal names are one group to begin with.
        pairs: Rows that belong together.

    Returns:
        For each photo the first (smallest) name of its group, so that a group's name does not
        depend on the order of the photos.

    >>> join_groups(["a", "b", "c", "a"], [(1, 2)])
    ['a', 'b', 'b', 'a']
    """
    parent: dict[str, str] = {name: name for name in names}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in pairs:
        first, second = sorted((find(names[one]), find(names[other])))
        parent[second] = first
    return [find(name) for name in names]
