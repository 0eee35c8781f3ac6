"""LiteRT (once TensorFlow Lite) with its XNNPACK kernels: Keras model → TFLite graph → session."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError, require_package
from headstart.runtimes import shorten
from headstart.runtimes.graphs import get_converted
from headstart.runtimes.pool import Compute, EnginePool

if TYPE_CHECKING:
    import keras

    from headstart.runtimes import Computable, Session


def get_graph(prefix: Computable, build_model: Callable[[], keras.Model]) -> bytes:
    """The TFLite graph of a prefix, from the cache or converted now."""
    packages = ("tensorflow", "keras")
    return get_converted(prefix, ".tflite", packages, lambda: convert(build_model()))


def convert(model: keras.Model) -> bytes:
    """The float32 TFLite graph of a Keras model from uint8 photos to features.

    Raises:
        MissingPackageError: TensorFlow is missing.
        BackboneError: The model has operators that LiteRT does not have.
    """
    require_package("tensorflow", purpose="converting a Keras model to LiteRT")
    import tensorflow as tf

    specification = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name="photos")

    def forward(photos: Any) -> dict[str, Any]:
        return {"features": model(tf.cast(photos, tf.float32), training=False)}

    function = tf.function(forward, input_signature=[specification])
    # The converter looks for the variables where TensorFlow keeps them. A Keras 3 model keeps its
    # own elsewhere: given the model itself, it writes a graph without weights.
    module = tf.Module()
    module.function, module.held = function, [variable.value for variable in model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], module
    )
    try:
        return bytes(converter.convert())
    except Exception as error:  # the converter's errors share no base but Exception
        raise BackboneError(
            f"{model.name} cannot be converted to LiteRT: {shorten(error)}. Choose another "
            "runtime, such as onnxruntime."
        ) from error


def open_graph(graph: bytes) -> Session:
    """A session on a TFLite graph with one uint8 input.

    Raises:
        BackboneError: LiteRT refuses the graph. The session raises it where it cannot compute.
    """
    require_package("ai_edge_litert", purpose="the runtime litert")
    from ai_edge_litert.interpreter import Interpreter

    def make(batch: int) -> Compute:
        try:
            # The callers run one batch per core; see headstart.data.stream.
            interpreter = Interpreter(model_content=graph, num_threads=1)
            [photos], [features] = interpreter.get_input_details(), interpreter.get_output_details()
            interpreter.resize_tensor_input(photos["index"], (batch, *photos["shape"][1:]))
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise BackboneError(f"LiteRT refuses the graph: {shorten(error)}") from error

        def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            try:
                interpreter.set_tensor(photos["index"], images)
                interpreter.invoke()
            except (RuntimeError, ValueError) as error:
                raise BackboneError(
                    f"LiteRT cannot compute photos {images.shape}: {shorten(error)}"
                ) from error
            rows: npt.NDArray[np.float32] = interpreter.get_tensor(features["index"])  # a copy
            return rows

        return run

    return EnginePool(make)
