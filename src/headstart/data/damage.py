"""JPEGs that decoders accept although their data is corrupt.

A flipped bit in a JPEG's entropy-coded data shifts all that follows, and decoders are told to show
what they can: Pillow silently gives a picture whose lower part is shifted, grey or in false
colours. libjpeg does notice most of it and warns; Pillow drops the warnings, and simplejpeg (the
same libjpeg-turbo, so the same pixels, a test holds it) can be told to raise them as errors.

A photo with such a warning stays a sample, because most of its picture is usually there; the flag
is for people to look at.
"""

from __future__ import annotations

import functools
import importlib.util
import re

import numpy as np
import numpy.typing as npt

# What libjpeg says when the picture's data cannot be as it was written. It also warns of sloppy
# headers (an unknown JFIF version, a broken profile), which is no damage to the picture.
_DATA_COMPLAINT = re.compile(
    r"Corrupt JPEG data: (?!bad ICC)(?P<what>.*)"
    r"|(?P<end>Premature end of JPEG file|Inconsistent progression sequence.*)"
)

# Bytes too many before a marker of the headers (APPn, DQT, ...) are a sloppy editor's. Before the
# end, a restart or the next scan, the decoder has lost step with the data.
_EXTRANEOUS = re.compile(r"extraneous bytes before marker 0x(\w\w)")
_DATA_MARKERS = {"d9", "da", "c4", *(f"d{number}" for number in range(8))}


@functools.cache
def can_check() -> bool:
    """Whether simplejpeg is installed; without it nothing is flagged.

    It is read once: it is asked for every photo.
    """
    return importlib.util.find_spec("simplejpeg") is not None


def find_damage(data: bytes) -> str | None:
    """Why a photo that can be read may be corrupt, or None; only JPEGs are looked at.

    The whole file is decoded at an eighth of its size, in grey: about 7 ms of processor time per
    megabyte of file. Whoever decodes the photo anyway gets the answer with the pixels, for
    next to nothing: `headstart.data.decode.decode_checked`.

    >>> find_damage(b"no JPEG") is None
    True
    """
    if data[:3] != b"\xff\xd8\xff" or not can_check():
        return None
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
    except (ValueError, MemoryError) as error:
        return describe_complaint(str(error))
    return None


def load_strictly(
    data: bytes, size: tuple[int, int], mode: str
) -> tuple[npt.NDArray[np.uint8] | None, str | None]:
    """Pixels of a JPEG as Pillow would give them, or a complaint, or neither.

    Args:
        data: The file's bytes, of which Pillow has read the header.
        size: Width and height of the wanted pixels: the photo's, divided by 1, 2, 4 or 8.
        mode: Pillow's mode; only ``"RGB"`` and ``"L"`` are read here.

    Returns:
        ``(height, width, 4)`` (the fourth value means nothing: this is how Pillow keeps RGB, so
        that it need not copy them) or, for ``"L"``, ``(height, width)`` uint8, or None where
        Pillow has to do it; and what is wrong with the data, or None.
    """
    if not can_check() or mode not in ("RGB", "L"):
        return None, None
    import simplejpeg

    try:
        height, width, coding, _ = simplejpeg.decode_jpeg_header(data)
        is_usual = coding.upper() == ("GRAY" if mode == "L" else "YCBCR")
        is_usual = is_usual and min(height, width) >= 8  # below, several scales give one size
        if not is_usual:
            return None, find_damage(data)
        kind = "GRAY" if mode == "L" else "RGBX"
        pixels = simplejpeg.decode_jpeg(data, kind, min_height=size[1], min_width=size[0])
    except ValueError as error:
        return None, describe_complaint(str(error))
    if pixels.shape[:2] != size[::-1]:  # pragma: no cover - another scale than Pillow's
        return None, None
    return (pixels[:, :, 0] if mode == "L" else pixels), None


def describe_complaint(text: str) -> str | None:
    """The complaint of libjpeg for people, or None where it does not concern the picture.

    >>> describe_complaint("Corrupt JPEG data: 9554 extraneous bytes before marker 0xd9")
    'may be corrupt: 9554 extraneous bytes before marker 0xd9'
    >>> describe_complaint("Corrupt JPEG data: 16 extraneous bytes before marker 0xe1")
    """
    complaint = _DATA_COMPLAINT.match(text)
    found = _EXTRANEOUS.search(text)
    if complaint is None or (found and found[1].lower() not in _DATA_MARKERS):
        return None
    return f"may be corrupt: {(complaint['what'] or complaint['end']).strip()}"
