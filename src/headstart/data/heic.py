"""HEIC, as phones write it, by the package pillow-heif, which is an extra."""

from __future__ import annotations

from typing import IO

from PIL import Image

from headstart.errors import MissingPackageError, UnreadablePhotoError, require_package

# Brands of HEVC-coded pictures (ISO/IEC 23008-12, annex B), and those of AVIF, which Pillow reads.
# "mif1" and "msf1" may head a file of either kind: the compatible brands after it tell.
_HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_NEUTRAL_BRANDS = {b"mif1", b"msf1"}


def is_heic(data: bytes) -> bool:
    r"""Whether a file's first box says that it holds an HEVC-coded picture.

    >>> is_heic(bytes(3) + b"\x18ftypmif1" + bytes(4) + b"mif1heic")
    True
    >>> is_heic(bytes(3) + b"\x18ftypavif" + bytes(4) + b"mif1avif")
    False
    """
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[start : start + 4] for start in (8, *range(16, end - 3, 4))}
    if data[8:12] in _NEUTRAL_BRANDS:
        # Neither named: libheif knows more codings than we do, and says which one it lacks.
        return bool(brands & _HEVC_BRANDS) or not brands & _AVIF_BRANDS
    return data[8:12] in _HEVC_BRANDS


def open_heic(stream: IO[bytes]) -> Image.Image:
    """The main picture: turned and mirrored as the file says, 10 and 12 bits scaled to 8.

    libheif applies the file's own rotation; the EXIF orientation repeats it and is not for
    readers (ISO/IEC 23008-12, 6.5.10), so what is opened here says that it is upright.

    Raises:
        UnreadablePhotoError: pillow-heif is not installed; the reason has its pip line.
    """
    try:
        require_package("pillow_heif", purpose="reading HEIC photos")
    except MissingPackageError as error:
        raise UnreadablePhotoError(str(error)) from None
    from pillow_heif import HeifImageFile

    image: Image.Image = HeifImageFile(stream)
    return image
