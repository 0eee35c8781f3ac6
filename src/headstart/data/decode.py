"""Bytes of a photo → square uint8 RGB. The only decoder in the product.

Training, prediction, evaluation and all that follows call `decode_photo`, so that the same bytes
always become the same pixels. What happens, in this order: limits on bytes and pixels; the first
frame; JPEG scaled while loading where that is exact enough; 16-bit and float values scaled to 8
bits; transparency on white; the central square resized with antialiasing; the colour profile
converted to sRGB; the EXIF rotation applied. The last two commute with the central square, and are
a thousand times cheaper after it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from headstart.data.damage import load_strictly
from headstart.data.heic import is_heic, open_heic
from headstart.errors import UnreadablePhotoError

Pixels = npt.NDArray[np.uint8]

# Part of every cache key and bundle: raised whenever the same bytes would become other pixels.
DECODE_VERSION = 3

# What Pillow reads without other programs (EPS would start Ghostscript) and without a network;
# HEIC comes beside it. docs/formats.md is the list for people. A name that Pillow has no reader for
# would make it fail on all formats after it ("MPO": its files are opened as JPEG).
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"),
    *("ICO", "PCX", "SGI", "DIB", "QOI", "DDS"),
)

# The share of the shorter side that is kept where that has the pixels which the network takes: the
# networks were evaluated on the central 224 pixels of photos whose shorter side was 256. Of smaller
# photos all is kept; docs/recipes.md compares the alternatives.
KEPT_SHARE = 0.875

# A JPEG is scaled while loading (DCT scaling by 2, 4 or 8) when the result still has this many
# times the pixels per side that are needed, so that the antialiased resize decides what is kept.
DRAFT_MARGIN = 2.0

_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Limits:
    """What a photo may cost at most. A larger one becomes a problem with this reason."""

    file_bytes: int = 256 * 2**20
    pixels: int = 100_000_000


LIMITS = Limits()

# Pillow warns from 89 million pixels on and refuses from 178 million on; our own limit lies
# between and gives a reason with both numbers, so that the warning would only be noise.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module="PIL")


def measure_square(width: int, height: int, network_size: int) -> float:
    """Side, in pixels of the photo, of the central square that the network sees.

    No pixel is cut away of a photo that has fewer than the network takes: it must be enlarged as it
    is, and cutting would enlarge it further.

    Args:
        width: Of the photo in pixels.
        height: Likewise.
        network_size: Side of the square that the network takes, in pixels.

    >>> [measure_square(side, 2 * side, 224) for side in (1000, 256, 240, 100)]
    [875.0, 224.0, 224.0, 100.0]
    """
    shorter = float(min(width, height))
    return max(KEPT_SHARE * shorter, min(shorter, float(network_size)))


def decode_photo(
    data: bytes, image_size: int, limits: Limits = LIMITS, network_size: int | None = None
) -> Pixels:
    """The central square of a photo as ``(image_size, image_size, 3)`` uint8 RGB.

    Args:
        data: The bytes of an image file; its name does not matter.
        image_size: Side of the result in pixels.
        limits: What the photo may cost.
        network_size: Decides what is cut away, see `measure_square`; `image_size` by default.

    Raises:
        UnreadablePhotoError: With a reason that can be shown to a user.

    >>> stream = io.BytesIO()
    >>> Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(stream, "PNG")
    >>> decode_photo(stream.getvalue(), 8)[0, 0].tolist()  # transparent: white
    [255, 255, 255]
    """
    return decode_checked(data, image_size, limits, network_size)[0]


def decode_checked(
    data: bytes, image_size: int, limits: Limits = LIMITS, network_size: int | None = None
) -> tuple[Pixels, str | None]:
    """What `decode_photo` gives, and why the photo may be corrupt although it can be read, or None.

    Damage (see `headstart.data.damage`) is found at next to no cost.

    Raises:
        UnreadablePhotoError: With a reason that can be shown to a user.
    """
    try:
        with open_image(data, limits) as image:
            loaded, damage = _load(image, data, round(image_size / KEPT_SHARE * DRAFT_MARGIN))
            return square_image(loaded, image_size, network_size), damage
    except UnreadablePhotoError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        detail = str(error).strip() or type(error).__name__
        raise UnreadablePhotoError(f"damaged image ({detail})") from error


def open_image(data: bytes, limits: Limits = LIMITS) -> Image.Image:
    """A photo whose header was read and whose pixels were not, of any format that is accepted.

    Raises:
        UnreadablePhotoError: No image, none of ours, or one that is larger than the limits.
    """
    if not data:
        raise UnreadablePhotoError("empty file")
    if len(data) > limits.file_bytes:
        size, limit = len(data) / 2**20, limits.file_bytes / 2**20
        raise UnreadablePhotoError(f"{size:,.0f} MB, more than the limit of {limit:,.0f} MB")
    try:
        stream = io.BytesIO(data)
        image = open_heic(stream) if is_heic(data) else Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnreadablePhotoError(_describe_foreign(data)) from None
    except Image.DecompressionBombError:
        raise UnreadablePhotoError(f"more than {limits.pixels:,} pixels") from None
    if image.width * image.height > limits.pixels:
        raise UnreadablePhotoError(
            f"{image.width} x {image.height} pixels, more than the limit of {limits.pixels:,}"
        )
    return image


def _load(image: Image.Image, data: bytes, side: int) -> tuple[Image.Image, str | None]:
    """The image with its pixels, a JPEG scaled to no less than ``side``; and what is wrong."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        image.load()
        return image, None
    image.draft(None, (side, side))
    pixels, damage = load_strictly(data, image.size, image.mode)
    if pixels is None:
        image.load()
        return image, damage
    raw = "L" if image.mode == "L" else "RGBX"
    strict = Image.frombuffer(image.mode, image.size, pixels, "raw", raw, 0, 1)
    strict.info = image.info  # with profile and EXIF
    return strict, None


def square_image(image: Image.Image, image_size: int, network_size: int | None = None) -> Pixels:
    """The central square of an opened image as ``(image_size, image_size, 3)`` uint8 RGB.

    Args:
        image: As Pillow opened it.
        image_size: Side of the result in pixels.
        network_size: As in `decode_photo`.

    Raises:
        UnreadablePhotoError: The image has no pixels, or a mode that cannot become RGB.
    """
    if min(image.size) < 1:
        raise UnreadablePhotoError(f"no pixels ({image.width} x {image.height})")
    image.load()  # before the orientation is read: Pillow turns some formats (TIFF) while loading
    profile = image.info.get("icc_profile")
    orientation = _read_orientation(image)
    plain = _to_eight_bits(image)
    side = measure_square(*plain.size, network_size or image_size)
    left, top = (plain.width - side) / 2, (plain.height - side) / 2
    # Hamming downsizes as sharply as bicubic in two thirds of the time (docs/recipes.md), but
    # must not enlarge.
    is_smaller = side < image_size
    square = plain.resize(
        (image_size, image_size),
        Image.Resampling.BICUBIC if is_smaller else Image.Resampling.HAMMING,
        box=(left, top, left + side, top + side),
        reducing_gap=3.0,
    )
    square = _to_srgb(square, profile)
    if orientation in _TRANSPOSE:
        square = square.transpose(_TRANSPOSE[orientation])
    return np.asarray(square, np.uint8)


_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def array_to_image(array: npt.NDArray[Any]) -> Image.Image:
    """A Pillow image of a ``(height, width)`` or ``(height, width, 1|3|4)`` uint8 array.

    Raises:
        UnreadablePhotoError: Another shape or dtype.
    """
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_image or 0 in array.shape:
        raise UnreadablePhotoError(
            f"an array of shape {array.shape} and dtype {array.dtype}; accepted are "
            "(height, width), (height, width, 3) and (height, width, 4) of uint8"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        return 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """RGB, L or (with a profile) CMYK with 8 bits and no transparency."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _convert_strips(image, "L", _make_scaling(image))
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        return _convert_strips(image, "RGB", _lay_on_white)
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "CMYK" and "icc_profile" in image.info:
        return image  # its profile is for inks; without one, inks are mixed before resizing
    return image.convert("RGB")


# Four million pixels are 32 MB as float64, which a whole photo at the limit would need 800 MB for.
_STRIP_PIXELS = 2**22


def _cut_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Some rows at a time, each with its first row's number."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _convert_strips(
    image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    result = Image.new(mode, image.size)
    for top, strip in _cut_strips(image):
        result.paste(convert(strip), (0, top))
    return result


def _lay_on_white(image: Image.Image) -> Image.Image:
    coloured = image.convert("RGBA")
    white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, coloured).convert("RGB")


def _make_scaling(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """16-bit, 32-bit and float grey to 8 bits; Pillow's own conversion would clip at 255."""
    ranges = [_find_range(strip) for _, strip in _cut_strips(image)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if low > high:
        raise UnreadablePhotoError("no finite pixel value")
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0

    def scale(strip: Image.Image) -> Image.Image:
        values = np.nan_to_num(np.asarray(strip, np.float64), nan=low, posinf=high, neginf=low)
        return Image.fromarray(
            np.round((values - low) / max(high - low, 1e-30) * 255).astype(np.uint8)
        )

    return scale


def _find_range(image: Image.Image) -> tuple[float, float]:
    """Least and greatest finite value; infinity and minus infinity when there is none."""
    values = np.asarray(image, np.float64)
    finite = values[np.isfinite(values)] if image.mode == "F" else values
    if not finite.size:
        return np.inf, -np.inf
    return float(finite.min()), float(finite.max())


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and not (b"sRGB" in profile and image.mode == "RGB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            return converted or image.convert("RGB")
        except Exception:  # a broken or ill-fitting profile: the plain conversion is right enough
            return image.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"version https://git-lfs", "a Git LFS pointer; run: git lfs pull"),
    (b"<", "text (HTML, XML or SVG)"),
    (b"\x00\x05\x16\x07", "macOS metadata (AppleDouble)"),
    (b"%!PS", "PostScript, which is not read"),
)


def _describe_foreign(data: bytes) -> str:
    for signature, name in _SIGNATURES:
        if data.lstrip()[: len(signature)] == signature:
            return f"not an image but {name}"
    return "not an image of a known format"
