"""Decoding processes: what kills one costs one photo."""

import io
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import decode_pool
from headstart.data.decode import decode_photo
from headstart.data.decode_pool import DecodePool
from headstart.data.decode_worker import read_message, write_message
from headstart.errors import UnreadablePhotoError


def encode(colour: str = "red", size: tuple[int, int] = (60, 40)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_pixels_equal_those_of_the_decoder_in_process(tmp_path: Path) -> None:
    path = tmp_path / "naïve, photo.png"
    path.write_bytes(encode())
    with DecodePool(16, workers=1) as pool:
        for content in (path, path.read_bytes()):
            np.testing.assert_array_equal(pool.decode(content), decode_photo(encode(), 16))


def test_pixels_come_through_the_pipe_where_memory_cannot_be_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode_pool, "open_shared", lambda _: None)
    with DecodePool(16, workers=1) as pool:
        pixels, damage = pool.decode_checked(encode("lime"))
    np.testing.assert_array_equal(pixels, decode_photo(encode("lime"), 16))
    assert damage is None


def test_pixels_are_the_callers_own_although_memory_is_shared() -> None:
    with DecodePool(8, workers=1) as pool:
        red, blue = pool.decode(encode("red")), pool.decode(encode("blue"))
    assert (tuple(red[4, 4]), tuple(blue[4, 4])) == ((255, 0, 0), (0, 0, 255))


def test_many_threads_get_their_own_answers() -> None:
    colours = [(7 * n % 256, 13 * n % 256, n) for n in range(60)]
    photos = [encode(f"#{r:02x}{g:02x}{b:02x}") for r, g, b in colours]
    with DecodePool(8, workers=2) as pool, ThreadPoolExecutor(8) as threads:
        for colour, pixels in zip(colours, threads.map(pool.decode, photos), strict=True):
            assert tuple(pixels[4, 4]) == colour


def test_missing_file_and_damaged_photo_are_reasons_and_the_worker_lives_on() -> None:
    with DecodePool(8, workers=1) as pool:
        pool.decode(encode())
        before = pool.pids
        with pytest.raises(UnreadablePhotoError, match="No such file"):
            pool.decode(Path("does-not-exist.jpg"))
        with pytest.raises(UnreadablePhotoError, match="damaged"):
            pool.decode(encode()[:60])
        assert pool.decode(encode()).shape == (8, 8, 3)
        assert pool.pids == before


def test_a_worker_killed_between_photos_costs_none() -> None:
    with DecodePool(8, workers=1) as pool:
        pool.decode(encode())
        os.kill(pool.pids[0], signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        time.sleep(0.2)
        assert pool.decode(encode()).shape == (8, 8, 3)


def test_a_photo_that_kills_its_worker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    deadly = "import os, sys; sys.stdin.buffer.read(9); os.abort()"
    with DecodePool(8, workers=1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(decode_pool, "_CHILD", deadly)
            with pytest.raises(UnreadablePhotoError, match="crashed on it"):
                pool.decode(encode())
        assert pool.decode(encode()).shape == (8, 8, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_photo_that_hangs_is_given_up(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.jpg"
    os.mkfifo(fifo)
    with DecodePool(8, workers=1, photo_seconds=1.0) as pool:
        with pytest.raises(UnreadablePhotoError, match="more than 1 s"):
            pool.decode(fifo)
        assert pool.decode(encode()).shape == (8, 8, 3)


def test_close_leaves_no_process() -> None:
    with DecodePool(8, workers=2) as pool:
        pool.decode(encode())
        processes = pool.pids
    assert processes
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_messages_end_cleanly_wherever_they_are_cut() -> None:
    stream = io.BytesIO()
    write_message(stream, b"o", b"12345")
    whole = stream.getvalue()
    assert read_message(io.BytesIO(whole)) == (b"o", b"12345")
    for length in range(len(whole)):
        assert read_message(io.BytesIO(whole[:length])) is None
