"""JPEGs that decoders accept although they are corrupt are flagged, and others are not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data import damage
from headstart.data.damage import describe_complaint, find_damage, load_strictly
from headstart.data.decode import decode_checked, decode_photo
from headstart.errors import UnreadablePhotoError

pytest.importorskip("simplejpeg")


def make_picture(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **{"quality": 90, **options})
    return stream.getvalue()


SOUND = encode(make_picture())


def corrupt(data: bytes, rng: np.random.Generator, count: int = 8) -> bytes:
    """Some bytes changed after the headers; none becomes a marker."""
    start = data.index(b"\xff\xda") + 14
    changed = bytearray(data)
    for place in rng.integers(start, len(data) - 2, count):
        changed[place] = (changed[place] + int(rng.integers(1, 254))) % 255
    return bytes(changed)


VARIANTS = [
    {"progressive": True},
    {"subsampling": 0},
    {"subsampling": 1},
    {"optimize": True},
    {"restart_marker_rows": 1},
    {"comment": b"x" * 60_000},
    {"quality": 3},
]


@pytest.mark.parametrize("options", [{}, *VARIANTS], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_sound_photos_are_not_flagged(options: dict[str, Any], mode: str) -> None:
    if mode == "L" and "subsampling" in options:
        pytest.skip("grey has no colours to subsample")
    data = encode(make_picture().convert(mode), **options)
    assert find_damage(data) is None
    assert decode_checked(data, 64)[1] is None


def test_most_photos_with_changed_bytes_are_flagged_or_refused() -> None:
    rng = np.random.default_rng(0)
    silent = accepted = 0
    for _ in range(100):
        data = corrupt(SOUND, rng)
        try:
            pixels, flag = decode_checked(data, 64)
        except UnreadablePhotoError:
            continue
        accepted += 1
        silent += flag is None
        assert flag == find_damage(data)
        assert flag is None or flag.startswith("may be corrupt: ")
        assert np.array_equal(pixels, decode_photo(data, 64))
    assert accepted > 50
    assert silent < 0.25 * accepted


def test_a_flagged_photo_has_the_pixels_that_pillow_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    data = next(d for d in (corrupt(SOUND, rng) for _ in range(50)) if find_damage(d))
    pixels, flag = decode_checked(data, 64)
    assert flag
    monkeypatch.setattr(damage, "can_check", lambda: False)
    assert decode_checked(data, 64)[1] is None
    assert np.array_equal(decode_photo(data, 64), pixels)


@pytest.mark.parametrize("options", [{}, *VARIANTS], ids=str)
@pytest.mark.parametrize("size", [(320, 240), (333, 217), (1601, 1203), (48, 1999), (9, 17)])
def test_pixels_are_the_same_with_and_without_simplejpeg(
    options: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("RGB", "L"):
        if mode == "L" and "subsampling" in options:
            continue
        picture = make_picture(320, 240).resize(size).convert(mode)
        data = encode(picture, **options)
        for image_size in (16, 96):
            found = decode_photo(data, image_size)
            with monkeypatch.context() as patch:
                patch.setattr(damage, "can_check", lambda: False)
                assert np.array_equal(decode_photo(data, image_size), found)


def test_usual_photos_are_read_strictly_at_once() -> None:
    pixels, flag = load_strictly(SOUND, (320, 240), "RGB")
    assert flag is None
    assert pixels is not None
    assert np.array_equal(pixels[:, :, :3], np.asarray(Image.open(io.BytesIO(SOUND))))
    half, _ = load_strictly(SOUND, (160, 120), "RGB")
    assert half is not None
    assert half.shape == (120, 160, 4)


def test_profile_and_rotation_survive_the_strict_way(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(make_picture(), exif=exif)
    found = decode_photo(data, 32)
    assert not np.array_equal(found, decode_photo(SOUND, 32))
    monkeypatch.setattr(damage, "can_check", lambda: False)
    assert np.array_equal(decode_photo(data, 32), found)


def test_other_formats_are_not_looked_at() -> None:
    stream = io.BytesIO()
    make_picture().save(stream, "PNG")
    assert find_damage(stream.getvalue()) is None
    assert find_damage(b"") is None


def test_what_comes_before_the_picture_is_not_its_damage() -> None:
    start = SOUND.index(b"\xff\xdb")
    data = SOUND[:start] + b"stray" + SOUND[start:]
    assert find_damage(data) is None
    assert decode_checked(data, 64)[1] is None
    assert np.array_equal(decode_photo(data, 64), decode_photo(SOUND, 64))


@pytest.mark.parametrize(
    ("text", "is_damage"),
    [
        ("Corrupt JPEG data: 9554 extraneous bytes before marker 0xd9", True),
        ("Corrupt JPEG data: 3 extraneous bytes before marker 0xd4", True),
        ("Corrupt JPEG data: 16 extraneous bytes before marker 0xe1", False),
        ("Corrupt JPEG data: 1 extraneous bytes before marker 0xdb", False),
        ("Corrupt JPEG data: bad Huffman code", True),
        ("Corrupt JPEG data: bad ICC marker", False),
        ("Warning: unknown JFIF revision number 7.2", False),
        ("tjDecompressHeader3(): Could not determine subsampling level of JPEG image", False),
        ("Inconsistent progression sequence for component 0 coefficient 1", True),
        ("Premature end of JPEG file", True),
    ],
)
def test_which_complaints_count(text: str, is_damage: bool) -> None:
    assert (describe_complaint(text) is not None) == is_damage


def test_the_known_files(photos_folder: Path) -> None:
    folder = photos_folder / "odd-images" / "malformed"
    flagged = set()
    for path in folder.rglob("*"):
        if path.is_file():
            try:
                if decode_checked(path.read_bytes(), 64)[1]:
                    flagged.add(path.name)
            except UnreadablePhotoError:
                continue
    assert flagged == {f"bitrot_{number}.jpg" for number in (1, 3, 4, 5)}


def test_no_real_photo_is_flagged_and_all_have_pillows_pixels(
    photos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        path
        for name in ("clothing/test", "imagenet-sample", "odd-images/valid-odd")
        for path in sorted((photos_folder / name).rglob("*"))
        if path.is_file() and path.name != "ultrahdr.jpg"
    ][::2]
    assert len(paths) > 250
    for path in paths:
        data = path.read_bytes()
        pixels, flag = decode_checked(data, 96)
        assert flag is None, (path, flag)
        with monkeypatch.context() as patch:
            patch.setattr(damage, "can_check", lambda: False)
            assert np.array_equal(decode_photo(data, 96), pixels), path
