"""Thumbnails: whole, upright, small."""

import io

import numpy as np
import pytest
from PIL import Image

from headstart.data.thumbnails import make_thumbnail
from headstart.errors import UnreadablePhotoError


def open_jpeg(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    return image


def test_whole_photo_with_its_proportions() -> None:
    pixels = np.zeros((400, 200, 3), np.uint8)
    pixels[:40] = 255
    image = open_jpeg(make_thumbnail(pixels, 100))
    assert image.size == (50, 100)
    assert image.convert("L").getpixel((25, 2)) > 200


def test_rotation_is_applied(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.new("RGB", (300, 100)).save(path, exif=exif)
    assert open_jpeg(make_thumbnail(path)).size == (32, 96)


def test_transparent_and_grey_photos_become_jpeg() -> None:
    for mode in ("RGBA", "LA", "P", "I;16"):
        assert open_jpeg(make_thumbnail(Image.new(mode, (10, 10)))).size == (10, 10)


def test_what_cannot_be_read_has_a_reason() -> None:
    with pytest.raises(UnreadablePhotoError, match="not an image of a known format"):
        make_thumbnail(b"no image")
