"""Augmented views of a photo: deterministic, so that they can be computed once and cached.

View 0 is the central square as `headstart.data.decode` gives it, what the classifier will see.
View 1 is its mirror image; further views are random crops of a somewhat larger area, mirrored or
not, with small changes of brightness, contrast and colour. What a view shows depends on the photo's
digest, the number of the view and a seed, and on nothing else.
"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from headstart.data.decode import Pixels

# Part of the cache key of views above 0: raised whenever a view would show something else.
VIEWS_VERSION = 1

# Crops are cut from a square this many times as large as the result, so that few are enlarged.
MARGIN = 8 / 7

# A crop's side as a share of the square's; above 1 it looks over the edge, where the photo is
# mirrored: objects become smaller as often as they become larger.
SIDES = (0.72, 1.08)
# Ratio of width to height, at most this or its inverse.
_RATIO = 1.2
# Factors of brightness, contrast and colour: 1 plus or minus this.
_CHANGE = 0.25


def get_source_size(image_size: int) -> int:
    """Side of the square from which views of a size are made.

    >>> get_source_size(224)
    256
    """
    return round(image_size * MARGIN)


def make_view(square: Pixels, image_size: int, photo: str, view: int, seed: int = 0) -> Pixels:
    """One view of a photo as ``(image_size, image_size, 3)`` uint8 RGB.

    Args:
        square: ``(side, side, 3)`` uint8, the central square; see `get_source_size`.
        image_size: Side of the result in pixels.
        photo: The photo's digest.
        view: 0 for the square itself, resized where needed.
        seed: Another seed makes other crops.

    >>> square = np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    >>> bool((make_view(square, 64, "photo", 1) == square[:, ::-1]).all())
    True
    >>> make_view(square, 56, "photo", 2).shape
    (56, 56, 3)
    """
    image = Image.fromarray(square)
    if view > 1:
        text = f"{VIEWS_VERSION}:{seed}:{view}:{photo}"
        digest = hashlib.sha256(text.encode()).digest()
        image = _cut_randomly(image, image_size, np.random.default_rng(list(digest)))
    elif image.width != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC, reducing_gap=3.0)
    if view == 1:
        image = ImageOps.mirror(image)
    return np.asarray(image, np.uint8)


def _cut_randomly(image: Image.Image, image_size: int, rng: np.random.Generator) -> Image.Image:
    side = image.width
    ratio = np.exp(rng.uniform(-1, 1) * np.log(_RATIO) / 2)
    share = rng.uniform(*SIDES)
    width, height = side * share * ratio, side * share / ratio
    border = int(np.ceil(side * (SIDES[1] * np.sqrt(_RATIO) - 1) / 2)) + 1
    # Anywhere within the square; a crop that is larger than it, anywhere around it.
    left = border + rng.uniform(*sorted((0.0, side - width)))
    top = border + rng.uniform(*sorted((0.0, side - height)))
    padded = Image.fromarray(
        np.pad(np.asarray(image), ((border, border), (border, border), (0, 0)), "reflect")
    )
    left, top = max(left, 0.0), max(top, 0.0)
    box = (left, top, min(left + width, padded.width), min(top + height, padded.height))
    size = (image_size, image_size)
    cut = padded.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    if rng.random() < 0.5:
        cut = ImageOps.mirror(cut)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        cut = enhance(cut).enhance(1 + float(rng.uniform(-_CHANGE, _CHANGE)))
    return cut
