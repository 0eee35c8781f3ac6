"""One model: files → decoded in processes → batches → answers, within a bounded queue."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.bundle import GRAPH
from headstart.errors import UnreadablePhotoError
from headstart.explain import Explainer, Explanation
from headstart.predictor import Prediction, Predictor
from headstart.server.lane import Lanes, Photo
from headstart.server.metrics import Metrics
from headstart.server.settings import RequestError


class Engine:
    """Answers with one bundle.

    Args:
        name: Of the model in addresses.
        path: Of its bundle.
        predictor: Of the bundle.
        metrics: Where it counts.
        lanes: Where its photos are decoded and computed.

    Raises:
        BundleError: The graph cannot be computed.
    """

    def __init__(
        self, name: str, path: Path, predictor: Predictor, metrics: Metrics, lanes: Lanes
    ) -> None:
        self.name, self.predictor, self.path = name, predictor, path
        self._settings, self._metrics = lanes.settings, metrics
        self.class_names = self.predictor.class_names
        self.image_size = self.predictor.bundle.image_size
        self.digest = str(self.predictor.bundle.manifest["members"][GRAPH]["sha256"])
        self._lane, self._rest = lanes.take(self.predictor)
        self._answering = 0
        metrics.model.labels(name, self.digest).set(1)

    def start(self) -> None:
        """Begin to work on the queue; within a running event loop."""
        self._lane.start()

    async def stop(self) -> None:
        """End, once nothing waits any more."""
        self._metrics.model.labels(self.name, self.digest).set(0)
        await self._lane.stop()

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
        try:
            row = await self._lane.compute(photo, deadline)
        except UnreadablePhotoError as error:
            return Prediction(number, "", 0.0, np.empty(0, np.float32), str(error))
        if self._rest is not None:
            loop = asyncio.get_running_loop()
            row = (await loop.run_in_executor(self._lane.computing, self._rest, row[None]))[0]
        return self.predictor.read_row(number, row)

    async def decode(self, photo: Photo, deadline: float) -> npt.NDArray[np.uint8]:
        """The network's square of a photo.

        Raises:
            UnreadablePhotoError: With the reason.
            RequestError: 504, the deadline passed.
        """
        return await self._lane.decode(photo, deadline)

    async def explain(self, square: npt.NDArray[np.uint8]) -> Explanation[None]:
        """What the answer for a decoded photo rests on.

        Raises:
            MissingPackageError: Grad-CAM needs the package onnx.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._lane.computing, lambda: self._explainer.explain_square(square)
        )

    @functools.cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.predictor.bundle)
