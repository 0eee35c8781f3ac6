"""Every row of the table keeps the contract, and the check rejects broken twins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_runtimes import small_model

from headstart.data.stream import BATCH_SIZE
from headstart.errors import MissingPackageError
from headstart.runtimes import RUNTIMES, Runtime, Session
from headstart.testing import check_runtime

MODELS: dict[str, Callable[[], Any]] = {
    "map": small_model,
    "vector": lambda: small_model(is_map=False),
    "efficientnet-lite0": lambda: "efficientnet-lite0",
}


@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_a_row_keeps_the_contract(name: str, model: str) -> None:
    check_runtime(RUNTIMES[name], MODELS[model]())


def make_twin(change: Callable[[Session], Session], **fields: Any) -> Runtime:
    """onnxruntime with a session that was tampered with."""
    sound = RUNTIMES["onnxruntime"]
    return replace(sound, open_session=lambda *parts: change(sound.open_session(*parts)), **fields)


def off_by_a_hundredth(session: Session) -> Session:
    return lambda images: session(images) * np.float32(1.01)


def in_double_precision(session: Session) -> Session:
    return lambda images: session(images).astype(np.float64)  # type: ignore[return-value]


def normed_by_the_batch(session: Session) -> Session:
    # As BatchNormalization in training mode does, only weaker than the tolerance.
    def run(images: Any) -> Any:
        rows = session(images)
        return rows * (1 + np.float32(1e-5) * np.float32(images.mean() / 255))

    return run


def of_a_fixed_batch(session: Session) -> Session:
    # Computes the padding as well, and gives its rows away.
    def run(images: Any) -> Any:
        blank = np.zeros((max(BATCH_SIZE - len(images), 0), *images.shape[1:]), np.uint8)
        return session(np.concatenate([images, blank]))

    return run


def with_one_buffer(session: Session) -> Session:
    # A view of the buffer that the next call writes to.
    buffer = np.empty((64, 8), np.float32)

    def run(images: Any) -> Any:
        rows = session(images)
        buffer[: len(rows)] = rows
        return buffer[: len(rows)]

    return run


def with_shared_input(session: Session) -> Session:
    # Set the input, then run: what an interpreter does, without a lock around both.
    slot: dict[str, Any] = {}

    def run(images: Any) -> Any:
        slot["input"] = images
        time.sleep(0.01)
        return session(slot["input"])

    return run


def that_scribbles(session: Session) -> Session:
    def run(images: Any) -> Any:
        rows = session(images)
        images[:] = 0
        return rows

    return run


def blind_to_strides(session: Session) -> Session:
    def run(images: Any) -> Any:
        return session(np.frombuffer(images.tobytes("A"), np.uint8).reshape(images.shape))

    return run


TWINS = {
    off_by_a_hundredth: "relative error of 0.01 against TensorFlow; accepted is 0.001",
    in_double_precision: r"2 photos gave \(2, 8\) float64; expected \(2, 8\) float32",
    normed_by_the_batch: "depend on what else is in their batch of 2",
    of_a_fixed_batch: r"1 photos gave \(2, 8\) float32; expected \(1, 8\) float32",
    with_one_buffer: "a later call changed the rows of an earlier one",
    with_shared_input: "gave other rows when 4 threads called at once",
    that_scribbles: "the session changed the photos",
    blind_to_strides: "depend on how the photos lie in memory",
}


@pytest.mark.parametrize("change", TWINS, ids=lambda change: change.__name__)
def test_a_broken_twin_is_rejected(change: Callable[[Session], Session]) -> None:
    with pytest.raises(AssertionError, match=TWINS[change]):
        check_runtime(make_twin(change), small_model())


def test_the_twins_are_broken_only_by_their_change() -> None:
    check_runtime(make_twin(lambda session: session), small_model())


class Blunt(Runtime):
    """A runtime whose sessions refuse photos in the words of the library."""

    def open(self, prefix: Any, build_model: Any) -> Session:
        session = self.open_session(prefix, build_model)

        def run(images: Any) -> Any:
            if images.shape[1:] != (32, 32, 3) or images.dtype != np.uint8:
                raise ValueError("tensor mismatch")
            return session(images)

        return run


class Lenient(Runtime):
    """A runtime whose sessions make something of whatever they are given."""

    def open(self, prefix: Any, build_model: Any) -> Session:
        session = self.open_session(prefix, build_model)

        def run(images: Any) -> Any:
            if images.shape[1:] != (32, 32, 3) or images.dtype != np.uint8:
                return np.zeros((1, 8), np.float32)
            return session(images)

        return run


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Blunt, "photos smaller raise a ValueError"),
        (Lenient, r"photos smaller \(1, 16, 32, 3\) are not refused"),
    ],
)
def test_a_twin_that_refuses_badly_is_rejected(kind: type[Runtime], sentence: str) -> None:
    sound = RUNTIMES["onnxruntime"]
    twin = kind(sound.name, sound.packages, sound.open_session)
    with pytest.raises(AssertionError, match=sentence):
        check_runtime(twin, small_model())


def test_a_twin_without_a_version_is_rejected() -> None:
    class Nameless(Runtime):
        @property
        def identity(self) -> str:
            return "fast"

    sound = RUNTIMES["onnxruntime"]
    with pytest.raises(AssertionError, match="identity 'fast' is not the name and a version"):
        check_runtime(Nameless(sound.name, sound.packages, sound.open_session), small_model())


def test_a_runtime_that_is_not_installed_says_so() -> None:
    twin = make_twin(lambda session: session, name="quick", packages=("quick_inference",))
    with pytest.raises(MissingPackageError, match="the runtime quick needs the package quick_inf"):
        check_runtime(twin, small_model())
