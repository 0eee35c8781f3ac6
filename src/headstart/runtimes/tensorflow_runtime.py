"""TensorFlow, the reference."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError
from headstart.runtimes import shorten

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from headstart.runtimes import Session


def open_model(model: keras.Model) -> Session:
    """A session that runs a Keras model from photos to features in inference mode.

    The session raises `BackboneError` where it cannot compute.
    """
    return _make_session(_make_function(model))


def convert(model: keras.Model) -> bytes:
    """The same as data: a SavedModel with its variables, as the bytes of a zip archive.

    Raises:
        BackboneError: TensorFlow cannot save the model.
    """
    import tensorflow as tf

    # A Keras 3 model does not keep its variables where TensorFlow looks for them.
    module = tf.Module()
    module.forward, module.held = (
        _make_function(model),
        [variable.value for variable in model.variables],
    )
    return pack_module(module, model.name, "Choose another runtime, such as onnxruntime.")


def open_graph(graph: bytes) -> Session:
    """A session on what `convert` gave; as `open_model`."""
    module = open_module(graph)

    def run(photos: Any) -> Any:
        return module.forward(photos)  # not the function alone: the module holds its variables

    return _make_session(run)


def pack_module(module: tf.Module, name: str, advice: str) -> bytes:
    """A module of TensorFlow as the bytes of a zip archive of a SavedModel.

    Args:
        module: With its functions, and the variables of these.
        name: Of what is saved, for messages.
        advice: What to do where that fails.

    Raises:
        BackboneError: TensorFlow cannot save it.
    """
    import tensorflow as tf

    stream = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="headstart-") as path:
        folder = Path(path)
        try:
            tf.saved_model.save(module, path)
        except Exception as error:  # TensorFlow's errors share no base but Exception
            raise BackboneError(
                f"{name} cannot be saved by TensorFlow: {shorten(error)}. {advice}"
            ) from error
        with zipfile.ZipFile(stream, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    return stream.getvalue()


def open_module(packed: bytes) -> Any:
    """What `pack_module` was given: its functions and lists of variables."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(folder)
        return tf.saved_model.load(folder)


def _make_function(model: keras.Model) -> Any:
    import tensorflow as tf

    def forward(photos: Any) -> Any:
        return model(tf.cast(photos, tf.float32), training=False)

    specification = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)
    return tf.function(forward, input_signature=[specification])


def _make_session(function: Callable[[Any], Any]) -> Session:
    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            return np.asarray(function(images), np.float32)
        except Exception as error:  # TensorFlow's, Keras's, or those of the model's own layers
            raise BackboneError(
                f"TensorFlow cannot compute photos {images.shape}: {shorten(error)}"
            ) from error

    return run
