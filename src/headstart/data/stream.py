"""Many photos → batches of results: decoded in processes, computed in threads, on every core.

A session of a runtime computes a batch on one thread, and as many batches are computed at once as
there are cores. That wastes less than sessions that spread each batch over all cores while photos
are decoded beside them, and it makes a photo's numbers independent of the number of cores.

Photos are decoded some way ahead, so that no core waits: not while the session is being opened,
not for a photo that takes long, and not at the end, where only computing is left.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.data.addresses import READERS, AddressPath, is_waiting
from headstart.data.decode import Pixels, array_to_image, square_image
from headstart.data.decode_pool import DecodePool
from headstart.errors import UnreadablePhotoError

Item = TypeVar("Item")

# A photo that is not in a file: encoded bytes, a Pillow image, or a uint8 array.
Content = bytes | Image.Image | npt.NDArray[Any]

# A sentence, or none, for each photo of a batch.
Said = list[str | None]

# Small enough that a batch stays near the cores' caches: eight at once take a tenth longer.
BATCH_SIZE = 2

# How far decoding may be ahead: half a second of it, and at most so many pixels in memory.
BATCHES_AHEAD, BYTES_AHEAD = 128, 64 * 2**20


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """What became of some photos.

    Attributes:
        order: The photos as they came.
        reasons: For each of them None, or why it could not be read.
        damages: For each of them None, or why it may be corrupt although it could be read.
        rows: ``(read photo, ...)`` what was computed.
        looks: ``(read photo, ...)`` what was measured of the pixels; empty where nothing is.
        seconds: ``decode`` and ``compute``, summed over the cores.
    """

    order: list[Item]
    reasons: Said
    damages: Said
    rows: npt.NDArray[Any]
    looks: npt.NDArray[Any]
    seconds: dict[str, float]

    @property
    def outcomes(self) -> Iterator[tuple[Item, Any, str | None]]:
        """Each photo as it came, with its row, or None and why it could not be read."""
        rows = iter(self.rows)
        for item, why in zip(self.order, self.reasons, strict=True):
            yield item, next(rows) if why is None else None, why

    @property
    def items(self) -> list[Item]:
        """The photos that were read, one per row."""
        return [item for item, why in zip(self.order, self.reasons, strict=True) if why is None]

    @property
    def flags(self) -> list[tuple[Item, str]]:
        """The photos that may be corrupt although they could be read, with the reason."""
        both = zip(self.order, self.damages, strict=True)
        return [(item, why) for item, why in both if why is not None]

    @property
    def failures(self) -> list[tuple[Item, str]]:
        """The photos that were not, with the reason."""
        both = zip(self.order, self.reasons, strict=True)
        return [(item, why) for item, why in both if why is not None]


_NOTHING: npt.NDArray[Any] = np.empty(0)


def give_up(item: Item, why: str) -> Batch[Item]:
    """What a photo becomes that ended the process it was computed in."""
    return Batch([item], [why], [None], _NOTHING, _NOTHING, {"decode": 0.0, "compute": 0.0})


def map_photos(
    items: Iterable[Item],
    read: Callable[[Item], Path | Content],
    decoder: DecodePool | int,
    compute: Callable[[Pixels], npt.NDArray[Any]],
    look: Callable[[Pixels], npt.NDArray[Any]] | None = None,
) -> Generator[Batch[Item]]:
    """Batches in the order of the items; a few per worker are in memory, whatever their number.

    Args:
        items: Whatever stands for a photo.
        read: Gives an item's content, or the path of its file; an `OSError` or
            `UnreadablePhotoError` makes it a failure.
        decoder: Decodes, and stays open, for one call after the other; as many batches are computed
            at once as it has processes. Or the side of the square pixels: one is opened, of all
            cores.
        compute: ``(batch, size, size, 3)`` uint8 → ``(batch, ...)``; called from several threads.
        look: Likewise, what is measured of the pixels besides; counted as decoding.

    >>> batches = map_photos([b"no image"], lambda data: data, 8, lambda pixels: pixels)
    >>> next(batches).failures
    [(b'no image', 'not an image of a known format')]
    """
    items = iter(items)
    opened = DecodePool(decoder) if isinstance(decoder, int) else decoder
    workers = opened.workers
    computing = ThreadPoolExecutor(workers, "photos")
    first = list(itertools.islice(items, BATCH_SIZE))
    # One more than there are decoding processes: it hands a process its next photo at once.
    decoding = ThreadPoolExecutor(workers + 1 + _count_readers(first), "photos")

    def decode(chunk: list[Item]) -> Future[Batch[Item]]:
        return computing.submit(work, chunk, *decode_chunk(chunk, read, opened))

    def work(chunk: list[Item], pixels: Pixels, reasons: Said, damages: Said) -> Batch[Item]:
        start = time.perf_counter()
        rows = compute(pixels) if len(pixels) else _NOTHING
        middle = time.perf_counter()
        looks = look(pixels) if look is not None and len(pixels) else _NOTHING
        decoding = opened.take_seconds() + time.perf_counter() - middle
        seconds = {"decode": decoding, "compute": middle - start}
        return Batch(chunk, reasons, damages, rows, looks, seconds)

    source = itertools.chain(first, items)
    waiting: deque[Future[Future[Batch[Item]]]] = deque()
    with opened if isinstance(decoder, int) else contextlib.nullcontext():
        try:
            while True:
                while len(waiting) < _count_ahead(opened):
                    chunk = list(itertools.islice(source, BATCH_SIZE))
                    if not chunk:
                        break
                    waiting.append(decoding.submit(decode, chunk))
                if not waiting:
                    return
                yield waiting.popleft().result().result()
        finally:
            # In this order: what is still being decoded goes on to be computed.
            decoding.shutdown(wait=True, cancel_futures=True)
            computing.shutdown(wait=True, cancel_futures=True)


def _count_readers(first: list[Any]) -> int:
    """Threads that fetch what will be handed on, where photos come by a network."""
    return READERS if any(map(is_waiting, first)) else 0


def _count_ahead(pool: DecodePool) -> int:
    bytes_per_batch = BATCH_SIZE * pool.image_size**2 * 3
    return max(2 * pool.workers + 2, min(BATCHES_AHEAD, BYTES_AHEAD // bytes_per_batch))


def decode_chunk(
    chunk: list[Item], read: Callable[[Item], Path | Content], pool: DecodePool
) -> tuple[Pixels, Said, Said]:
    """Pixels of the photos that can be read; for every photo why it cannot, and its damage."""
    size = pool.image_size
    pixels = np.empty((len(chunk), size, size, 3), np.uint8)
    reasons: Said = []
    damages: Said = []
    for item in chunk:
        damages.append(None)
        try:
            pixels[reasons.count(None)], damages[-1] = _read_pixels(read(item), pool)
            reasons.append(None)
        except UnreadablePhotoError as error:
            reasons.append(str(error))
        except OSError as error:
            reasons.append(f"cannot be read: {error.strerror or error}")
    return pixels[: reasons.count(None)], reasons, damages


def _read_pixels(content: Path | Content, pool: DecodePool) -> tuple[Pixels, str | None]:
    if isinstance(content, AddressPath):
        content = content.read_bytes()
    if isinstance(content, (bytes, Path)):
        return pool.decode_checked(content)
    return read_image(content, pool.image_size, pool.network_size), None


def read_image(
    image: Image.Image | npt.NDArray[Any], image_size: int, network_size: int | None = None
) -> Pixels:
    """The central square of an image that is in memory.

    Raises:
        UnreadablePhotoError: With the reason.
    """
    if isinstance(image, np.ndarray):
        image = array_to_image(image)
    try:
        return square_image(image, image_size, network_size)
    except UnreadablePhotoError:
        raise
    except Exception as error:  # a lazy Pillow image decodes here, and may be damaged
        raise UnreadablePhotoError(f"damaged image ({error})") from error
