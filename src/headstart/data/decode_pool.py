"""Decoding in processes that may be killed: a crash, a hang or a bomb costs one photo."""

from __future__ import annotations

import json
import mmap
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from headstart.data.addresses import AnyPath
from headstart.data.decode import Pixels
from headstart.data.decode_worker import open_shared, read_message, write_message
from headstart.errors import HeadstartError, UnreadablePhotoError

# A photo of a hundred million pixels takes three seconds; what takes ten times that hangs.
PHOTO_SECONDS = 30.0

_CHILD = "import sys; sys.path[:] = {path!r}; from headstart.data.decode_worker import main; main()"


class ScannedPath(AnyPath):
    """A path whose file must still have the bytes that a scan has seen: their sha256."""

    digest: str = ""


class DecodePool:
    """Some decoding processes, started when first needed; `decode` may be called from any thread.

    Args:
        image_size: Side of the square pixels.
        workers: Processes; one per core by default.
        photo_seconds: A photo that takes longer is given up, with its process.
        network_size: Decides what is cut away, where that is not `image_size`; see
            `headstart.data.decode.measure_square`.

    >>> with DecodePool(8, workers=1) as pool:
    ...     pool.decode(b"no image")
    Traceback (most recent call last):
        ...
    headstart.errors.UnreadablePhotoError: not an image of a known format
    """

    def __init__(
        self,
        image_size: int,
        workers: int | None = None,
        photo_seconds: float = PHOTO_SECONDS,
        network_size: int | None = None,
    ) -> None:
        self.image_size, self.network_size = image_size, network_size
        self._photo_seconds = photo_seconds
        self.workers = workers or os.cpu_count() or 1
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._all = [_Worker(image_size, network_size) for _ in range(self.workers)]
        for worker in reversed(self._all):
            self._idle.put(worker)
        self._lock, self._seconds = threading.Lock(), 0.0
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, daemon=True, name="decode watchdog")
        self._watchdog.start()

    def decode(self, content: Path | bytes) -> Pixels:
        """The central square of a photo, see `headstart.data.decode.decode_photo`.

        Raises:
            UnreadablePhotoError: With the reason, also when the decoder crashed or hung.
        """
        return self.decode_checked(content)[0]

    def decode_checked(self, content: Path | bytes) -> tuple[Pixels, str | None]:
        """What `decode` gives, and why the photo may be corrupt although it can be read, or None.

        Raises:
            UnreadablePhotoError: As `decode`.
        """
        worker = self._idle.get()
        start = time.perf_counter()
        try:
            return worker.decode(content, self._photo_seconds)
        finally:
            with self._lock:
                self._seconds += time.perf_counter() - start
            self._idle.put(worker)

    def take_seconds(self) -> float:
        """Seconds that the processes worked since this was last asked for."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that run now."""
        return [worker.pid for worker in self._all if worker.pid is not None]

    def close(self) -> None:
        """End the processes."""
        self._closed.set()
        for worker in self._all:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _watch(self) -> None:
        while not self._closed.wait(0.2):
            for worker in self._all:
                worker.kill_if_late()


class _Worker:
    """One process and its pipes; a dead one is replaced at the next photo."""

    def __init__(self, image_size: int, network_size: int | None) -> None:
        self._image_size, self._network_size = image_size, network_size
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = float("inf")
        self._was_late = False
        self._shared: mmap.mmap | None = None

    def decode(self, content: Path | bytes, seconds: float) -> tuple[Pixels, str | None]:
        # A process may have died while idle, or of what the photo before left in its memory: the
        # photo is to blame only if it also ends a new process.
        for _ in range(2):
            process = self._process = self._process or self._start()
            answer = self._ask(process, content, seconds)
            if answer is not None:
                return self._parse(*answer)
            self.stop()
            if self._was_late:
                raise UnreadablePhotoError(f"decoding took more than {seconds:.0f} s")
        raise UnreadablePhotoError(f"the decoder crashed on it (exit code {process.returncode})")

    def _ask(
        self, process: subprocess.Popen[bytes], content: Path | bytes, seconds: float
    ) -> tuple[bytes, bytes] | None:
        assert process.stdin is not None  # noqa: S101 - for the type checker; we asked for pipes
        assert process.stdout is not None  # noqa: S101
        self._was_late = False
        self._deadline = time.monotonic() + seconds
        try:
            if isinstance(content, bytes):
                write_message(process.stdin, b"b", content)
            elif isinstance(content, ScannedPath) and content.digest:
                write_message(process.stdin, b"d", content.digest.encode() + os.fsencode(content))
            else:
                write_message(process.stdin, b"p", os.fsencode(content))
            return read_message(process.stdout)
        except OSError:
            return None
        finally:
            self._deadline = float("inf")

    def _parse(self, kind: bytes, data: bytes) -> tuple[Pixels, str | None]:
        if kind == b"e":
            raise UnreadablePhotoError(data.decode())
        count = self._image_size**2 * 3
        if self._shared is not None:
            line, content = data, self._shared[:]  # a copy: the next photo comes to the same place
        else:
            line, content = data[: len(data) - count], data
        damage = line.decode().strip() or None
        pixels = np.frombuffer(content, np.uint8, count, len(content) - count)
        return pixels.reshape(self._image_size, self._image_size, 3), damage

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def kill_if_late(self) -> None:
        process = self._process
        if process is not None and time.monotonic() > self._deadline:
            self._was_late = True
            process.kill()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        code = _CHILD.format(path=sys.path)
        # One thread: workers are as many as cores, and BLAS threads would reserve address space.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        shared = open_shared(self._image_size)
        argument = json.dumps([self._image_size, self._network_size, shared])
        try:
            if shared is not None:
                self._shared = mmap.mmap(shared, self._image_size**2 * 3)
            return subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-c", code, argument],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # image libraries print warnings there
                bufsize=2**20,
                env=environment,
                pass_fds=() if shared is None else (shared,),
            )
        except OSError as error:
            raise HeadstartError(f"A decoding process could not be started: {error}.") from error
        finally:
            if shared is not None:
                os.close(shared)
