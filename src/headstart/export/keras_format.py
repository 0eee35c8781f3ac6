"""``.keras``: opens in plain Keras; takes pixels of any size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.data.thumbnails import read_upright
from headstart.errors import ExportError
from headstart.export.material import Floats, Material, Pixels
from headstart.export.preparation import prepare_images

if TYPE_CHECKING:
    import keras

# The layer that takes the network's squares.
INNER = "classifier"


def write(material: Material, target: Path) -> None:
    """Write the model with the resize before it, as ops of Keras.

    Raises:
        ExportError: It has layers that are not Keras's.
    """
    import keras

    size, inner = material.bundle.image_size, material.model
    foreign = sorted({type(each).__name__ for each in _list_layers(inner) if not _is_kerass(each)})
    if foreign:
        raise ExportError(
            f"Plain Keras could not open the file: {', '.join(foreign)} is no layer of Keras. "
            "Export as savedmodel or onnx."
        )
    photos = keras.Input((None, None, 3), name="images")
    copy = keras.models.clone_model(inner)
    copy.set_weights(inner.get_weights())
    copy.name = INNER
    keras.Model(photos, copy(prepare_images(photos, size)), name="headstart").save(target)


def _list_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(model._flatten_layers(include_self=False))


def _is_kerass(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.partition(".")[0] == "keras"


class Runner:
    """Answers by an exported ``.keras`` file."""

    def __init__(self, target: Path) -> None:
        import keras
        import tensorflow as tf

        model = keras.saving.load_model(target)  # its safe mode is on
        size = model.get_layer(INNER).input_shape[1]
        # One graph for photos of all sizes: call by call Keras would be ten times as slow.
        whole = tf.TensorSpec((None, None, None, 3), tf.float32)
        square = tf.TensorSpec((None, size, size, 3), tf.float32)
        self._run = tf.function(lambda x: model(x, training=False), [whole])
        inner = model.get_layer(INNER)
        self._run_inner = tf.function(lambda x: inner(x, training=False), [square])

    def run_squares(self, squares: Pixels) -> Floats:
        """``(photo, name)`` probabilities or numbers, of the network's squares."""
        return np.asarray(self._run_inner(squares.astype(np.float32)))

    def run_files(self, contents: list[bytes]) -> list[Floats | None]:
        """``(name,)`` of each file, decoded by Pillow as the example does."""
        images = (read_upright(content)[None].astype(np.float32) for content in contents)
        return [np.asarray(self._run(image))[0] for image in images]


EXAMPLE = """\
import json
import sys
import keras
import numpy as np
from PIL import Image, ImageOps

model = keras.saving.load_model(sys.argv[0][:-3])
told = json.load(open(sys.argv[0][:-3] + ".json"))
for path in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    row = model.predict(np.asarray(image, np.float32)[None], verbose=0)[0]
    {answer}
"""
