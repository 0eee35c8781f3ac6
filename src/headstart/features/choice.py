"""Which runtime computes the photos of a run that leaves it to us.

A measurement costs ten to twenty seconds, most of them TensorFlow's import and LiteRT's conversion.
So nobody pays for it unasked where it cannot pay off: a run goes by what was remembered, or takes
the default runtime; only when its first batches say that the photos will take longer than
`WORTHWHILE_SECONDS` does it stop to measure. `headstart doctor --env` measures at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headstart.data.decode import DECODE_VERSION
from headstart.data.stream import BATCH_SIZE
from headstart.engines import current_engine
from headstart.features.cache import Space
from headstart.features.connection import open_index, shards_folder, translated
from headstart.files import digest_bytes
from headstart.models.boundary import Prefix, build_prefix_model
from headstart.runtimes import DEFAULT_RUNTIME, REFERENCE, RUNTIMES
from headstart.runtimes.measure import (
    Choice,
    get_identity,
    make_images,
    measure_runtimes,
    recall_choice,
    remember_choice,
)

# A pass that takes longer is worth a measurement, which is an eighth of it at most.
WORTHWHILE_SECONDS = 120.0

# How many batches a measurement takes, and how many per core tell whether one is worth it.
_BATCHES, _WARM_UP = 8, 2

# Where nothing was measured, runtimes count as so fast beside the default one: another one computes
# the rest of the photos only if it has the rows of more than half of them.
_UNMEASURED = 0.5


class SlowPassError(Exception):
    """The pass will take so long that measuring the runtimes first pays off."""


def make_space(prefix: Prefix, identity: str, augmentation: str = "") -> Space:
    """The cache's space of a prefix on a runtime, and of what made augmented views."""
    return Space(
        backbone=prefix.backbone,
        weights_digest=prefix.weights_digest,
        boundary=prefix.boundary,
        shape=prefix.shape,
        image_size=prefix.image_size,
        decode_version=DECODE_VERSION,
        runtime=identity,
        augmentation=augmentation,
    )


def choose_runtime(prefix: Prefix, photos: Sequence[str]) -> str:
    """The runtime that needs the least time for the photos that are not in the cache.

    Rows of several runtimes never mix in a run, so each would have to compute what it has no rows
    of. Where all photos are in the cache nothing is computed.

    Args:
        prefix: The frozen part.
        photos: Digests of the photos.
    """
    if current_engine().gpus:  # nothing else computes on them
        RUNTIMES[REFERENCE].require()
        return REFERENCE
    choice = recall_choice(prefix)
    identities = {name: get_identity(runtime) for name, runtime in RUNTIMES.items()}
    speeds = choice.speeds if choice else {}
    if not speeds:
        installed = (name for name, identity in identities.items() if identity)
        speeds = {name: 1.0 if name == DEFAULT_RUNTIME else _UNMEASURED for name in installed}
    wanted = list(dict.fromkeys(photos))
    cached = count_cached([make_space(prefix, identities[name] or "") for name in speeds], wanted)
    seconds = {
        name: (len(wanted) - count) / speeds[name]
        for name, count in zip(speeds, cached, strict=True)
    }
    return min(seconds, key=seconds.__getitem__)


def count_cached(spaces: Sequence[Space], photos: Sequence[str]) -> list[int]:
    """How many of the photos, each named once, have a row in each space.

    Raises:
        CacheError: The index cannot be used.
    """
    folder, counts = shards_folder(), []
    with contextlib.closing(open_index(folder)) as index, translated(folder):
        for space in spaces:
            digest = digest_bytes(space.describe().encode())
            found = index.execute("SELECT id FROM spaces WHERE digest = ?", (digest,)).fetchone()
            count = 0
            for start in range(0, len(photos) if found else 0, 500):
                part = photos[start : start + 500]
                marks = ",".join("?" * len(part))
                [rows] = index.execute(
                    "SELECT COUNT(*) FROM activations "  # noqa: S608 - only marks
                    f"WHERE space = ? AND view = 0 AND photo IN ({marks})",
                    (*found, *part),
                ).fetchone()
                count += rows
            counts.append(count)
    return counts


def is_measurable(prefix: Prefix) -> bool:
    """Whether a measurement would tell something that is not yet known."""
    if current_engine().gpus:
        return False
    return recall_choice(prefix) is None and get_identity(RUNTIMES[REFERENCE]) is not None


class Watch:
    """Raises `SlowPassError` if the first batches of a pass foretell a long one.

    A few batches per core, because the very first ones also compile and allocate.

    Args:
        photos: Of the pass.
        cores: That compute at once.
    """

    def __init__(self, photos: int, cores: int) -> None:
        self._photos, self._cores = photos, cores
        self._seconds: list[float] = []

    def see(self, seconds: float) -> None:
        """Look at what a batch took, in seconds per photo and core.

        Raises:
            SlowPassError: Enough was seen, and the pass will be long.
        """
        if len(self._seconds) < _WARM_UP * self._cores:
            self._seconds.append(seconds)
        elif min(self._seconds) * self._photos / self._cores > WORTHWHILE_SECONDS:
            raise SlowPassError


def measure_prefix(prefix: Prefix, images: npt.NDArray[np.uint8] | None = None) -> Choice:
    """Measure all installed runtimes on some batches, and remember the fastest that agrees.

    Args:
        prefix: The frozen part.
        images: ``(photo, size, size, 3)`` photos, used again from the first if there are fewer
            than needed; random images by default.
    """
    count = _BATCHES * BATCH_SIZE
    if images is None or not len(images):
        images = make_images(count, prefix.image_size)
    batches = np.split(images[np.arange(count) % len(images)], _BATCHES)
    choice = measure_runtimes(prefix, lambda: build_prefix_model(prefix), batches)
    if choice.speeds:
        remember_choice(prefix, choice)
    return choice
