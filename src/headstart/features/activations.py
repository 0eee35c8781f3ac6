"""Activations at a boundary, for training: views of photos, cached, read batch by batch."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.data.decode_pool import DecodePool
from headstart.data.scan import Manifest, Problem, Sample
from headstart.data.stream import BATCH_SIZE, Batch, Content, map_photos
from headstart.data.views import VIEWS_VERSION, get_source_size, make_view
from headstart.engines import Work, current_engine
from headstart.errors import CacheError
from headstart.features.cache import ActivationCache, Rows
from headstart.features.choice import make_space
from headstart.features.extract import Progress, open_features
from headstart.features.forward import (
    Forward,
    count_sent,
    open_beside,
    open_forward,
    padded,
    read_content,
)
from headstart.models.boundary import Prefix
from headstart.runtimes import AUTO, Session

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Activations:
    """Activations of samples, ``views`` of each, in memory maps of the cache.

    Attributes:
        samples: The samples of the rows.
        problems: Files that are not among them, with reasons.
        rows: One set of rows per view, view 0 first.
        shape: Of one activation.
        forwarded: Views that went through the network now; the others came from the cache.
        seconds: ``decode`` and ``prefix``.
        runtime: Name and version of what computed them.
    """

    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    rows: tuple[Rows, ...]
    shape: tuple[int, ...]
    forwarded: int
    seconds: dict[str, float]
    runtime: str

    @property
    def views(self) -> int:
        """Views per sample."""
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """What they take on the disk."""
        return self.views * len(self.samples) * int(np.prod(self.shape)) * 2

    def read(self, rows: npt.NDArray[np.intp], views: npt.NDArray[np.intp] | int = 0) -> Floats:
        """``(row, *shape)`` float16 activations of samples, each in its view."""
        chosen = np.broadcast_to(np.asarray(views), rows.shape)
        result = np.empty((len(rows), *self.shape), np.float16)
        for view in np.unique(chosen):
            result[chosen == view] = self.rows[view].read(rows[chosen == view])
        return result


def open_activations(
    prefix: Prefix,
    manifest: Manifest,
    *,
    views: int = 1,
    seed: int = 0,
    runtime: str = AUTO,
    progress: Progress | None = None,
) -> Activations:
    """The activations of photos at a prefix's boundary; what is not cached is computed first.

    Args:
        prefix: Ends at a boundary, see `headstart.models.boundary.cut_prefix`.
        manifest: The photos.
        views: Views of each photo, the central square included.
        seed: Of the augmented views.
        runtime: What computes.
        progress: Called with ``(views done, views in all)``.

    Raises:
        CacheError, HeadstartError: With what to do.
    """
    total = views * len(manifest.samples)
    report: Progress = lambda done, _: progress(done, total) if progress else None  # noqa: E731
    with open_features(prefix, manifest, runtime=runtime, progress=report) as found:
        digests = [sample.digest for sample in found.samples]
        rows, forwarded, seconds = [found.cache.open(digests)], found.forwarded, found.seconds
        if views > 1:
            augmentation = f"views {VIEWS_VERSION} seed {seed}"
            cache = ActivationCache(make_space(prefix, found.runtime, augmentation))
            with contextlib.closing(cache):
                # What was chosen for the first view computes the others.
                chosen = found.runtime.partition(" ")[0]
                more = _Views(prefix, cache, chosen, seed, progress)
                more.fill(found.samples, range(1, views), total)
                rows += [cache.open(digests, view) for view in range(1, views)]
            forwarded += more.forwarded
            seconds = {name: s + more.seconds[name] for name, s in seconds.items()}
    return Activations(
        found.samples, found.problems, tuple(rows), prefix.shape, forwarded, seconds, found.runtime
    )


# A photo and those of its views that are missing; a view's key in the cache and its row.
_Wanted = tuple[Sample, tuple[int, ...]]
_Keyed = tuple[tuple[str, int], Floats]


@dataclass(frozen=True)
class _ViewsForward:
    """Photos → activations of their augmented views; each photo is decoded once.

    Attributes:
        forward: Computes.
        seed: Of the views.
    """

    forward: Forward
    seed: int

    @contextlib.contextmanager
    def open(self, cores: int) -> Iterator[Work[_Wanted, list[_Keyed]]]:
        """The work, with what decodes and computes for it."""
        session = padded(open_beside(self.forward.open_session))
        size = self.forward.image_size
        with (
            DecodePool(get_source_size(size), cores, network_size=size) as decode,
            ThreadPoolExecutor(cores, "views") as threads,
        ):

            def read(item: _Wanted) -> Path | Content:
                return read_content(item[0])

            def run(items: Iterable[_Wanted]) -> Iterator[list[_Keyed]]:
                waiting: deque[Future[list[_Keyed]]] = deque()
                photos = map_photos(items, read, decode, lambda x: x)
                with contextlib.closing(photos) as batches:
                    try:
                        for batch in itertools.chain(batches, [None]):
                            if batch is not None:
                                self._check(batch)
                                waiting.append(threads.submit(self._compute, batch, session))
                            while waiting and (batch is None or len(waiting) > cores + 1):
                                yield waiting.popleft().result()
                    finally:
                        for future in waiting:
                            future.cancel()

            yield run

    def _check(self, batch: Batch[_Wanted]) -> None:
        for (sample, _), reason in batch.failures:
            # A moment ago it could be read.
            raise CacheError(f"{sample.path} cannot be read any more: {reason}. Run again.")

    def _compute(self, batch: Batch[_Wanted], session: Session) -> list[_Keyed]:
        keys, squares = [], []
        for (sample, views), square in zip(batch.items, batch.rows, strict=True):
            for view in views:
                size = self.forward.image_size
                squares.append(make_view(square, size, sample.digest, view, self.seed))
                keys.append((sample.digest, view))
        rows: list[Floats] = []
        for start in range(0, len(squares), BATCH_SIZE):
            rows += list(session(np.stack(squares[start : start + BATCH_SIZE])))
        return list(zip(keys, rows, strict=True))


def _refuse(item: _Wanted, why: str) -> list[_Keyed]:
    raise CacheError(f"The views of {item[0].path} cannot be computed: {why}. Run again.")


class _Views:
    """One pass over photos some of whose augmented views are not in the cache."""

    def __init__(
        self,
        prefix: Prefix,
        cache: ActivationCache,
        runtime: str,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._prefix, self._cache, self._runtime = prefix, cache, runtime
        self._seed, self._progress = seed, progress
        self.forwarded = 0
        self.seconds = {"decode": 0.0, "prefix": 0.0}

    def fill(self, samples: Sequence[Sample], views: range, total: int) -> None:
        """Each photo is decoded once for all of its views that are missing."""
        first = {sample.digest: sample for sample in reversed(samples)}
        missing: dict[str, list[int]] = {}
        for view in views:
            self._cache.drop_damaged(first, view)
            for digest in self._cache.missing(first, view):
                missing.setdefault(digest, []).append(view)
        wanted = [(first[digest], tuple(missing[digest])) for digest in first if digest in missing]
        left = sum(map(len, missing.values()))
        if self._progress:
            self._progress(total - left, total)
        if not wanted:
            return
        work = _ViewsForward(open_forward(self._prefix, self._runtime), self._seed)
        chunk = count_sent(len(wanted), 2 * len(views) * math.prod(self._prefix.shape))
        start = time.perf_counter()
        with contextlib.closing(
            current_engine().map(work.open, wanted, lost=_refuse, chunk=chunk)
        ) as results:
            try:
                for rows in results:
                    self._cache.append((key for key, _ in rows), np.stack([r for _, r in rows]))
                    self.forwarded += len(rows)
                    left -= len(rows)
                    if self._progress:
                        self._progress(total - left, total)
            finally:
                self._cache.flush()
        self.seconds["prefix"] += time.perf_counter() - start
