"""What computes a frozen prefix: one file each, one table.

TensorFlow is the reference; every other runtime must agree with it within `TOLERANCE`. The row of a
runtime is held to that by `headstart.testing.check_runtime`.
"""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.errors import (
    HeadstartError,
    RuntimeMismatchError,
    did_you_mean,
    require_package,
)

if TYPE_CHECKING:
    import keras

# Largest relative error per photo (norm of the difference over norm of the reference), float32.
TOLERANCE = 1e-3

# Not a row of the table: the fastest row that agrees, see `headstart.features.choice`.
AUTO, DEFAULT_RUNTIME, REFERENCE = "auto", "onnxruntime", "tensorflow"

# Called from several threads at once; each call computes on one thread where the library allows.
Session = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


class Computable(Protocol):
    """What a runtime needs to know of a prefix; `headstart.models.boundary.Prefix` has it."""

    @property
    def weights_digest(self) -> str:
        """sha256 that changes with the weights."""

    @property
    def boundary(self) -> str:
        """Where the prefix ends."""

    @property
    def image_size(self) -> int:
        """Side of its square input in pixels."""

    @property
    def write_graph(self) -> Callable[[], bytes] | None:
        """Gives the ONNX graph without TensorFlow, or None."""


@dataclass(frozen=True)
class Runtime:
    """One way to compute a prefix.

    Attributes:
        name: As the user writes it.
        packages: What must be installed; the first is the runtime itself.
        open_session: ``(prefix, build_model) → session``; see `open`.
        write_graph: ``(prefix, build_model) → graph``, of the runtime's own kind; see `pack`.
        open_graph: ``graph → session``.
        uses_gpus: Whether it computes on a GPU where there is one; the others compute on CPUs.
    """

    name: str
    packages: tuple[str, ...]
    open_session: Callable[[Any, Callable[[], keras.Model]], Session]
    write_graph: Callable[[Any, Callable[[], keras.Model]], bytes] | None = None
    open_graph: Callable[[bytes], Session] | None = None
    uses_gpus: bool = False

    @property
    def identity(self) -> str:
        """Names and versions: part of the cache key, because numbers may change with either."""
        others = (f", {name} {get_version(name)}" for name in self.packages[1:])
        return f"{self.name} {get_version(self.packages[0])}{''.join(others)}"

    def require(self) -> None:
        """Raise `MissingPackageError` unless it is installed; nothing is imported."""
        require_package(*self.packages, purpose=f"the runtime {self.name}")

    def open(self, prefix: Computable, build_model: Callable[[], keras.Model]) -> Session:
        """A session on a prefix.

        Args:
            prefix: The frozen part of a network.
            build_model: Gives the prefix as a Keras model, for runtimes that start from one.

        Returns:
            A function from ``(batch, size, size, 3)`` uint8 photos to ``(batch, feature)`` float32;
            it raises `HeadstartError` for photos of another form.
        """
        return self._checked(self.open_session(prefix, build_model), prefix.image_size)

    def pack(self, prefix: Computable, build_model: Callable[[], keras.Model]) -> PackedPrefix:
        """A prefix as data, to be opened in another process or on another machine.

        Args:
            prefix: As in `open`.
            build_model: Likewise.

        Raises:
            HeadstartError: The runtime has no graphs of its own.
        """
        if self.write_graph is None or self.open_graph is None:
            raise HeadstartError(
                f"The runtime {self.name} cannot send a network to other processes; choose "
                f"another, such as {DEFAULT_RUNTIME}."
            )
        graph = self.write_graph(prefix, build_model)
        return PackedPrefix(self.name, self.identity, prefix.image_size, graph)

    def open_packed(self, packed: PackedPrefix) -> Session:
        """A session on what `pack` gave; see `open`.

        Raises:
            RuntimeMismatchError: The runtime is of another version here: other numbers.
        """
        if packed.identity != self.identity or self.open_graph is None:
            raise RuntimeMismatchError(
                f"{socket.gethostname()} has the runtime {self.identity}; the run was begun with "
                f"{packed.identity}, whose numbers may differ. Install the same on all machines."
            )
        return self._checked(self.open_graph(packed.graph), packed.image_size)

    def _checked(self, session: Session, image_size: int) -> Session:
        """A session that refuses photos of another form."""
        wanted = (image_size, image_size, 3)

        def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            if images.shape[1:] != wanted or images.dtype != np.uint8:
                raise HeadstartError(
                    f"The runtime {self.name} was given photos {images.shape} {images.dtype}; "
                    f"this network computes (batch, {', '.join(map(str, wanted))}) uint8."
                )
            return session(images)

        return run


@dataclass(frozen=True)
class PackedPrefix:
    """A frozen prefix as data for one runtime.

    Attributes:
        runtime: Its name.
        identity: With its version.
        image_size: Side of the square photos in pixels.
        graph: Of the runtime's own kind.
    """

    runtime: str
    identity: str
    image_size: int
    graph: bytes = field(repr=False)

    def open(self) -> Session:
        """A session, on any machine with the same version of the runtime.

        Raises:
            MissingPackageError, RuntimeMismatchError: The runtime is not there, or another one.
        """
        return get_runtime(self.runtime).open_packed(self)


def get_version(package: str) -> str:
    """The version of an installed package, by the name under which it is imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # it has another name there: tensorflow-cpu
        names = importlib.metadata.packages_distributions().get(package, [])
        return importlib.metadata.version(names[0]) if names else "of an unknown version"


def shorten(error: Exception, line: int = 0) -> str:
    r"""One line of a library's message: the others are for its own developers.

    >>> shorten(ValueError("no such operator\nat model.cc:7"))
    'no such operator'
    """
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return lines[line] if lines else type(error).__name__


def _write_onnx(prefix: Computable, build_model: Callable[[], keras.Model]) -> bytes:
    from headstart.runtimes import onnx_runtime

    return onnx_runtime.get_graph(prefix, build_model)


def _open_onnxruntime(graph: bytes) -> Session:
    from headstart.runtimes import onnx_runtime

    return onnx_runtime.open_graph(graph)


def _open_openvino(graph: bytes) -> Session:
    from headstart.runtimes import openvino_runtime

    return openvino_runtime.open_graph(graph)


def _write_litert(prefix: Computable, build_model: Callable[[], keras.Model]) -> bytes:
    from headstart.runtimes import litert_runtime

    return litert_runtime.get_graph(prefix, build_model)


def _open_litert(graph: bytes) -> Session:
    from headstart.runtimes import litert_runtime

    return litert_runtime.open_graph(graph)


def _open_tensorflow(prefix: Computable, build_model: Callable[[], keras.Model]) -> Session:
    from headstart.runtimes import tensorflow_runtime

    return tensorflow_runtime.open_model(build_model())


def _write_saved_model(prefix: Computable, build_model: Callable[[], keras.Model]) -> bytes:
    from headstart.runtimes import tensorflow_runtime

    return tensorflow_runtime.convert(build_model())


def _open_saved_model(graph: bytes) -> Session:
    from headstart.runtimes import tensorflow_runtime

    return tensorflow_runtime.open_graph(graph)


def _make_row(
    name: str,
    packages: tuple[str, ...],
    write_graph: Callable[[Any, Callable[[], keras.Model]], bytes],
    open_graph: Callable[[bytes], Session],
) -> Runtime:
    """A runtime whose only way to a session is by a graph."""

    def open_session(prefix: Any, build_model: Callable[[], keras.Model]) -> Session:
        return open_graph(write_graph(prefix, build_model))

    return Runtime(name, packages, open_session, write_graph, open_graph)


# In the order of preference between equals.
RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        _make_row("onnxruntime", ("onnxruntime",), _write_onnx, _open_onnxruntime),
        _make_row("openvino", ("openvino",), _write_onnx, _open_openvino),
        # Its graphs are written by TensorFlow's converter, whose version shows in the numbers.
        _make_row("litert", ("ai_edge_litert", "tensorflow"), _write_litert, _open_litert),
        # Here it computes the model as it is; only what is sent elsewhere becomes a SavedModel.
        Runtime(
            *("tensorflow", ("tensorflow",), _open_tensorflow),
            *(_write_saved_model, _open_saved_model),
            uses_gpus=True,
        ),
    )
}


def get_runtime(name: str) -> Runtime:
    """The runtime of a name, checked to be installed.

    Raises:
        HeadstartError: Unknown name.
        MissingPackageError: Its package is not installed.
    """
    check_runtime_name(name, (*RUNTIMES,))
    RUNTIMES[name].require()
    return RUNTIMES[name]


def require_runtime(name: str) -> None:
    """Raise what `get_runtime` raises, but let ``"auto"`` pass: before any time is spent."""
    check_runtime_name(name, (AUTO, *RUNTIMES))
    if name != AUTO:
        RUNTIMES[name].require()


def check_runtime_name(name: str, known: tuple[str, ...]) -> None:
    """Raise `HeadstartError` with the nearest known names unless a name is known."""
    if name not in known:
        raise HeadstartError(
            f"{name!r} is not a known runtime.{did_you_mean(name, known)} "
            f"Known: {', '.join(known)}."
        )
