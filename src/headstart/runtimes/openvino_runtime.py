"""OpenVINO on the CPU, from the same ONNX graph as onnxruntime."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError, require_package
from headstart.runtimes import shorten
from headstart.runtimes.pool import Compute, EnginePool

if TYPE_CHECKING:
    from headstart.runtimes import Session

# Held while a network is compiled and computes for the first time.
_ALONE = threading.Lock()


def open_graph(graph: bytes) -> Session:
    """A session on an ONNX graph with one uint8 input.

    Raises:
        BackboneError: OpenVINO refuses the graph. The session raises it where it cannot compute.
    """
    require_package("openvino", purpose="the runtime openvino")
    with _without_usage_reports():
        import openvino
    core = openvino.Core()

    @functools.cache
    def compile_for(batch: int) -> Any:
        try:
            model = core.read_model(io.BytesIO(graph))
            model.reshape([batch, *list(model.input().partial_shape)[1:]])
            compiled = core.compile_model(model, "CPU", _settings())
            # OpenVINO's binding deadlocks when two threads are the first to ask for the type of a
            # tensor (Type.to_dtype in 2026.4.1), so the first inference is made alone.
            _infer(compiled.create_infer_request(), np.zeros(model.input().shape, np.uint8))
            return compiled
        except Exception as error:  # RuntimeErrors of many lines; the last is the cause
            raise BackboneError(f"OpenVINO refuses the graph: {shorten(error, -1)}") from error

    def make(batch: int) -> Compute:
        with _ALONE:  # one network for all callers: they share its weights
            request = compile_for(batch).create_infer_request()

        def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            try:
                return _infer(request, images)
            except Exception as error:  # as above
                raise BackboneError(
                    f"OpenVINO cannot compute photos {images.shape}: {shorten(error, -1)}"
                ) from error

        return run

    return EnginePool(make)


def _infer(request: Any, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    # The photos are read where they lie; the rows are copied, because the request writes again.
    found = request.infer([np.ascontiguousarray(images)], share_inputs=True, share_outputs=False)
    rows: npt.NDArray[np.float32] = found[0]
    return rows


def _settings() -> dict[str, Any]:
    cores = os.cpu_count() or 1
    return {
        # Else bfloat16 on processors that have it, which is beyond the tolerance.
        "INFERENCE_PRECISION_HINT": "f32",
        # The callers run one batch per core, see headstart.data.stream: one stream per core, each
        # of one thread, which also makes the numbers independent of the number of cores.
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
        # The same cores also decode; a pinned thread would wait for its core while others are idle.
        "ENABLE_CPU_PINNING": False,
    }


@contextlib.contextmanager
def _without_usage_reports() -> Iterator[None]:
    """OpenVINO's import reports itself to its makers, unless this package cannot be found."""
    name = "openvino_telemetry"
    if name in sys.modules or "openvino" in sys.modules:  # the user's own import was first
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
