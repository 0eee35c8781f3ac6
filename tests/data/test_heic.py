"""HEIC: upright once, 10 bits scaled, the profile converted; without its reader a pip line."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from headstart.data.decode import Limits, decode_photo
from headstart.data.heic import is_heic, open_heic
from headstart.data.registration import read_thumbnail
from headstart.data.thumbnails import make_thumbnail
from headstart.errors import UnreadablePhotoError

pillow_heif = pytest.importorskip("pillow_heif")


def make_pixels(width: int = 96, height: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    blue = 255 * ((x < width // 2) & (y < height // 2))
    return np.stack([255 * x // width, 255 * y // height, blue], axis=-1).astype(np.uint8)


def encode(pixels: Any, kind: str = "HEIF", **options: Any) -> bytes:
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    stream = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(stream, quality=95, chroma=444, **options)
    else:
        image.save(stream, kind, **options)
    return stream.getvalue()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


EXPECTED = decode_photo(encode(make_pixels(), "PNG"), 32)


def test_the_pixels_are_those_of_a_png() -> None:
    data = encode(make_pixels())
    assert is_heic(data)
    assert difference(decode_photo(data, 32), EXPECTED) < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_is_applied_once(orientation: int) -> None:
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = Image.fromarray(make_pixels())
    image = image if stored is None else image.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Written as phones do: irot and imir, and the EXIF block that says the same.
    data = encode(image, exif=exif.tobytes())
    assert b"irot" in data or b"imir" in data or orientation == 1
    assert difference(decode_photo(data, 32), EXPECTED) < 2


def test_an_exif_rotation_alone_is_not_for_readers() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    upright = encode(make_pixels(), exif=exif.tobytes())
    tag = b"\x01\x12\0\x03\0\0\0\x01\0"
    assert upright.count(tag + b"\x01") == 1
    data = upright.replace(tag + b"\x01", tag + b"\x06")
    assert b"irot" not in data
    assert difference(decode_photo(data, 32), EXPECTED) < 2


@pytest.mark.parametrize("mode", ["RGB;16", "RGBA;16", "I;16"])
def test_more_than_8_bits_are_scaled(mode: str) -> None:
    pixels = make_pixels().astype(np.uint16) * 257
    expected = EXPECTED
    if mode == "I;16":
        pixels = pixels[:, :, 0]
        expected = decode_photo(encode(make_pixels()[:, :, 0], "PNG"), 32)
    elif mode == "RGBA;16":
        pixels = np.dstack([pixels, np.full(pixels.shape[:2], 65535, np.uint16)])
    size = (pixels.shape[1], pixels.shape[0])
    stream = io.BytesIO()
    image = pillow_heif.from_bytes(mode, size, np.ascontiguousarray(pixels).tobytes())
    image.save(stream, quality=95, chroma=444)
    assert pillow_heif.open_heif(stream, convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert difference(decode_photo(stream.getvalue(), 32), expected) < 2.5


def test_the_colour_profile_is_converted() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"wait").replace(b"bXYZ", b"rXYZ").replace(b"wait", b"bXYZ")
    image = Image.new("RGB", (64, 64), "red")
    image.info["icc_profile"] = swapped
    found = decode_photo(encode(image), 8).astype(int)
    assert np.abs(found - [0, 0, 255]).max() < 14


def test_transparency_is_on_white() -> None:
    found = decode_photo(encode(Image.new("RGBA", (64, 64), (255, 0, 0, 0))), 8).astype(int)
    assert found.min() > 250


def test_limits_hold_before_the_pixels_are_read() -> None:
    data = encode(make_pixels())
    with pytest.raises(UnreadablePhotoError, match="96 x 64 pixels, more than the limit of 6,000"):
        decode_photo(data, 8, Limits(pixels=6_000))


def test_damage_is_a_reason() -> None:
    data = encode(make_pixels())
    reasons = set()
    for cut in range(0, len(data) - 1, 37):
        with pytest.raises(UnreadablePhotoError) as caught:
            decode_photo(data[:cut], 8)
        reasons.add(str(caught.value).split(" (")[0])
    assert reasons <= {"empty file", "not an image of a known format", "damaged image"}
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(data), 150):
        changed = bytearray(data)
        changed[position] ^= 0xFF
        with contextlib.suppress(UnreadablePhotoError):
            assert decode_photo(bytes(changed), 8, Limits(pixels=10**6)).shape == (8, 8, 3)


def test_without_its_reader_the_reason_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "pillow_heif" else find_spec(name),
    )
    with pytest.raises(UnreadablePhotoError) as caught:
        decode_photo(encode(make_pixels()), 8)
    assert str(caught.value) == (
        "reading HEIC photos needs the package pillow_heif, which is not installed. "
        'Install it with: pip install "headstart[heic]"'
    )


def box(brand: bytes, *compatible: bytes) -> bytes:
    content = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return (len(content) + 4).to_bytes(4, "big") + content + b"heicheic"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (box(b"heic"), True),
        (box(b"heix", b"mif1"), True),
        (box(b"mif1", b"mif1", b"heic"), True),
        (box(b"mif1", b"avif", b"miaf"), False),  # the bytes after the box do not count
        (box(b"mif1", b"miaf"), True),
        (box(b"avif", b"mif1"), False),
        (box(b"isom", b"mp42"), False),
        (b"", False),
        (b"\0\0\0\x18ftyp", False),
        (b"\xff\xd8\xff\xe0", False),
    ],
)
def test_which_files_are_heic(data: bytes, expected: bool) -> None:
    assert is_heic(data) == expected


def test_what_is_opened_says_that_it_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_heic(io.BytesIO(encode(make_pixels(), exif=exif.tobytes())))
    assert image.size == (64, 96)
    assert image.getexif().get(0x0112, 1) == 1


def test_thumbnails_are_made_of_it() -> None:
    image = Image.open(io.BytesIO(make_thumbnail(encode(make_pixels()), 48)))
    assert image.size == (48, 32)


def test_near_duplicates_are_looked_for_among_heic_photos_too() -> None:
    found, expected = (read_thumbnail(encode(make_pixels(), kind)) for kind in ("HEIF", "PNG"))
    assert difference(found, expected) < 4
