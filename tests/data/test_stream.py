"""Many photos: in order, failures in place, few in memory, and no thread left behind."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data.damage import find_damage
from headstart.data.decode_pool import DecodePool
from headstart.data.stream import BATCH_SIZE, BATCHES_AHEAD, Batch, map_photos
from headstart.errors import UnreadablePhotoError

SIZE = 8


def make_photo(number: int) -> np.ndarray:
    return np.full((4, 4, 3), number % 256, np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def mean_of(pixels: np.ndarray) -> np.ndarray:
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (SIZE, SIZE, 3)
    assert 1 <= len(pixels) <= BATCH_SIZE
    return pixels.reshape(len(pixels), -1).mean(axis=1)


def run(
    items: Any, read: Any = make_photo, compute: Any = mean_of, workers: int = 2
) -> list[Batch]:
    with DecodePool(SIZE, workers) as pool:
        return list(map_photos(items, read, pool, compute))


def run_whole(items: list, compute: Any = mean_of) -> Batch:
    """All batches as one, of items that are their own content."""
    batches = run(items, lambda item: item, compute)
    return Batch(
        [item for batch in batches for item in batch.order],
        [why for batch in batches for why in batch.reasons],
        [why for batch in batches for why in batch.damages],
        [row for batch in batches for row in batch.rows],
        [],
        {},
    )


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(SIZE, 2) as opened:
        yield opened


def list_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("photos")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not list_threads()


@pytest.mark.parametrize("count", [0, 1, BATCH_SIZE, BATCH_SIZE + 1, 200])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_once_and_in_order(count, workers):
    batches = run(range(count), workers=workers)
    assert [item for batch in batches for item in batch.order] == list(range(count))
    assert [item for batch in batches for item in batch.items] == list(range(count))
    assert [row for batch in batches for row in batch.rows] == list(range(count))
    assert not any(batch.failures for batch in batches)
    assert all(min(batch.seconds.values()) >= 0 for batch in batches)


def test_the_order_is_kept_when_early_batches_take_longest():
    def slow_at_first(pixels):
        time.sleep(0.1 if pixels[0, 0, 0, 0] == 0 else 0)
        return mean_of(pixels)

    batches = run(range(60), compute=slow_at_first, workers=3)
    assert [row for batch in batches for row in batch.rows] == list(range(60))


def test_failures_stay_in_place():
    def read(number):
        if number % 3 == 1:
            raise UnreadablePhotoError(f"no. {number}")
        if number % 3 == 2:
            raise FileNotFoundError(2, "No such file or directory")
        return make_photo(number)

    batches = run(range(50), read)
    for batch in batches:
        assert len(batch.reasons) == len(batch.order)
        assert batch.items == [number for number in batch.order if number % 3 == 0]
        assert batch.rows.tolist() == batch.items
        for number, reason in batch.failures:
            expected = (f"no. {number}", "cannot be read: No such file or directory")
            assert reason == expected[number % 3 - 1]
    assert sum(len(batch.failures) for batch in batches) == 33


def test_nothing_is_computed_where_no_photo_can_be_read():
    batches = run([np.zeros(3)] * 20, read=lambda array: array, compute=lambda _: 1 / 0)
    assert sum(len(batch.failures) for batch in batches) == 20
    assert all(len(batch.rows) == len(batch.items) == 0 for batch in batches)


def test_bytes_paths_images_and_arrays_are_the_same_photo(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 30, 3), np.uint8)
    path = tmp_path / "photo"
    path.write_bytes(encode(pixels))
    items = [pixels, Image.fromarray(pixels), encode(pixels), path]
    batch = run_whole(items, compute=lambda batch: batch)
    assert not batch.failures
    for row in batch.rows[1:]:
        assert np.array_equal(row, batch.rows[0])


def test_files_that_cannot_be_read_are_failures(tmp_path):
    (tmp_path / "text").write_bytes(b"text")
    items = [tmp_path / "gone", tmp_path, tmp_path / "text", b"", b"%PDF"]
    batch = run_whole(items)
    reasons = dict(batch.failures)
    assert len(reasons) == 5
    assert reasons[tmp_path / "gone"].startswith("cannot be read")
    assert reasons[tmp_path].startswith("cannot be read")
    assert reasons[tmp_path / "text"] == "not an image of a known format"
    assert reasons[b""] == "empty file"


def test_an_image_that_turns_out_damaged_is_a_failure():
    data = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    with Image.open(io.BytesIO(data[: len(data) // 2])) as damaged:
        [batch] = run([damaged], read=lambda item: item)
    assert batch.failures[0][1].startswith("damaged image")


def test_an_image_that_is_not_loaded_yet_is_turned_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF", exif=exif)
    with Image.open(stream) as image:
        items = [image, stream.getvalue()]
        [batch] = run(items, read=lambda item: item, compute=lambda batch: batch)
    assert np.array_equal(batch.rows[0], batch.rows[1])


def test_items_are_taken_as_they_are_needed(pool):
    taken = itertools.count()

    def items():
        for _ in range(10_000):
            yield next(taken)

    batches = map_photos(items(), make_photo, pool, mean_of)
    assert next(taken) == 0
    next(batches)
    first = next(taken)
    for _ in range(5):
        next(batches)
    assert next(taken) - first <= 5 * BATCH_SIZE + 1
    assert first <= (BATCHES_AHEAD + 1) * BATCH_SIZE
    batches.close()


def test_closing_early_stops_the_work(pool):
    computed = []

    def compute(pixels):
        computed.append(len(pixels))
        return mean_of(pixels)

    batches = map_photos(itertools.count(), make_photo, pool, compute)
    assert next(batches).order == list(range(BATCH_SIZE))
    batches.close()
    assert not list_threads()
    done = len(computed)
    time.sleep(0.05)
    assert len(computed) == done <= BATCHES_AHEAD + 3


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, MemoryError])
def test_an_error_while_computing_reaches_the_caller(kind, pool):
    def compute(pixels):
        if pixels[0, 0, 0, 0] >= 4 * BATCH_SIZE:
            raise kind("boom")
        return mean_of(pixels)

    batches = map_photos(itertools.count(), make_photo, pool, compute)
    good = [next(batches).order[0] for _ in range(4)]
    assert good == [turn * BATCH_SIZE for turn in range(4)]
    with pytest.raises(kind, match="boom"):
        next(batches)
    assert not list(batches)


def test_an_error_of_the_source_reaches_the_caller():
    def items():
        yield from range(20)
        raise RuntimeError("the list ends badly")

    with pytest.raises(RuntimeError, match="ends badly"):
        run(items())


def test_a_mistake_in_reading_reaches_the_caller():
    def read(_item):
        raise TypeError("a bug, not a bad photo")

    with pytest.raises(TypeError, match="a bug"):
        run(range(3), read)


def test_computing_uses_no_more_threads_than_asked_for():
    at_once, most, lock = 0, 0, threading.Lock()

    def compute(pixels):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.005)
        with lock:
            at_once -= 1
        return mean_of(pixels)

    run(range(120), compute=compute, workers=2)
    assert most == 2


def test_paths_are_not_opened_before_their_turn(tmp_path, pool):
    read_paths: list[Path] = []

    def read(path):
        read_paths.append(path)
        return make_photo(0)

    batches = map_photos((tmp_path / str(n) for n in range(1000)), read, pool, mean_of)
    next(batches)
    batches.close()
    assert len(read_paths) <= (BATCHES_AHEAD + 3) * BATCH_SIZE < 1000


def test_a_photo_that_may_be_corrupt_is_computed_and_flagged():
    good, damaged = encode(make_noise(), "JPEG"), flip_a_bit(encode(make_noise(), "JPEG"))
    batch = run_whole([good, damaged, b"text"])
    assert batch.items == [good, damaged]
    [(item, reason)] = batch.flags
    assert item is damaged
    assert reason.startswith("may be corrupt: ")


def make_noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def flip_a_bit(jpeg: bytes) -> bytes:
    """The photo with the first flipped bit of its data that libjpeg notices and Pillow reads."""
    for place in range(len(jpeg) // 2, len(jpeg)):
        damaged = jpeg[:place] + bytes([jpeg[place] ^ 16]) + jpeg[place + 1 :]
        if find_damage(damaged):
            return damaged
    raise AssertionError
