"""A network's way of photos: decoded in processes, computed in batches; engines may share one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.bundle import GRAPH
from headstart.data.decode_pool import DecodePool
from headstart.data.stream import BATCH_SIZE, read_image
from headstart.earlier import find_network_size
from headstart.predictor import Predictor
from headstart.runtimes.onnx_cuts import describe_cuts, parse_graph, take_outputs, take_rest
from headstart.runtimes.onnx_runtime import open_graph, open_outputs
from headstart.server.metrics import Metrics
from headstart.server.settings import RequestError, Settings

Photo = bytes | npt.NDArray[np.uint8]
Row = npt.NDArray[np.float32]
Compute = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
Rest = Callable[[Row], Row]
# What leads to a cut, and the sizes of the photos as in `Lane`.
Key = tuple[str, int, int]

# Of the operators: to share less would cost more than it saves.
_LEAST_SHARED = 0.5


@dataclass
class _Waiting:
    """A decoded photo in the queue."""

    pixels: npt.NDArray[np.uint8]
    deadline: float
    answer: asyncio.Future[Row]
    since: float = field(default_factory=time.monotonic)


class Lane:
    """Photos in, rows out.

    Args:
        compute: ``(photo, size, size, 3)`` → ``(photo, ...)``.
        sizes: Side of the square pixels, and what decides how much of a photo is cut away.
        settings: Limits.
        metrics: Where it counts.
        is_shared: Whether several engines ask for the same photo: one that is on its way is not
            computed a second time.
    """

    def __init__(
        self,
        compute: Compute,
        sizes: tuple[int, int],
        settings: Settings,
        metrics: Metrics,
        is_shared: bool = False,
    ) -> None:
        self.users, self.is_closed = 0, False
        self._compute, self._sizes, self._is_shared = compute, sizes, is_shared
        self._settings, self._metrics = settings, metrics
        # One more than there are decoding processes: it hands a process its next photo at once.
        self._decoding = ThreadPoolExecutor(settings.workers + 1, "decode")
        self.computing = ThreadPoolExecutor(settings.workers, "compute")
        size, workers = sizes[0], settings.workers
        self._pool = DecodePool(size, workers, settings.photo_seconds, network_size=sizes[1])
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._coming: dict[bytes, asyncio.Task[Row]] = {}
        # The first inference allocates; nobody should wait for it.
        self.shape = compute(np.zeros((1, size, size, 3), np.uint8)).shape[1:]

    def start(self) -> None:
        """Begin to work on the queue, for the first user; within a running event loop."""
        self.users += 1
        if not self._tasks:
            workers = range(self._settings.workers)
            self._tasks = [asyncio.create_task(self._work()) for _ in workers]

    async def stop(self) -> None:
        """End with the last user, once nothing waits any more."""
        self.users -= 1
        if self.users > 0:
            return
        self.is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for executor in (self._decoding, self.computing):
            executor.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    async def compute(self, photo: Photo, deadline: float) -> Row:
        """The row of a photo.

        Raises:
            UnreadablePhotoError: With the reason.
            RequestError: 504, the deadline passed.
        """
        if not self._is_shared or not isinstance(photo, bytes):
            return await self._compute_one(photo, deadline)
        key = hashlib.sha256(photo).digest()
        coming = self._coming.get(key)
        if coming is not None:
            try:
                return await asyncio.shield(coming)
            except RequestError:  # the deadline of another request
                return await self._compute_one(photo, deadline)
        coming = self._coming[key] = asyncio.ensure_future(self._compute_one(photo, deadline))
        coming.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(coming)

    def _forget(self, key: bytes, done: asyncio.Task[Row]) -> None:
        del self._coming[key]
        if not done.cancelled():
            done.exception()  # whoever waited has heard of it, unless all have gone

    async def _compute_one(self, photo: Photo, deadline: float) -> Row:
        pixels = await self.decode(photo, deadline)
        waiting = _Waiting(pixels, deadline, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answer

    async def decode(self, photo: Photo, deadline: float) -> npt.NDArray[np.uint8]:
        """The network's square of a photo.

        Raises:
            UnreadablePhotoError: With the reason.
            RequestError: 504, the deadline passed.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoding, self._decode, photo, deadline)

    def _decode(self, photo: Photo, deadline: float) -> npt.NDArray[np.uint8]:
        self._check(deadline)
        start = time.monotonic()
        if isinstance(photo, bytes):
            pixels = self._pool.decode(photo)
        else:
            pixels = read_image(photo, *self._sizes)
        self._metrics.decode.observe(time.monotonic() - start)
        return pixels

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            self._metrics.rejected.labels("deadline").inc()
            raise RequestError(504, "The deadline passed before the photo was computed.")

    async def _work(self) -> None:
        """Takes what waits, a batch at a time: one photo when idle, two when busy."""
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
                rows = await loop.run_in_executor(self.computing, self._compute, pixels)
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


class Lanes:
    """Gives engines their lanes: bundles that begin with the same frozen network share one.

    Args:
        settings: Limits.
        metrics: Where lanes count.
        predictors: Of all bundles that are served from the beginning. What most of them have in
            common is computed once; one that comes later joins a lane that fits.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, predictors: Sequence[Predictor]
    ) -> None:
        self.settings, self._metrics = settings, metrics
        self._lanes: dict[Key, Lane] = {}
        cuts = [_list_keys(each) for each in predictors] if len(predictors) > 1 else []
        self._keys = choose_shared([list(each) for each in cuts])

    def take(self, predictor: Predictor) -> tuple[Lane, Rest | None]:
        """A lane, and what turns its rows into those of the predictor, if anything is left to do.

        Raises:
            BundleError: The graph cannot be computed.
        """
        cuts = _list_keys(predictor) if self._keys else {}
        key = next((key for key in reversed(cuts) if key in self._keys), None)
        sizes = _find_sizes(predictor)
        if key is None:
            return Lane(predictor.compute_rows, sizes, self.settings, self._metrics), None
        model, name = _read_graph(predictor), cuts[key]
        lane = self._lanes.get(key)
        if lane is None or lane.is_closed:
            compute = open_graph(take_outputs(model, [name]))
            lane = Lane(compute, sizes, self.settings, self._metrics, is_shared=True)
            self._lanes[key] = lane
        return lane, _open_rest(predictor, model, name, lane.shape)


def _list_keys(predictor: Predictor) -> dict[Key, str]:
    """The cuts that are worth to be shared, in the order of the graph, with their tensors."""
    sizes, cuts = _find_sizes(predictor), describe_cuts(_read_graph(predictor))
    return {(cut.digest, *sizes): cut.name for cut in cuts if cut.share >= _LEAST_SHARED}


def _find_sizes(predictor: Predictor) -> tuple[int, int]:
    return predictor.bundle.image_size, find_network_size(predictor.bundle)


def _read_graph(predictor: Predictor) -> Any:
    return parse_graph(predictor.bundle.members[GRAPH])  # which the predictor has checked


def choose_shared(cuts: Sequence[Sequence[Key]]) -> set[Key]:
    """Where to cut: what most graphs have in common, the last of these; then of the other graphs.

    Args:
        cuts: Of each graph, in its order.

    >>> sorted(choose_shared([["a", "b", "c"], ["a", "b", "d"], ["e", "f"], ["e", "f"]]))
    ['b', 'f']
    """
    left = list(cuts)
    chosen: set[Key] = set()
    while True:
        counts = Counter(key for graph in left for key in graph)
        most = max(counts.values(), default=0)
        if most < 2:
            return chosen
        graph = next(graph for graph in left if any(counts[key] == most for key in graph))
        key = [key for key in graph if counts[key] == most][-1]
        chosen.add(key)
        left = [graph for graph in left if key not in graph]


def _open_rest(predictor: Predictor, model: Any, name: str, shape: tuple[int, ...]) -> Rest:
    """From the rows of a lane to those of a predictor."""
    outputs = [output for output in predictor.outputs if output != name]
    run = open_outputs(take_rest(model, name, (1, *shape), outputs), outputs, "float")

    def finish(rows: Row) -> Row:
        found = dict(zip(outputs, run(rows), strict=True))
        return predictor.finish_outputs({**found, name: rows})

    return finish
