"""Many photos → batches of results: every worker decodes a batch and computes on it.

One thread per core does both steps for its own batch, with a runtime session that uses one thread.
That wastes less than decoding beside a session that spreads each batch over all cores (the two
fight for the cores: 0.81 against 0.7 of the runtime's own throughput on two cores), and it makes a
photo's numbers independent of the number of cores. Pillow and the runtimes release the
interpreter lock.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.data.decode import Pixels, array_to_image, decode_photo, square_image
from headstart.errors import UnreadablePhotoError

Item = TypeVar("Item")

# A photo that is not in a file: encoded bytes, a Pillow image, or a uint8 array.
Content = bytes | Image.Image | npt.NDArray[Any]

# Small enough that a batch stays near the cores' caches, large enough for the kernels.
BATCH_SIZE = 8


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """What became of some photos.

    Attributes:
        order: The photos as they came.
        reasons: For each of them None, or why it could not be read.
        rows: ``(read photo, ...)`` what was computed.
        seconds: ``decode`` and ``compute`` of the worker.
    """

    order: list[Item]
    reasons: list[str | None]
    rows: npt.NDArray[Any]
    seconds: dict[str, float]

    @property
    def items(self) -> list[Item]:
        """The photos that were read, one per row."""
        return [item for item, why in zip(self.order, self.reasons, strict=True) if why is None]

    @property
    def failures(self) -> list[tuple[Item, str]]:
        """The photos that were not, with the reason."""
        both = zip(self.order, self.reasons, strict=True)
        return [(item, why) for item, why in both if why is not None]


def map_photos(
    items: Iterable[Item],
    read: Callable[[Item], Content],
    image_size: int,
    compute: Callable[[Pixels], npt.NDArray[Any]],
    workers: int | None = None,
) -> Iterator[Batch[Item]]:
    """Batches in the order of the items; a few per worker are in memory, whatever their number.

    Args:
        items: Whatever stands for a photo.
        read: Gives an item's content; an `OSError` or `UnreadablePhotoError` makes it a failure.
        image_size: Side of the square pixels.
        compute: ``(batch, size, size, 3)`` uint8 → ``(batch, ...)``; called from several threads.
        workers: Threads; one per core by default.

    >>> batches = map_photos([b"no image"], lambda data: data, 8, lambda pixels: pixels)
    >>> next(batches).failures
    [(b'no image', 'not an image of a known format')]
    """

    def work(chunk: list[Item]) -> Batch[Item]:
        start = time.perf_counter()
        pixels, reasons = decode_chunk(chunk, read, image_size)
        middle = time.perf_counter()
        rows = compute(pixels) if len(pixels) else np.empty(0)
        seconds = {"decode": middle - start, "compute": time.perf_counter() - middle}
        return Batch(chunk, reasons, rows, seconds)

    source = iter(items)
    workers = workers or os.cpu_count() or 1
    waiting: deque[Future[Batch[Item]]] = deque()
    with ThreadPoolExecutor(workers, "photos") as pool:
        try:
            while True:
                while len(waiting) < workers + 2:
                    chunk = list(itertools.islice(source, BATCH_SIZE))
                    if not chunk:
                        break
                    waiting.append(pool.submit(work, chunk))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_chunk(
    chunk: list[Item], read: Callable[[Item], Content], image_size: int
) -> tuple[Pixels, list[str | None]]:
    """Pixels of the photos that can be read; for every photo None, or why it cannot."""
    pixels = np.empty((len(chunk), image_size, image_size, 3), np.uint8)
    reasons: list[str | None] = []
    for item in chunk:
        try:
            pixels[reasons.count(None)] = read_pixels(read(item), image_size)
            reasons.append(None)
        except UnreadablePhotoError as error:
            reasons.append(str(error))
        except OSError as error:
            reasons.append(f"cannot be read: {error.strerror or error}")
    return pixels[: reasons.count(None)], reasons


def read_pixels(content: Content, image_size: int) -> Pixels:
    """The central square of a photo that is in memory.

    Raises:
        UnreadablePhotoError: With the reason.
    """
    if isinstance(content, bytes):
        return decode_photo(content, image_size)
    if isinstance(content, np.ndarray):
        content = array_to_image(content)
    try:
        return square_image(content, image_size)
    except UnreadablePhotoError:
        raise
    except Exception as error:  # a lazy Pillow image decodes here, and may be damaged
        raise UnreadablePhotoError(f"damaged image ({error})") from error
