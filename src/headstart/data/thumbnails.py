"""Small upright pictures of photos, for people."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from headstart.data.decode import array_to_image, open_image
from headstart.data.stream import Content
from headstart.errors import UnreadablePhotoError


def make_thumbnail(content: Path | Content, side: int = 96) -> bytes:
    r"""The whole photo as JPEG bytes, its longer side ``side`` pixels at most.

    Raises:
        UnreadablePhotoError: It cannot be read.

    >>> import numpy as np
    >>> make_thumbnail(np.zeros((300, 200, 3), np.uint8))[:2]
    b'\xff\xd8'
    """
    try:
        if isinstance(content, Path):
            content = content.read_bytes()
        if isinstance(content, bytes):
            image = open_image(content)
        else:
            image = content if isinstance(content, Image.Image) else array_to_image(content)
        image.draft("RGB", (2 * side, 2 * side))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        upright.thumbnail((side, side))
        stream = io.BytesIO()
        upright.save(stream, "JPEG", quality=80)
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise UnreadablePhotoError(str(error)) from error
    return stream.getvalue()
