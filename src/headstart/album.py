"""Thumbnails of training photos in a bundle, kept only where that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from headstart.bundle import THUMBNAILS, dump_arrays, parse_arrays
from headstart.errors import BundleError

# A thumbnail of 96 pixels has 3 KB. Larger ones are not ours.
MOST_BYTES = 32 * 2**10
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Album:
    """A picture and a class for each of the training photos that new ones are compared with.

    Attributes:
        pictures: JPEG bytes; none where there is no usable picture.
        labels: Class numbers.
    """

    pictures: Sequence[bytes] = field(repr=False)
    labels: Sequence[int] = field(repr=False)

    def dump(self) -> bytes:
        """As a member of a bundle: all pictures behind one another, their ends, their classes."""
        return dump_arrays(
            {
                "pictures": np.frombuffer(b"".join(self.pictures), np.uint8),
                "ends": np.cumsum([len(each) for each in self.pictures], dtype=np.int64),
                "labels": np.asarray(self.labels, np.int32),
            }
        )


def parse_album(data: bytes, count: int, num_classes: int) -> Album:
    r"""The album of a bundle's member, whoever wrote it; pictures are not decoded here.

    Args:
        data: Safetensors.
        count: Number of photos that new ones are compared with.
        num_classes: Number of classes.

    Raises:
        BundleError: It does not hold a picture and a class for each of them.

    >>> parse_album(Album([b"\xff\xd8\xff.", b"<svg>"], [0, 1]).dump(), 2, 2).pictures
    (b'\xff\xd8\xff.', b'')
    """
    arrays = parse_arrays(data)
    names = ("pictures", "ends", "labels")
    pictures, ends, labels = (arrays.get(name, np.empty(0)) for name in names)
    is_usable = (
        (pictures.dtype, ends.dtype, labels.dtype) == (np.uint8, np.int64, np.int32)
        and pictures.ndim == 1
        and ends.shape == labels.shape == (count,)
        and bool((np.diff(ends, prepend=0) >= 0).all() and (ends <= len(pictures)).all())
        and bool(((labels >= 0) & (labels < num_classes)).all())
    )
    if not is_usable:
        raise BundleError(f"{THUMBNAILS} is damaged: it has no usable pictures.")
    starts = [0, *ends[:-1].tolist()]
    found = (_take(pictures, *part) for part in zip(starts, ends.tolist(), strict=True))
    return Album(tuple(found), tuple(labels.tolist()))


def _take(pictures: npt.NDArray[np.uint8], start: int, end: int) -> bytes:
    """A picture, where it can be one: what a browser is given must not be anything else."""
    if end - start > MOST_BYTES:
        return b""
    found = pictures[start:end].tobytes()
    return found if found.startswith(_JPEG) else b""
