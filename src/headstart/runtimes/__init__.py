"""What computes a frozen prefix: one file each, one table.

TensorFlow is the reference; every other runtime must agree with it within `TOLERANCE`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.errors import HeadstartError, did_you_mean, require_package

if TYPE_CHECKING:
    import keras

# Largest relative error per photo (norm of the difference over norm of the reference), float32.
TOLERANCE = 1e-3

Session = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


class Computable(Protocol):
    """What a runtime needs to know of a prefix; `headstart.models.boundary.Prefix` has it."""

    @property
    def write_graph(self) -> Callable[[], bytes] | None:
        """Gives the ONNX graph without TensorFlow, or None."""


@dataclass(frozen=True)
class Runtime:
    """One way to compute a prefix.

    Attributes:
        name: As the user writes it.
        package: What must be installed.
        open: ``(prefix, build_model) → session``; a session maps ``(batch, size, size, 3)`` uint8
            photos to ``(batch, feature)`` float32. ``build_model`` gives the prefix as a Keras
            model, for runtimes that start from one.
    """

    name: str
    package: str
    open: Callable[[Any, Callable[[], keras.Model]], Session]

    @property
    def identity(self) -> str:
        """Name and version: part of the cache key, because numbers may change with either."""
        return f"{self.name} {importlib.metadata.version(self.package)}"


def _open_onnxruntime(prefix: Computable, build_model: Callable[[], keras.Model]) -> Session:
    from headstart.runtimes import onnx_runtime

    graph = prefix.write_graph() if prefix.write_graph else onnx_runtime.convert(build_model())
    return onnx_runtime.open_graph(graph)


def _open_tensorflow(prefix: Computable, build_model: Callable[[], keras.Model]) -> Session:
    from headstart.runtimes import tensorflow_runtime

    return tensorflow_runtime.open_model(build_model())


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime("onnxruntime", "onnxruntime", _open_onnxruntime),
    "tensorflow": Runtime("tensorflow", "tensorflow", _open_tensorflow),
}


def get_runtime(name: str) -> Runtime:
    """The runtime of a name, checked to be installed.

    Raises:
        HeadstartError: Unknown name.
        MissingPackageError: Its package is not installed.
    """
    if name not in RUNTIMES:
        raise HeadstartError(
            f"{name!r} is not a known runtime.{did_you_mean(name, RUNTIMES)} "
            f"Known: {', '.join(RUNTIMES)}."
        )
    require_package(RUNTIMES[name].package, purpose=f"the runtime {name}")
    return RUNTIMES[name]
