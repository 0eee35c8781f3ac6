"""One model: files → decoded in processes → batches → answers, within a bounded queue."""

from __future__ import annotations

import asyncio
import base64
import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.album import Album
from headstart.bundle import GRAPH
from headstart.data.decode_pool import DecodePool
from headstart.data.stream import BATCH_SIZE, read_image
from headstart.errors import UnreadablePhotoError
from headstart.explain import Explainer, Explanation
from headstart.predictor import Prediction, Predictor
from headstart.server.metrics import Metrics
from headstart.server.settings import RequestError, Settings

Photo = bytes | npt.NDArray[np.uint8]


@dataclass
class _Waiting:
    """A decoded photo in the queue."""

    pixels: npt.NDArray[np.uint8]
    deadline: float
    answer: asyncio.Future[npt.NDArray[np.float32]]
    since: float = field(default_factory=time.monotonic)


class Engine:
    """Answers with one bundle.

    Args:
        name: Of the model in addresses.
        path: Of its bundle.
        settings: Limits.
        metrics: Where it counts.

    Raises:
        BundleError: The bundle cannot be used.
    """

    def __init__(self, name: str, path: Path, settings: Settings, metrics: Metrics) -> None:
        self.name, self.path = name, path
        self._settings, self._metrics = settings, metrics
        self.predictor = Predictor(path, coverage=settings.coverage, precision=settings.precision)
        self.class_names = self.predictor.class_names
        self.image_size = self.predictor.bundle.image_size
        self.digest = str(self.predictor.bundle.manifest["members"][GRAPH]["sha256"])
        # One more than there are decoding processes: it hands a process its next photo at once.
        self._decoding = ThreadPoolExecutor(settings.workers + 1, "decode")
        self._computing = ThreadPoolExecutor(settings.workers, "compute")
        self._pool = DecodePool(self.image_size, settings.workers, settings.photo_seconds)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._answering = 0
        # The first inference allocates; nobody should wait for it.
        self.predictor.compute_rows(np.zeros((1, self.image_size, self.image_size, 3), np.uint8))
        metrics.model.labels(name, self.digest).set(1)

    def start(self) -> None:
        """Begin to work on the queue; within a running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._settings.workers)]

    async def stop(self) -> None:
        """End, once nothing waits any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._metrics.model.labels(self.name, self.digest).set(0)
        for executor in (self._decoding, self._computing):
            executor.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    async def stop_when_idle(self) -> None:
        """End after the requests that are being answered."""
        while self._answering:
            await asyncio.sleep(0.02)
        await self.stop()

    async def answer(self, photos: Sequence[Photo], deadline: float) -> list[Prediction[int]]:
        """A prediction for each photo, its number as the item; a reason where it cannot be read.

        Raises:
            RequestError: 429 where the queue is full, 504 where the deadline passed.
        """
        if self._metrics.waiting + len(photos) > self._settings.queue:
            self._metrics.rejected.labels("queue").inc()
            raise RequestError(429, "The queue is full; try again in a second.")
        self._metrics.add_waiting(len(photos))
        self._answering += 1
        try:
            jobs = [self._answer_one(number, p, deadline) for number, p in enumerate(photos)]
            found = await asyncio.gather(*jobs, return_exceptions=True)
        finally:
            self._metrics.add_waiting(-len(photos))
            self._answering -= 1
        for each in found:
            if isinstance(each, BaseException):
                raise each
        self._metrics.photos.labels(self.name).inc(len(photos))
        return found  # type: ignore[return-value]

    async def _answer_one(self, number: int, photo: Photo, deadline: float) -> Prediction[int]:
        loop = asyncio.get_running_loop()
        try:
            pixels = await self.decode(photo, deadline)
        except UnreadablePhotoError as error:
            return Prediction(number, "", 0.0, np.empty(0, np.float32), str(error))
        waiting = _Waiting(pixels, deadline, loop.create_future())
        self._queue.put_nowait(waiting)
        return self.predictor.read_row(number, await waiting.answer)

    async def decode(self, photo: Photo, deadline: float) -> npt.NDArray[np.uint8]:
        """The network's square of a photo.

        Raises:
            UnreadablePhotoError: With the reason.
            RequestError: 504, the deadline passed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoding, self._decode, photo, deadline)

    async def explain(self, square: npt.NDArray[np.uint8]) -> Explanation[None]:
        """What the answer for a decoded photo rests on.

        Raises:
            MissingPackageError: Grad-CAM needs the package onnx.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._computing, lambda: self._explainer.explain_square(square)
        )

    @functools.cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.predictor.bundle)

    def _decode(self, photo: Photo, deadline: float) -> npt.NDArray[np.uint8]:
        self._check(deadline)
        start = time.monotonic()
        if isinstance(photo, bytes):
            pixels = self._pool.decode(photo)
        else:
            pixels = read_image(photo, self.image_size)
        self._metrics.decode.observe(time.monotonic() - start)
        return pixels

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            self._metrics.rejected.labels("deadline").inc()
            raise RequestError(504, "The deadline passed before the photo was computed.")

    async def _work(self) -> None:
        """Takes what waits, a batch at a time: one photo when idle, eight when busy."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH_SIZE and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [each for each in batch if self._is_wanted(each)]
            if not batch:
                continue
            pixels = np.stack([each.pixels for each in batch])
            start = time.monotonic()
            try:
                rows = await loop.run_in_executor(
                    self._computing, self.predictor.compute_rows, pixels
                )
            except Exception as error:  # must not end the worker; the requests hear of it
                for each in batch:
                    if not each.answer.done():
                        each.answer.set_exception(error)
                continue
            self._metrics.compute.observe(time.monotonic() - start)
            self._metrics.batch.observe(len(batch))
            for each, row in zip(batch, rows, strict=True):
                self._metrics.wait.observe(start - each.since)
                if not each.answer.done():
                    each.answer.set_result(row)

    def _is_wanted(self, waiting: _Waiting) -> bool:
        """Whether somebody still waits for it, and in time."""
        if waiting.answer.done():  # the client has gone
            return False
        try:
            self._check(waiting.deadline)
        except RequestError as error:
            waiting.answer.set_exception(error)
            return False
        return True


def describe(
    engine: Engine, prediction: Prediction[Any], has_similar: bool = False
) -> dict[str, Any]:
    """All that is said of a photo, as plain data; where asked for, with similar photos."""
    if prediction.problem is not None:
        return {"problem": prediction.problem}
    names = engine.class_names
    odds = {name: float(p) for name, p in zip(names, prediction.probabilities, strict=True)}
    names_of_set = prediction.prediction_set
    told = {
        "label": prediction.label,
        "probability": prediction.probability,
        "probabilities": odds,
        "set": None if names_of_set is None else list(names_of_set),
        "sure": prediction.is_sure,
        "novelty": prediction.novelty,
        "novel": prediction.is_novel,
        "problem": None,
    }
    album = engine.predictor.album
    if has_similar:
        found = [] if album is None else [(album, number) for number in prediction.similar]
        told["similar"] = [_show_trained(engine, *each) for each in found]
    return told


def _show_trained(engine: Engine, album: Album, number: int) -> dict[str, str | None]:
    """Class and picture of a training photo; the latter as an address that holds it."""
    picture = base64.b64encode(album.pictures[number]).decode()
    return {
        "label": engine.class_names[album.labels[number]],
        "picture": f"data:image/jpeg;base64,{picture}" if picture else None,
    }
