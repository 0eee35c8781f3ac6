"""One photo: upright, in sRGB, square, the same everywhere, or refused with a reason."""

from __future__ import annotations

import csv
import io
import struct
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin

from headstart.data import decode
from headstart.data.decode import (
    DECODE_VERSION,
    FORMATS,
    LIMITS,
    Limits,
    array_to_image,
    decode_photo,
    measure_square,
    square_image,
)
from headstart.errors import UnreadablePhotoError
from headstart.files import digest_bytes

# Pillow warns about damaged metadata; users see that, and the pixels are what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def make_pixels(width: int, height: int) -> np.ndarray:
    """Different in every direction: red grows to the right, green downwards, blue is a corner."""
    y, x = np.mgrid[0:height, 0:width]
    blue = 255 * ((x < width // 2) & (y < height // 2))
    return np.stack([255 * x // width, 255 * y // height, blue], axis=-1).astype(np.uint8)


def encode(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(stream, kind, **options)
    return stream.getvalue()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(UnreadablePhotoError) as caught:
        decode_photo(data, 8, **options)
    return str(caught.value)


# How a camera stores an upright picture under each value of the EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def store(upright: np.ndarray, orientation: int, kind: str, **options: Any) -> bytes:
    image = Image.fromarray(upright)
    if STORED[orientation] is not None:
        image = image.transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("size", [(96, 64), (61, 97), (600, 400)])
def test_every_orientation_gives_the_upright_picture(orientation, size):
    upright = make_pixels(*size)
    expected = decode_photo(encode(upright), 32)
    assert difference(decode_photo(store(upright, orientation, "PNG"), 32), expected) < 1
    assert difference(decode_photo(store(upright, orientation, "TIFF"), 32), expected) < 1
    lossy = decode_photo(store(upright, orientation, "JPEG", quality=98), 32)
    assert difference(lossy, expected) < 4


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = make_pixels(32, 32)
    found = decode_photo(encode(pixels, exif=exif), 16)
    assert np.array_equal(found, decode_photo(encode(pixels), 16))


def test_a_broken_exif_block_is_ignored():
    pixels = make_pixels(32, 32)
    data = encode(pixels, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    assert np.array_equal(decode_photo(data, 16), decode_photo(encode(pixels, "JPEG"), 16))


def test_the_orientation_is_applied_once_to_an_image_that_is_not_loaded_yet():
    data = store(make_pixels(96, 64), 6, "TIFF")
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(square_image(image, 16), decode_photo(data, 16))


@pytest.mark.parametrize("name", ["Landscape", "Portrait"])
def test_real_files_of_every_orientation(photos_folder, name):
    folder = photos_folder / "odd-images" / "valid-odd" / "exif-orientation"
    upright = decode_photo((folder / f"{name}_1.jpg").read_bytes(), 32)
    for orientation in range(9):
        found = decode_photo((folder / f"{name}_{orientation}.jpg").read_bytes(), 32)
        # Each file bears its own number in large letters.
        assert difference(found, upright) < 12, orientation
        for turn in (1, 2, 3):
            assert difference(np.rot90(found, turn), upright) > 20


def test_the_middle_is_kept():
    pixels = np.full((100, 300, 3), 80, np.uint8)
    pixels[6:94, 106:194] = 200
    assert decode_photo(encode(pixels), 40).min() > 150
    pixels[10:90, 110:190] = 80
    edge = decode_photo(encode(pixels), 40)
    assert edge[0].min() > 150
    assert edge[8:32, 8:32].max() < 100


@pytest.mark.parametrize(
    ("size", "side"),
    [((300, 200), 175), ((64, 70), 56), ((60, 99), 56), ((56, 56), 56), ((7, 9), 7)],
)
def test_nothing_is_cut_away_that_would_be_missing(size, side):
    assert measure_square(*size, 56) == side
    image = Image.fromarray(make_pixels(*size))
    box = ((size[0] - side) / 2, (size[1] - side) / 2, (size[0] + side) / 2, (size[1] + side) / 2)
    kind = Image.Resampling.HAMMING if side >= 56 else Image.Resampling.BICUBIC
    expected = np.asarray(image.resize((56, 56), kind, box=box, reducing_gap=3.0))
    assert np.array_equal(square_image(image, 56), expected)
    # For another size, such as that of the source of views, the same square in other pixels.
    larger = square_image(image, 64, network_size=56).astype(float)
    assert larger.shape == (64, 64, 3)
    again = np.asarray(Image.fromarray(larger.astype(np.uint8)).resize((56, 56)), float)
    assert abs(again - expected).mean() < 4


def test_transparent_parts_of_a_palette_are_white():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(0, (0, 0, 10, 20))
    data = encode(image, transparency=0)
    pixels = decode_photo(data, 16)
    assert pixels[8, 1].tolist() == [255, 255, 255]
    assert pixels[8, 14].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 128), (127, 127, 127)),
        ("LA", (9, 0), (255, 255, 255)),
    ],
)
def test_transparency_is_on_white(mode, colour, expected):
    data = encode(Image.new(mode, (16, 16), colour))
    assert decode_photo(data, 8)[4, 4].tolist() == list(expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_a_transparent_colour_is_white(mode):
    black = 0 if mode != "RGB" else (0, 0, 0)
    data = encode(Image.new(mode, (16, 16), black), transparency=black)
    assert decode_photo(data, 8)[4, 4].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (200, 1), (32768, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_and_not_clipped(value, expected):
    data = encode(np.full((16, 16), value, np.uint16))
    assert set(decode_photo(data, 8).ravel().tolist()) == {expected}


def test_float_values_are_scaled_from_their_least_to_their_greatest():
    ramp = np.tile(np.linspace(-3, 5, 64, dtype=np.float32), (64, 1))
    columns = decode_photo(encode(ramp, "TIFF"), 16)[8, :, 0].astype(int)
    assert (np.diff(columns) > 0).all()
    assert columns[0] < 40
    assert columns[-1] > 215


def test_values_that_are_not_numbers_do_not_spoil_the_others():
    values = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    values[:20, :20], values[:20, 20:40], values[:20, 40:] = np.nan, np.inf, -np.inf
    columns = decode_photo(encode(values, "TIFF"), 16)[12, :, 0].astype(int)
    assert (np.diff(columns) > 0).all()
    assert refusal(encode(np.full((9, 9), np.nan, np.float32), "TIFF")) == "no finite pixel value"


def test_32_bit_integers_are_scaled():
    values = np.tile(np.linspace(-(2**31), 2**31 - 1, 64).astype(np.int32), (64, 1))
    columns = decode_photo(encode(values, "TIFF"), 16)[8, :, 0].astype(int)
    assert (np.diff(columns) > 0).all()


@pytest.mark.parametrize(("kind", "tolerance"), [("TIFF", 0), ("JPEG", 6)])
def test_cmyk(kind, tolerance):
    for ink, expected in {(0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}.items():
        found = decode_photo(encode(Image.new("CMYK", (32, 32), ink), kind), 8)
        assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "LAB", "I", "F", "RGBa"])
def test_every_mode_becomes_rgb(mode):
    found = square_image(Image.new(mode, (9, 7)), 8)
    assert found.shape == (8, 8, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_frame_is_taken(kind):
    if kind not in Image.SAVE_ALL:
        pytest.skip(f"this Pillow writes no {kind}")
    red, *others = (Image.new("RGB", (32, 32), name) for name in ("red", "lime", "blue"))
    data = encode(red, kind, save_all=True, append_images=others)
    found = decode_photo(data, 8).astype(int)
    assert np.abs(found - [255, 0, 0]).max() < 12


@pytest.fixture(scope="module")
def swapped_profile() -> bytes:
    """A profile in which red and blue are exchanged: sRGB with two tags renamed."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    table = profile.replace(b"rXYZ", b"wait").replace(b"bXYZ", b"rXYZ").replace(b"wait", b"bXYZ")
    assert table != profile
    return table


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_colour_profile_is_converted(swapped_profile, kind):
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    data = encode(Image.new("RGB", (32, 32), "red"), kind, icc_profile=swapped_profile, **options)
    assert np.abs(decode_photo(data, 8).astype(int) - [0, 0, 255]).max() < 12


def test_the_colour_profile_is_converted_of_palettes_and_transparent_images(swapped_profile):
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    for mode in ("P", "RGBA"):
        data = encode(image.convert(mode), icc_profile=swapped_profile)
        assert np.abs(decode_photo(data, 8).astype(int) - [0, 0, 255]).max() < 3


def test_srgb_stays_as_it_is():
    pixels = make_pixels(64, 64)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = decode_photo(encode(pixels, icc_profile=profile), 16)
    assert difference(found, decode_photo(encode(pixels), 16)) < 1


def test_a_profile_that_does_not_fit_is_ignored(swapped_profile):
    grey, pixels = make_pixels(32, 32)[:, :, 0], make_pixels(32, 32)
    for image, profile in ((grey, swapped_profile), (pixels, b"no profile"), (pixels, b"\0" * 200)):
        found = decode_photo(encode(image, icc_profile=profile), 16)
        assert np.array_equal(found, decode_photo(encode(image), 16))


def test_a_jpeg_that_is_scaled_while_loading_is_nearly_the_same(monkeypatch):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (30, 40, 3), np.uint8)
    pixels = Image.fromarray(coarse).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = encode(pixels, "JPEG", quality=92)
    loaded = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def spy(self, mode, size):
        result = draft(self, mode, size)
        loaded.append(self.size)
        return result

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    scaled = decode_photo(data, 64)
    assert loaded == [(200, 150)]
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
    plain = decode_photo(data, 64)
    assert difference(scaled, plain) < 1
    assert np.abs(scaled.astype(int) - plain).max() <= 6


@pytest.mark.parametrize(("size", "image_size"), [((300, 200), 128), ((1000, 1000), 224)])
def test_a_jpeg_is_never_scaled_below_what_is_needed(size, image_size, monkeypatch):
    data = encode(make_pixels(*size), "JPEG")
    found = decode_photo(data, image_size)
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", lambda *_: None)
    assert np.array_equal(found, decode_photo(data, image_size))


def test_limits_are_inclusive():
    data = encode(make_pixels(10, 10))
    decode_photo(data, 8, Limits(file_bytes=len(data), pixels=100))
    assert "more than the limit of 0 MB" in refusal(data, limits=Limits(file_bytes=len(data) - 1))
    reason = refusal(data, limits=Limits(pixels=99))
    assert reason == "10 x 10 pixels, more than the limit of 99"


def make_png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def make_jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encode(make_pixels(16, 16), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        make_png_that_claims(11_000, 10_000),
        make_png_that_claims(50_000, 50_000),
        make_png_that_claims(2**31 - 1, 2**31 - 1),
        make_jpeg_that_claims(12_000, 12_000),
        make_jpeg_that_claims(65_500, 65_500),
    ],
    ids=lambda data: data[:4].hex() + str(len(data)),
)
def test_small_files_that_claim_many_pixels_are_refused_at_once(data):
    start = time.perf_counter()
    assert f"{LIMITS.pixels:,}" in refusal(data)
    assert time.perf_counter() - start < 2


JPEG = encode(make_pixels(64, 64), "JPEG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (JPEG[: len(JPEG) // 2], "damaged image"),
        (JPEG[:-40], "damaged image"),
        (encode(make_pixels(64, 64))[:150], "damaged image"),
        (b"\n <!DOCTYPE html><html>404</html>", "text (HTML, XML or SVG)"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04" + bytes(30), "a zip archive"),
        (LFS, "git lfs pull"),
        (HEIC, "damaged image (Invalid input"),
        (b"\x00\x05\x16\x07" + bytes(30), "AppleDouble"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xff", "not an image of a known format"),
        (bytes(4096), "not an image of a known format"),
        (b"just a note", "not an image of a known format"),
        (make_png_that_claims(0, 5), "not an image of a known format"),
    ],
)
def test_the_reason_says_what_is_wrong(data, words):
    assert words in refusal(data)


def test_pillow_has_a_reader_for_every_format_name():
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)
    assert not {"EPS", "WMF"} & set(FORMATS)


@pytest.mark.parametrize("kind", ["BMP", "TGA", "ICO", "PCX", "SGI", "DIB", "DDS", "PPM"])
def test_rarer_formats(kind):
    found = decode_photo(encode(make_pixels(32, 32), kind), 16)
    assert np.array_equal(found, decode_photo(encode(make_pixels(32, 32)), 16))


STRIPED = {
    "I;16": make_pixels(40, 60)[:, :, 0].astype(np.uint16) * 200,
    "I": make_pixels(40, 60)[:, :, 0].astype(np.int32) * -(2**22),
    "F": np.where(make_pixels(40, 60)[:, :, 2] > 0, np.nan, make_pixels(40, 60)[:, :, 0] / 7),
    "RGBA": np.dstack([make_pixels(40, 60), make_pixels(40, 60)[:, :, 1]]),
    "LA": make_pixels(40, 60)[:, :, :2],
}


@pytest.mark.parametrize("mode", [*STRIPED, "P", "RGB with a transparent colour"])
def test_large_images_are_converted_in_strips_with_the_same_pixels(mode, monkeypatch):
    if mode in STRIPED:
        values = STRIPED[mode]
        image = Image.fromarray(values.astype(np.float32) if mode == "F" else values)
        assert image.mode == mode
    else:
        image = Image.fromarray(make_pixels(40, 60)).convert(mode[:3].strip())
        image.info["transparency"] = 5 if mode == "P" else (0, 0, 255)
    whole = square_image(image, 32)
    crops = []
    crop = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda *a: crops.append(a[1]) or crop(*a))
    monkeypatch.setattr(decode, "_STRIP_PIXELS", 7 * 40)
    assert np.array_equal(square_image(image, 32), whole)
    assert len(crops) >= 9


def test_16_bits_need_little_memory_besides_the_image():
    image = Image.new("I;16", (6000, 5000), 700)
    tracemalloc.start()
    assert square_image(image, 16)[3, 3, 0] == round(700 / 257)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # 30 million float64 would be 240 MB


def test_multi_picture_files_are_scaled_while_loading(monkeypatch):
    pixels = Image.fromarray(make_pixels(1600, 1200))
    data = encode(pixels, "MPO", save_all=True, append_images=[pixels])
    sizes = []
    draft = JpegImagePlugin.JpegImageFile.draft
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile,
        "draft",
        lambda self, *a: (draft(self, *a), sizes.append(self.size))[0],
    )
    assert difference(decode_photo(data, 64), decode_photo(encode(pixels), 64)) < 2
    assert sizes == [(200, 150)]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (20_000, 2), (2, 20_000), (1, 9_999)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_extreme_shapes(size, kind):
    data = encode(Image.new("RGB", size, (200, 100, 50)), kind)
    found = decode_photo(data, 24)
    assert found.shape == (24, 24, 3)
    assert np.abs(found.astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (1, 1), (3, 224, 3)])
def test_arrays_that_are_images(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = array_to_image(array)
    assert image.size == (shape[1], shape[0])
    assert np.array_equal(np.asarray(image).reshape(shape), array)


def test_arrays_need_not_be_contiguous():
    array = make_pixels(40, 30)
    view = array[::-2, 1::3]
    assert np.array_equal(np.asarray(array_to_image(view)), view)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 7, 3)),
        np.zeros((5, 7, 3), np.uint16),
        np.zeros((5, 7), bool),
        np.zeros(5, np.uint8),
        np.zeros((5, 7, 2), np.uint8),
        np.zeros((3, 5, 7), np.uint8),
        np.zeros((1, 5, 7, 3), np.uint8),
        np.zeros((0, 7, 3), np.uint8),
        np.zeros((5, 0), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda array: f"{array.shape}-{array.dtype}",
)
def test_arrays_that_are_not(array):
    with pytest.raises(UnreadablePhotoError) as caught:
        array_to_image(array)
    assert f"shape {array.shape} and dtype {array.dtype}" in str(caught.value)


def test_an_array_and_its_file_are_the_same_photo():
    pixels = make_pixels(50, 40)
    found = square_image(array_to_image(pixels), 16)
    assert np.array_equal(found, decode_photo(encode(pixels), 16))


def test_the_same_bytes_are_always_the_same_pixels():
    photos = [encode(make_pixels(300 + n, 200), "JPEG", quality=80) for n in range(6)]
    expected = [decode_photo(data, 32) for data in photos]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda data: decode_photo(data, 32), photos * 5))
    for number, pixels in enumerate(found):
        assert np.array_equal(pixels, expected[number % len(photos)])


def test_the_pixels_of_this_decode_version():
    # Other pixels mean other activations: raise DECODE_VERSION, then put the new digest here.
    found = {
        size: digest_bytes(decode_photo(encode(make_pixels(*size)), 16).tobytes())[:12]
        for size in ((100, 80), (17, 200), (8, 8))
    }
    digests = {(100, 80): "957bce7b6ab7", (17, 200): "bf1e3ceff1b7", (8, 8): "0f5bf4bd2931"}
    assert (DECODE_VERSION, found) == (3, digests)


# A changed header may claim a large picture, which is legal and would take long.
FUZZ_LIMITS = Limits(pixels=200_000)

SMALL = np.arange(14 * 10 * 3, dtype=np.uint8).reshape(14, 10, 3)
FILES = [
    encode(SMALL, kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")
]


@given(
    data=st.sampled_from(FILES),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    length=st.floats(0, 1) | st.just(1.0),
)
@settings(max_examples=250, deadline=None, derandomize=True)
def test_damaged_files_are_decoded_or_refused(data, places, length):
    changed = bytearray(data)
    for place, value in places:
        changed[int(place * (len(changed) - 1))] = value
    check_decoded_or_refused(bytes(changed[: int(length * len(changed))]))


@given(data=st.binary(max_size=200))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_bytes_are_decoded_or_refused(data):
    check_decoded_or_refused(data)


def check_decoded_or_refused(data: bytes, limits: Limits = FUZZ_LIMITS) -> str | None:
    """The reason of a refusal, or None."""
    reason = None
    try:
        pixels = decode_photo(data, 8, limits)
    except UnreadablePhotoError as error:
        reason = str(error)
    assert len(reason) > 8 if reason is not None else pixels.shape == (8, 8, 3)
    return reason


def test_odd_and_broken_files(photos_folder):
    folder = photos_folder / "odd-images"
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 100
    for row in rows:
        start = time.perf_counter()
        reason = check_decoded_or_refused((folder / row["path"]).read_bytes(), LIMITS)
        assert time.perf_counter() - start < 5, row["path"]
        is_readable = row["expected"] == "decodes" and "12000x12000" not in row["path"]
        assert is_readable == (reason is None), (row["path"], reason)
