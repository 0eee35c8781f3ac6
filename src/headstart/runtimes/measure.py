"""Time the installed runtimes on a prefix, compare them with TensorFlow, remember the fastest."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import HeadstartError, MissingPackageError
from headstart.quiet import hushed
from headstart.runtimes import (
    DEFAULT_RUNTIME,
    REFERENCE,
    RUNTIMES,
    TOLERANCE,
    Computable,
    Runtime,
    Session,
)
from headstart.runtimes.memory import recall, remember

if TYPE_CHECKING:
    import keras

Images = npt.NDArray[np.uint8]

_FORMAT = 1

# A runtime is timed in rounds: at least so many, and until so many seconds are over.
_LEAST_ROUNDS, _ROUND_SECONDS = 3, 0.5


@dataclass(frozen=True)
class Measurement:
    """What a runtime did with a prefix.

    Attributes:
        runtime: Its name.
        photos_per_second: One batch per core at once, as in an extraction; None when it failed.
        relative_error: The largest per photo, against TensorFlow; None when not checked.
        problem: Why it was not measured or not compared, else None.
    """

    runtime: str
    photos_per_second: float | None = None
    relative_error: float | None = None
    problem: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether it was compared with TensorFlow and is within the tolerance."""
        return self.relative_error is not None and self.relative_error <= TOLERANCE


@dataclass(frozen=True)
class Choice:
    """The measurements of all runtimes, and the fastest that agrees with TensorFlow.

    Attributes:
        measurements: In the order of the table.
        chosen: Its name; where TensorFlow is not installed nothing can be compared, and it is the
            default runtime.
    """

    measurements: tuple[Measurement, ...]
    chosen: str

    @property
    def speeds(self) -> dict[str, float]:
        """Photos per second of those that agree."""
        return {m.runtime: m.photos_per_second or 0.0 for m in self.measurements if m.agrees}


def measure_runtimes(
    prefix: Computable,
    build_model: Callable[[], keras.Model],
    batches: Sequence[Images],
    runtimes: Sequence[Runtime] = tuple(RUNTIMES.values()),
) -> Choice:
    """Time every installed runtime on some batches and compare its rows with TensorFlow's.

    Args:
        prefix: The frozen part of a network.
        build_model: Gives it as a Keras model.
        batches: ``(batch, size, size, 3)`` photos, all of the size in which photos will come.
        runtimes: The candidates.
    """
    measurements, rows = {}, {}
    # The reference first, so that the others find TensorFlow's threads already running.
    for runtime in sorted(runtimes, key=lambda runtime: runtime.name != REFERENCE):
        try:
            runtime.require()
            with hushed():
                session = runtime.open(prefix, build_model)
                rows[runtime.name] = np.concatenate([session(images) for images in batches])
                speed = time_session(session, batches)
            measurements[runtime.name] = _compare(runtime.name, speed, rows)
        except MissingPackageError as error:
            problem = f"not installed: {str(error).partition('with: ')[2]}"
            measurements[runtime.name] = Measurement(runtime.name, problem=problem)
        except HeadstartError as error:  # this one cannot be used; the others may
            measurements[runtime.name] = Measurement(runtime.name, problem=str(error))
    ordered = tuple(measurements[runtime.name] for runtime in runtimes)
    fastest = max(
        (m for m in ordered if m.agrees), key=lambda m: m.photos_per_second or 0, default=None
    )
    return Choice(ordered, fastest.runtime if fastest else DEFAULT_RUNTIME)


def _compare(name: str, speed: float, rows: dict[str, npt.NDArray[np.float32]]) -> Measurement:
    if REFERENCE not in rows:
        is_missing = get_identity(RUNTIMES[REFERENCE]) is None
        why = "is not installed" if is_missing else "cannot compute this network"
        return Measurement(name, speed, problem=f"not checked: TensorFlow {why}")
    error = float(relative_errors(rows[name], rows[REFERENCE]).max())
    if error <= TOLERANCE:
        return Measurement(name, speed, error)
    problem = f"disagrees with TensorFlow; accepted are errors up to {TOLERANCE:g}"
    return Measurement(name, speed, error, problem)


def relative_errors(
    rows: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """``(photo,)`` norm of the difference over norm of the reference.

    >>> relative_errors(np.array([[3.0, 4.5]]), np.array([[3.0, 4.0]])).tolist()
    [0.1]
    """
    difference = np.linalg.norm(rows.astype(np.float64) - reference, axis=1)
    norms = np.linalg.norm(reference.astype(np.float64), axis=1)
    errors: npt.NDArray[np.float64] = difference / np.maximum(norms, 1e-12)
    return np.where(np.isnan(errors), np.inf, errors)


def time_session(session: Session, batches: Sequence[Images]) -> float:
    """Photos per second, one batch per core at once; the best of a few rounds after a warm-up.

    The best, because whatever else the machine does can only make a round slower.
    """
    cores = os.cpu_count() or 1
    work = [batches[number % len(batches)] for number in range(max(cores, len(batches)))]
    photos = sum(len(images) for images in work)
    best, spent, rounds = 0.0, 0.0, 0
    with ThreadPoolExecutor(cores) as threads:
        list(threads.map(session, work))
        while rounds < _LEAST_ROUNDS or spent < _ROUND_SECONDS:
            start = time.perf_counter()
            list(threads.map(session, work))
            seconds = time.perf_counter() - start
            best, spent, rounds = max(best, photos / seconds), spent + seconds, rounds + 1
    return best


def make_images(count: int, size: int, seed: int = 0) -> Images:
    """``(count, size, size, 3)`` random images with structure at every scale, as photos have it."""
    rng = np.random.default_rng(seed)
    images = np.full((count, size, size, 3), 128.0)
    step = size
    while step >= 1:
        cells = -(-size // step)
        noise = rng.normal(0, 24, (count, cells, cells, 3))
        images += noise.repeat(step, 1).repeat(step, 2)[:, :size, :size]
        step //= 2
    return images.clip(0, 255).astype(np.uint8)


# ---- memory


def remember_choice(prefix: Computable, choice: Choice) -> None:
    """Keep a choice for this prefix, this machine, and the installed versions.

    Raises:
        HeadstartError: The cache folder cannot be written.
    """
    remember("runtimes", _list_sources(prefix), asdict(choice))


def recall_choice(prefix: Computable) -> Choice | None:
    """What was remembered, or None; a damaged record counts as none."""
    record = recall("runtimes", _list_sources(prefix))
    with contextlib.suppress(KeyError, TypeError):
        if record is not None and record["chosen"] in RUNTIMES:
            measurements = tuple(Measurement(**each) for each in record["measurements"])
            return Choice(measurements, record["chosen"])
    return None


def _list_sources(prefix: Computable) -> dict[str, Any]:
    """Everything that the choice depends on, but for the machine."""
    return {
        "format": _FORMAT,
        "weights_digest": prefix.weights_digest,
        "boundary": prefix.boundary,
        "image_size": prefix.image_size,
        "runtimes": {name: get_identity(runtime) for name, runtime in RUNTIMES.items()},
    }


def get_identity(runtime: Runtime) -> str | None:
    """Name and version of a runtime, or None where it is not installed."""
    try:
        runtime.require()
    except MissingPackageError:
        return None
    return runtime.identity
