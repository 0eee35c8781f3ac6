"""The contract of a runtime."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from headstart.data.stream import BATCH_SIZE
from headstart.errors import HeadstartError
from headstart.features.forward import padded
from headstart.models.backbones import DEFAULT_BACKBONE
from headstart.models.boundary import build_prefix_model
from headstart.models.loaders import load_prefix
from headstart.runtimes import REFERENCE, RUNTIMES, TOLERANCE, Runtime, Session
from headstart.runtimes.measure import make_images, relative_errors
from headstart.testing.promises import require

if TYPE_CHECKING:
    import keras

Images = npt.NDArray[np.uint8]

# Callers at once, and batches of each, when threads are let loose on a session.
_CALLERS, _TURNS = 4, 3


def check_runtime(runtime: Runtime, backbone: str | keras.Model = DEFAULT_BACKBONE) -> None:
    """Check that a runtime keeps what `headstart.runtimes` promises, on one backbone.

    It agrees with TensorFlow within `TOLERANCE`; gives one float32 row per photo for a batch of any
    size, which depends neither on the other photos nor on the padding; may be called from several
    threads; gives the same rows where it was sent as data; leaves the photos and earlier rows
    alone; refuses photos of another form with a sentence.

    Args:
        runtime: A row of `RUNTIMES`, or one of your own.
        backbone: A name, or a Keras model.

    Raises:
        AssertionError: With the promise that is broken.
        MissingPackageError: The runtime, or TensorFlow, is not installed.
    """
    runtime.require()
    require(
        runtime.identity.startswith(f"{runtime.name} ") and any(map(str.isdigit, runtime.identity)),
        f"the identity {runtime.identity!r} is not the name and a version",
    )
    prefix = load_prefix(backbone)
    reference = RUNTIMES[REFERENCE].open(prefix, lambda: build_prefix_model(prefix))
    session = runtime.open(prefix, lambda: build_prefix_model(prefix))
    images = make_images(2 * BATCH_SIZE, prefix.image_size)
    expected = reference(images)
    _check_ownership(session, images)
    _check_rows(session, images, expected)
    _check_padding(padded(session), images)
    _check_threads(session, images)
    if runtime.write_graph is not None:
        packed = runtime.pack(prefix, lambda: build_prefix_model(prefix))
        require(
            np.array_equal(runtime.open_packed(packed)(images), session(images)),
            "what was packed for another process gives other rows",
        )
    _check_refusals(session, images)


def _check_rows(session: Session, images: Images, expected: npt.NDArray[np.float32]) -> None:
    for count in (BATCH_SIZE, 1, 3, len(images)):
        rows = session(images[:count])
        wanted = (count, *expected.shape[1:])
        require(
            rows.shape == wanted and rows.dtype == np.float32,
            f"{count} photos gave {rows.shape} {rows.dtype}; expected {wanted} float32",
        )
        error = relative_errors(rows, expected[:count]).max()
        require(
            bool(error <= TOLERANCE),
            f"{count} photos have a relative error of {error:.2g} against TensorFlow; accepted "
            f"is {TOLERANCE:g}",
        )


def _check_padding(session: Session, images: Images) -> None:
    whole = session(images[:BATCH_SIZE])
    for count in (1, BATCH_SIZE - 1):
        require(
            np.array_equal(session(images[:count]), whole[:count]),
            f"the rows of {count} photos depend on what else is in their batch of {BATCH_SIZE}",
        )


def _check_ownership(session: Session, images: Images) -> None:
    first, others = images[:BATCH_SIZE].copy(), images[BATCH_SIZE:]
    rows = session(first)
    kept = rows.copy()
    session(others)
    require(np.array_equal(rows, kept), "a later call changed the rows of an earlier one")
    require(np.array_equal(first, images[:BATCH_SIZE]), "the session changed the photos")
    turned = np.asfortranarray(first)
    require(
        np.array_equal(session(turned), kept),
        "the rows depend on how the photos lie in memory",
    )


def _check_threads(session: Session, images: Images) -> None:
    batches = [np.roll(images, turn, axis=0)[:BATCH_SIZE] for turn in range(_CALLERS * _TURNS)]
    alone = [session(batch) for batch in batches]
    with ThreadPoolExecutor(_CALLERS) as threads:
        together: Sequence[npt.NDArray[np.float32]] = list(threads.map(session, batches))
    changed = sum(not np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    require(
        not changed,
        f"{changed} of {len(batches)} batches gave other rows when {_CALLERS} threads called at "
        "once",
    )


def _check_refusals(session: Session, images: Images) -> None:
    wrong = {
        "smaller": images[:1, : images.shape[1] // 2],
        "of one channel": images[:1, ..., :1],
        "without the batch": images[0],
        "float": images[:1].astype(np.float32),
    }
    for what, photos in wrong.items():
        try:
            session(photos)
        except HeadstartError as error:
            require(
                str(photos.shape) in str(error),
                f"the refusal of photos {what} does not say their shape: {error}",
            )
        except Exception as error:
            raise AssertionError(f"photos {what} raise a {type(error).__name__}") from error
        else:
            require(False, f"photos {what} {photos.shape} are not refused")
