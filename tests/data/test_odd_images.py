"""Legal but unusual files give a reference decoder's pixels; broken ones cost nobody else anything.

The reference is OpenCV, which shares no code with Pillow but some codecs, on the whole photo; what
it leaves out (transparency on white, the orientation of WebP and AVIF, by the list that came with
the files) is done here in NumPy.
"""

from __future__ import annotations

import csv
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headstart.data.decode import FORMATS, array_to_image, decode_photo, square_image
from headstart.data.decode_pool import DecodePool
from headstart.data.scan import scan_folder
from headstart.errors import UnreadablePhotoError

cv2 = pytest.importorskip("cv2")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

FORMATS_PAGE = Path(__file__).parent.parent.parent / "docs" / "formats.md"

# Largest mean and single difference of two decoders' squares of 64 pixels, of 255: JPEG may be
# scaled while loading, and converters round differently.
MEAN_TOLERANCE, MAX_TOLERANCE = 2.0, 14
# Squares are cut from all photos, so that all are resized: what is compared are decoders.
SIDE, ALL_CUT = 64, 1


@pytest.fixture(scope="module")
def odd_images(photos_folder: Path) -> Path:
    return photos_folder / "odd-images"


def read_manifest(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright pixels, by the definition of the EXIF orientation (what row and column 0 are)."""
    swapped = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return swapped[rows, columns]


def read_reference(path: Path, orientation: int) -> np.ndarray | None:
    content = strip_animation(path.read_bytes())
    data = np.frombuffer(content, np.uint8)
    is_tiff = content[:2] in (b"II", b"MM")
    if is_tiff:
        orientation = 1  # OpenCV turns these itself
    mode = 0 if is_tiff else cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(data, mode | cv2.IMREAD_UNCHANGED)
    if pixels is None:
        return read_cmyk_tiff(content)
    if pixels.ndim == 2 and pixels.dtype == np.uint8:  # palettes too are given as grey
        pixels = cv2.imdecode(data, mode | cv2.IMREAD_COLOR)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if pixels.dtype == np.uint16:
        pixels = pixels / 257
    elif pixels.dtype == np.float32:
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255
    colours = pixels[:, :, :3].astype(float)
    colours = np.repeat(colours, 3, 2) if colours.shape[2] == 1 else colours[:, :, ::-1]
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:] / 255
        colours = colours * alpha + 255 * (1 - alpha)
    return turn(np.round(colours).astype(np.uint8), orientation)


def strip_animation(content: bytes) -> bytes:
    """A PNG with its default image only; all else as it is."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return content
    kept, start = [content[:8]], 8
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(content[start:end])
        start = end
    return b"".join(kept)


def read_cmyk_tiff(content: bytes) -> np.ndarray | None:
    """An uncompressed little-endian TIFF of 16-bit inks, which OpenCV refuses."""
    if content[:4] != b"II*\0":
        return None
    start = int.from_bytes(content[4:8], "little")
    tags = {}
    for number in range(int.from_bytes(content[start : start + 2], "little")):
        entry = content[start + 2 + 12 * number :][:12]
        tag, kind, count, value = struct.unpack("<HHII", entry)
        size = {3: 2, 4: 4}.get(kind)
        if size and count * size > 4:
            raw = content[value : value + count * size]
            tags[tag] = list(struct.unpack(f"<{count}{'HI'[kind - 3]}", raw))
        elif size:
            tags[tag] = [value & (0xFFFF if kind == 3 else 0xFFFFFFFF)]
    if tags[259] != [1] or tags[262] != [5] or tags[258] != [16] * 4:
        return None
    strips = zip(tags[273], tags[279], strict=True)
    inks = b"".join(content[offset : offset + size] for offset, size in strips)
    shares = 1 - np.frombuffer(inks, "<u2").reshape(tags[257][0], tags[256][0], 4) / 65535
    return np.round(shares[:, :, :3] * shares[:, :, 3:] * 255).astype(np.uint8)


def make_square(pixels: np.ndarray) -> np.ndarray:
    image = array_to_image(np.ascontiguousarray(pixels))
    return square_image(image, SIDE, ALL_CUT).astype(float)


def list_exceptions() -> dict[str, str]:
    """The table of docs/formats.md: files that are not read, and the reason."""
    section = FORMATS_PAGE.read_text(encoding="utf-8").split("## Not read")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| [^|]* \| `([^`]+)` \|$", section, re.MULTILINE))


def test_every_unusual_file_has_the_pixels_of_the_reference(odd_images: Path) -> None:
    manifest, root = read_manifest(odd_images), odd_images / "valid-odd"
    unread: dict[str, str] = {}
    wrong: dict[str, str] = {}
    compared = 0
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        try:
            data = path.read_bytes()
            found = decode_photo(data, SIDE, network_size=ALL_CUT).astype(float)
        except UnreadablePhotoError as error:
            unread[name] = str(error)
            continue
        orientation = manifest[f"valid-odd/{name}"]["exif_orientation"]
        reference = read_reference(path, int(orientation or 1))
        if reference is None:
            wrong[name] = "no reference"
            continue
        difference = np.abs(found - make_square(reference))
        compared += 1
        if difference.mean() > MEAN_TOLERANCE or difference.max() > MAX_TOLERANCE:
            wrong[name] = f"mean {difference.mean():.2f}, max {difference.max():.0f}"
    assert wrong == {}
    assert unread == list_exceptions()
    assert compared > 90


def read_peak_mb(pids: list[int]) -> float:
    """Largest resident memory that any of the processes has had."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def test_malformed_files_cost_nobody_else(odd_images: Path) -> None:
    paths = sorted(path for path in (odd_images / "malformed").rglob("*") if path.is_file())
    good = odd_images / "valid-odd" / "generated" / "progressive.jpg"
    expected = decode_photo(good.read_bytes(), 32)
    answers: dict[str, str] = {}
    with DecodePool(32, workers=1, photo_seconds=120) as pool:
        pool.decode(good)
        before = pool.pids
        for path in paths:
            try:
                assert pool.decode(path).shape == (32, 32, 3)
                answers[path.name] = ""
            except UnreadablePhotoError as error:
                answers[path.name] = str(error)
            assert np.array_equal(pool.decode(good), expected), path.name
        assert pool.pids == before, "a file ended its process"
        if sys.platform == "linux":
            assert read_peak_mb(before) < 600
    assert not [name for name, reason in answers.items() if reason and len(reason) < 8]
    for name, reason in answers.items():
        if name.startswith(("truncated_", "zero_", "bomb_", "lying_", "html_", "git_")):
            assert reason or name == "truncated_app14.jpg"
    assert len(answers) > 60


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="builds FIFOs and odd names")
def test_every_sample_of_a_folder_of_hazards_is_decoded(odd_images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hazards"
    script = odd_images / "make_hazards.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    samples = scan_folder(folder).samples
    assert len(samples) > 25
    with DecodePool(16, workers=1, photo_seconds=120) as pool:
        for sample in samples:
            assert pool.decode(sample.path).shape == (16, 16, 3), sample.path


def test_the_page_lists_every_format() -> None:
    table = FORMATS_PAGE.read_text(encoding="utf-8").split("## Read")[1].split("\n## ")[0]
    names = re.findall(r"^\| ([A-Z0-9]+) \|", table, re.MULTILINE)
    assert sorted(names) == sorted({*FORMATS, "HEIC"} - {"DIB"})
