"""TensorFlow, the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError
from headstart.runtimes import shorten

if TYPE_CHECKING:
    import keras

    from headstart.runtimes import Session


def open_model(model: keras.Model) -> Session:
    """A session that runs a Keras model from photos to features in inference mode.

    The session raises `BackboneError` where it cannot compute.
    """
    import tensorflow as tf

    def forward(photos: Any) -> Any:
        return model(tf.cast(photos, tf.float32), training=False)

    specification = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)
    function = tf.function(forward, input_signature=[specification])

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            return np.asarray(function(images), np.float32)
        except Exception as error:  # TensorFlow's, Keras's, or those of the model's own layers
            raise BackboneError(
                f"TensorFlow cannot compute photos {images.shape}: {shorten(error)}"
            ) from error

    return run
