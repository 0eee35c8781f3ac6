"""Small upright pictures of photos, for people."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from headstart.data.decode import array_to_image, measure_square, open_image
from headstart.data.stream import Content
from headstart.errors import UnreadablePhotoError

Heat = npt.NDArray[np.floating]
Colours = npt.NDArray[np.uint8]

# Of the hottest places; the photo must stay visible. Of 255, outside of the central square.
_OPACITY, _DIMMED = 0.75, 110


def make_thumbnail(content: Path | Content, side: int = 96) -> bytes:
    r"""The whole photo as JPEG bytes, its longer side ``side`` pixels at most; without metadata.

    Raises:
        UnreadablePhotoError: It cannot be read.

    >>> make_thumbnail(np.zeros((300, 200, 3), np.uint8))[:2]
    b'\xff\xd8'
    """
    stream = io.BytesIO()
    open_upright(content, side).save(stream, "JPEG", quality=80, comment=b"")
    return stream.getvalue()


def try_thumbnail(content: Path | Content, side: int = 96) -> bytes:
    """What `make_thumbnail` gives; no bytes where the photo cannot be read any more."""
    try:
        return make_thumbnail(content, side)
    except UnreadablePhotoError:
        return b""


def open_upright(content: Path | Content, side: int) -> Image.Image:
    """The whole photo as RGB, upright, its longer side ``side`` pixels at most.

    Raises:
        UnreadablePhotoError: It cannot be read.
    """
    return _open_measured(content, side)[0]


def _open_measured(content: Path | Content, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """What `open_upright` gives, and width and height of the photo itself (before it is turned)."""
    try:
        if isinstance(content, Path):
            content = content.read_bytes()
        if isinstance(content, bytes):
            image = open_image(content)
        else:
            image = content if isinstance(content, Image.Image) else array_to_image(content)
        size = image.size
        image.draft("RGB", (2 * side, 2 * side))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        upright.thumbnail((side, side))
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise UnreadablePhotoError(str(error)) from error
    return upright, size


def overlay_heat(
    content: Path | Content, heat: Heat, colours: Colours, network_size: int, side: int = 640
) -> bytes:
    """The photo as PNG bytes with a heat map on it; darker where the network does not look.

    Args:
        content: The photo.
        heat: ``(row, column)`` between 0 and 1, over its central square.
        colours: ``(256, 3)`` uint8, from cold to hot.
        network_size: Side of the square that the network takes, in pixels.
        side: Longer side of the result in pixels, at most; a photo is not enlarged.

    Raises:
        UnreadablePhotoError: It cannot be read.
    """
    photo, layer = _paint_heat(content, heat, colours, network_size, side)
    found = photo.convert("RGBA")
    found.alpha_composite(layer)
    return _dump_png(found.convert("RGB"))


def make_heat_layer(
    content: Path | Content, heat: Heat, colours: Colours, network_size: int, side: int = 48
) -> bytes:
    """What `overlay_heat` lays over a photo, small and alone, as a PNG with transparency.

    Raises:
        UnreadablePhotoError: The photo cannot be read.
    """
    return _dump_png(_paint_heat(content, heat, colours, network_size, side)[1])


def _paint_heat(
    content: Path | Content, heat: Heat, colours: Colours, network_size: int, side: int
) -> tuple[Image.Image, Image.Image]:
    """A photo, made smaller, and the layer for it."""
    photo, size = _open_measured(content, side)
    width, height = photo.size
    share = measure_square(*size, network_size) / min(size)
    square = max(1, round(min(width, height) * share))
    grey = Image.fromarray((255 * np.clip(heat, 0, 1)).astype(np.uint8))
    levels = np.asarray(grey.resize((square, square), Image.Resampling.BICUBIC))
    alpha = (_OPACITY * levels).astype(np.uint8)
    layer = Image.new("RGBA", (width, height), (0, 0, 0, _DIMMED))
    corner = ((width - square) // 2, (height - square) // 2)
    layer.paste(Image.fromarray(np.dstack([colours[levels], alpha])), corner)
    return photo, layer


def _dump_png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def read_upright(content: bytes) -> npt.NDArray[np.uint8]:
    """``(height, width, 3)`` a whole file upright and in RGB, as plain Pillow gives it.

    Colour profiles, transparency and 16-bit values are not treated as `decode_photo` does.

    Raises:
        UnreadablePhotoError: It cannot be read.
    """
    try:
        return np.asarray(ImageOps.exif_transpose(open_image(content)).convert("RGB"))
    except Exception as error:  # as above
        raise UnreadablePhotoError(str(error)) from error
