"""Photos → features: decode, prefix on a runtime, cache. Computed once per photo."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.data.addresses import locate
from headstart.data.scan import Manifest, Problem, Sample, read_sample, scan_folder, scan_paths
from headstart.data.stream import BATCH_SIZE, Batch, give_up, map_photos
from headstart.engines import Engine, check_is_seen, current_engine, require_engine, use_engine
from headstart.errors import CacheError
from headstart.features.cache import ActivationCache
from headstart.features.choice import (
    SlowPassError,
    Watch,
    choose_runtime,
    is_measurable,
    make_space,
    measure_prefix,
)
from headstart.features.forward import (
    count_sent,
    open_forward,
    read_content,
)
from headstart.features.maintenance import get_limit, prune_cache
from headstart.features.pace import Stride, keep_pace
from headstart.features.quality import QualityCache
from headstart.models.boundary import Prefix
from headstart.models.loaders import load_prefix
from headstart.runtimes import AUTO, get_runtime, require_runtime

if TYPE_CHECKING:
    import keras

# Called with (photos done, photos in all); ``done`` starts at the number found in the cache.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Extraction:
    """Photos whose features are in the cache, and how they came there.

    Attributes:
        samples: The samples that have features.
        problems: Files that have none, with reasons.
        flags: Photos that have features but may be corrupt, with what their decoder complained of.
        forwarded: Photos that went through the network now; the others came from the cache.
        seconds: ``decode`` and ``prefix``; their sum is the time that passed.
        pace: Seconds per photo of the pass, once going; None where hardly any photo was forwarded.
        runtime: Name and version of what computed them.
        shape: Shape of one activation.
    """

    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    flags: tuple[Problem, ...]
    forwarded: int
    seconds: dict[str, float]
    pace: float | None
    runtime: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Features(Extraction):
    """Pooled features of photos, one row each, in memory.

    Attributes:
        array: ``(sample, feature)`` float16.
    """

    array: npt.NDArray[np.float16]


@dataclass(frozen=True)
class CachedFeatures(Extraction):
    """Features that are read piece by piece, while `open_features` is open."""

    cache: ActivationCache

    def read(self, samples: Sequence[Sample]) -> npt.NDArray[np.float16]:
        """``(sample, feature)`` of some of the samples.

        Raises:
            CacheError: A shard turned out damaged; run again.
        """
        return self.cache.read([sample.digest for sample in samples])


def extract_features(
    backbone: str | keras.Model,
    photos: str | Path | Sequence[str | Path] | Manifest,
    *,
    runtime: str = AUTO,
    engine: str | Engine | None = None,
    progress: Progress | None = None,
) -> Features:
    """The features of photos by a frozen backbone; every photo is forwarded once and cached.

    Args:
        backbone: A name, or a model such as `load_backbone` gives.
        photos: A folder (with one folder per class, or without), files, or a manifest.
        runtime: What computes: ``"onnxruntime"``, ``"openvino"``, ``"litert"``, ``"tensorflow"``,
            or ``"auto"``: whichever needs the least time, see `headstart.features.choice`.
        engine: Where it is computed: ``"local"``, ``"ray"``, or None, the one in use: see
            `headstart.engines.use_engine`.
        progress: Called with ``(done, all)`` after each batch.

    Raises:
        BackboneError, MissingPackageError, DatasetError, CacheError: With what to do.
    """
    require_runtime(runtime)
    require_engine(engine)
    prefix, manifest = load_prefix(backbone), scan_photos(photos)
    with use_engine(engine):
        return extract_manifest(prefix, manifest, runtime=runtime, progress=progress)


def scan_photos(photos: str | Path | Sequence[str | Path] | Manifest) -> Manifest:
    """The manifest of a folder (with one folder per class, or without), or of files."""
    if isinstance(photos, Manifest):
        return photos
    if isinstance(photos, (str, Path)) and locate(photos).is_dir():
        manifest = scan_folder(photos)
        return manifest if manifest.samples else scan_paths([locate(photos)])
    paths = [photos] if isinstance(photos, (str, Path)) else photos
    return scan_paths(map(locate, paths))


def extract_manifest(
    prefix: Prefix, manifest: Manifest, *, runtime: str = AUTO, progress: Progress | None = None
) -> Features:
    """`extract_features` for a manifest and a prefix that are at hand."""
    with open_features(prefix, manifest, runtime=runtime, progress=progress) as found:
        record = {field.name: getattr(found, field.name) for field in fields(Extraction)}
        return Features(**record, array=found.read(found.samples))


@contextlib.contextmanager
def open_features(
    prefix: Prefix, manifest: Manifest, *, runtime: str = AUTO, progress: Progress | None = None
) -> Iterator[CachedFeatures]:
    """Compute what is not in the cache; within the block all of it can be read from there.

    Memory does not grow with the number of photos, but for their names and digests.
    """
    with contextlib.ExitStack() as stack:
        if runtime != AUTO:
            yield stack.enter_context(_open_features(prefix, manifest, runtime, progress))
            return
        digests = [sample.digest for sample in manifest.samples]
        chosen, is_watched = choose_runtime(prefix, digests), is_measurable(prefix)
        first = _open_features(prefix, manifest, chosen, progress, is_watched=is_watched)
        try:
            found = stack.enter_context(first)
        except SlowPassError:
            measure_prefix(prefix, _decode_some(manifest.samples, prefix.image_size))
            chosen = choose_runtime(prefix, digests)
            found = stack.enter_context(_open_features(prefix, manifest, chosen, progress))
        if found.pace is not None:
            keep_pace(prefix, AUTO, found.pace)
        yield found


def _decode_some(samples: Sequence[Sample], image_size: int) -> npt.NDArray[np.uint8]:
    """The pixels of some of the photos, those that can be read."""
    some = samples[: 16 * BATCH_SIZE]
    with contextlib.closing(
        map_photos(some, read_content, image_size, lambda pixels: pixels)
    ) as batches:
        read = [batch.rows for batch in batches if batch.items]
    empty = np.empty((0, image_size, image_size, 3), np.uint8)
    return np.concatenate([empty, *read])


@contextlib.contextmanager
def _open_features(
    prefix: Prefix,
    manifest: Manifest,
    runtime: str,
    progress: Progress | None,
    *,
    is_watched: bool = False,
) -> Iterator[CachedFeatures]:
    limit, identity = get_limit(), get_runtime(runtime).identity
    cache = ActivationCache(make_space(prefix, identity))
    try:
        digests = [sample.digest for sample in manifest.samples]
        cache.drop_damaged(digests)
        missing = set(cache.missing(digests))
        new = [sample for sample in manifest.samples if sample.digest in missing]
        del digests, missing  # not kept through the pass
        run = _Pass(prefix, cache, runtime, progress, len(manifest.samples))
        run.is_watched = is_watched
        run.forward_copies(new)
        pace = run.stride.seconds_per_photo
        if pace is not None:
            keep_pace(prefix, runtime, pace)
        failed = [
            Problem(sample.path, run.failures[sample.digest])
            for sample in manifest.samples
            if sample.digest in run.failures
        ]
        kept = manifest.without(failed)
        damages = cache.find_damages()
        flags = [Problem(s.path, damages[s.digest]) for s in kept.samples if s.digest in damages]
        yield CachedFeatures(
            samples=kept.samples,
            problems=kept.problems,
            flags=tuple(flags),
            forwarded=run.forwarded,
            seconds=run.seconds,
            pace=pace,
            runtime=identity,
            shape=prefix.shape,
            cache=cache,
        )
    finally:
        cache.close()
        with contextlib.suppress(CacheError):  # the result is there; the next run prunes
            prune_cache(max_bytes=limit)


def _is_unchanged(sample: Sample) -> bool:
    if sample.content is not None:
        return True
    return read_sample(sample.path, sample.label, sample.side) == sample


def _find_firsts(samples: list[Sample]) -> dict[str, Sample]:
    """The first of the copies of each photo, by digest, in order."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.digest, sample)
    return first


class _Pass:
    """One pass of the prefix over photos that are not in the cache."""

    def __init__(
        self,
        prefix: Prefix,
        cache: ActivationCache,
        runtime: str,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._prefix, self._cache, self._runtime = prefix, cache, runtime
        self._progress, self._total = progress, total
        self.is_watched = False
        self.failures: dict[str, str] = {}
        self.forwarded = 0
        self.seconds = {"decode": 0.0, "prefix": 0.0}
        self.stride = Stride()

    def forward_copies(self, samples: list[Sample]) -> None:
        """Forward one of the copies of each photo; another one if that file has changed or gone."""
        self.forward(list(_find_firsts(samples).values()))
        if not self.failures:
            return
        first = _find_firsts(samples)  # not kept through the pass
        lost = {d for d in self.failures if not _is_unchanged(first[d])}
        others = (s for s in samples if s.digest in lost and s is not first[s.digest])
        spare = {s.digest: s for s in others if _is_unchanged(s)}
        if spare:
            self.forward(list(spare.values()))

    def forward(self, samples: list[Sample]) -> None:
        """Decode, compute and append to the cache; on any exit what was computed is kept."""
        left = len(samples)
        self._report(left)
        if not samples:
            return
        engine, work = current_engine(), open_forward(self._prefix, self._runtime)
        start, decoding, computing = time.perf_counter(), 0.0, 0.0
        watch = Watch(len(samples), engine.slots) if self.is_watched else None
        chunk = count_sent(len(samples), 2 * math.prod(self._prefix.shape))
        results: Generator[Batch[Sample]]
        results = engine.map(work.open, samples, lost=give_up, chunk=chunk)
        quality = QualityCache(self._prefix.image_size, [sample.digest for sample in samples])
        try:
            with contextlib.closing(results) as batches, quality:
                for batch in batches:
                    for sample, why in batch.failures:
                        check_is_seen(sample.path, why)
                    self.failures |= {sample.digest: reason for sample, reason in batch.failures}
                    for sample in batch.items:
                        self.failures.pop(sample.digest, None)
                    if any(batch.damages):
                        self._cache.note_damages({s.digest: why for s, why in batch.flags})
                    if batch.items:
                        self._cache.append([(s.digest, 0) for s in batch.items], batch.rows)
                        quality.append(batch)
                    self.forwarded += len(batch.items)
                    decoding += batch.seconds["decode"]
                    computing += batch.seconds["compute"]
                    self.stride.see(len(batch.items), sum(batch.seconds.values()))
                    left -= len(batch.order)
                    self._report(left)
                    if watch is not None and batch.items:
                        watch.see(batch.seconds["compute"] / len(batch.items))
        finally:
            self._cache.flush()
        # The workers do both at once; the time that passed is shared in proportion.
        passed = time.perf_counter() - start
        share = decoding / max(decoding + computing, 1e-9)
        self.seconds["decode"] += passed * share
        self.seconds["prefix"] += passed * (1 - share)

    def _report(self, left: int) -> None:
        if self._progress:
            self._progress(self._total - left, self._total)
