"""SavedModel: for TensorFlow Serving and `tf.saved_model.load`; takes files' bytes or pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.data.targets import SEPARATOR
from headstart.export.material import Floats, Material, Pixels
from headstart.export.orientation import read_orientation, turn_upright
from headstart.export.preparation import prepare_images
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION

if TYPE_CHECKING:
    import tensorflow as tf

# TensorFlow Serving looks for numbered versions in a model's folder.
VERSION = "1"


def write(material: Material, target: Path) -> None:
    """Write the folder ``target/1``."""
    import tensorflow as tf

    module = _make_module(material)
    signatures = {
        "serving_default": module.from_bytes,
        "images": module.from_images,
        "metadata": module.describe,
    }
    tf.saved_model.save(module, str(target / VERSION), signatures=signatures)


def _make_module(material: Material) -> Any:
    import tensorflow as tf

    size, model = material.bundle.image_size, material.model
    answer = _make_answer(material)
    text = tf.constant(material.dump_metadata())
    names = tf.constant(_list_names(material))

    def decode(data: tf.Tensor) -> tf.Tensor:
        image = tf.cond(
            tf.io.is_jpeg(data),
            # As Pillow decodes; by default TensorFlow takes a faster, rougher way.
            lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
        )
        image.set_shape((None, None, 3))
        square = prepare_images(tf.cast(image[None], tf.float32), size)[0]
        return turn_upright(square, read_orientation(data))

    def from_bytes(image_bytes: tf.Tensor) -> Any:
        squares = tf.map_fn(
            decode, image_bytes, fn_output_signature=tf.TensorSpec((size, size, 3), tf.float32)
        )
        return answer(model(squares, training=False))

    def from_images(images: tf.Tensor) -> Any:
        return answer(model(prepare_images(images, size), training=False))

    def describe() -> Any:
        return {"metadata": text, "class_names": names}

    module = tf.Module()
    # A Keras 3 model keeps its variables where TensorFlow does not look for them.
    module.held = [variable.value for variable in model.variables]
    photos = tf.TensorSpec([None, None, None, 3], tf.float32, "images")
    files = tf.TensorSpec([None], tf.string, "image_bytes")
    module.from_bytes = tf.function(from_bytes, input_signature=[files])
    module.from_images = tf.function(from_images, input_signature=[photos])
    module.describe = tf.function(describe, input_signature=[])
    return module


def _make_answer(material: Material) -> Any:
    """What the network gives → all that is said of a photo."""
    return _ANSWERS[material.bundle.task.name](material)


def _list_names(material: Material) -> list[bytes]:
    return [name.encode("utf-8", "replace") for name in material.bundle.class_names]


def _make_class_answer(material: Material) -> Any:
    import tensorflow as tf

    names = tf.constant(_list_names(material))
    threshold, sure_from = material.set_threshold, material.sure_from

    def answer(probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        best = tf.argmax(probabilities, 1)
        highest = tf.reduce_max(probabilities, 1)
        said = {
            "probabilities": probabilities,
            "label": tf.gather(names, best),
            "probability": highest,
        }
        if threshold is not None:
            is_best = tf.one_hot(best, len(material.bundle.class_names), True, False, dtype=tf.bool)
            scores = 1 - tf.cast(probabilities, tf.float64)
            said["set"] = tf.logical_or(scores <= threshold, is_best)
        if sure_from is not None:
            said["is_sure"] = highest >= sure_from
        return said

    return answer


def _make_labels_answer(material: Material) -> Any:
    import tensorflow as tf

    names = tf.constant(_list_names(material))
    thresholds = tf.constant(material.label_thresholds, tf.float64)

    def join(says: tf.Tensor) -> tf.Tensor:
        return tf.strings.reduce_join(tf.boolean_mask(names, says), separator=SEPARATOR)

    def answer(probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        says = tf.cast(probabilities, tf.float64) >= thresholds
        text = tf.map_fn(join, says, fn_output_signature=tf.TensorSpec((), tf.string))
        return {"probabilities": probabilities, "labels": says, "label": text}

    return answer


def _make_value_answer(material: Material) -> Any:
    width = material.half_width

    def answer(values: tf.Tensor) -> dict[str, tf.Tensor]:
        ends = {} if width is None else {"low": values - width, "high": values + width}
        return {"values": values, **ends}

    return answer


_ANSWERS = {
    CLASSIFICATION.name: _make_class_answer,
    MULTILABEL.name: _make_labels_answer,
    REGRESSION.name: _make_value_answer,
}


class Runner:
    """Answers by an exported SavedModel."""

    def __init__(self, target: Path) -> None:
        import tensorflow as tf

        self._loaded = tf.saved_model.load(str(target / VERSION))

    def run_squares(self, squares: Pixels) -> Floats:
        """``(photo, name)`` probabilities or numbers, of the network's squares."""
        import tensorflow as tf

        images = tf.constant(squares, tf.float32)
        return _take(self._loaded.signatures["images"](images=images))

    def run_files(self, contents: Sequence[bytes]) -> list[Floats | None]:
        """``(name,)`` of each file; None where the format cannot read it."""
        return [self._run_file(content) for content in contents]

    def _run_file(self, content: bytes) -> Floats | None:
        import tensorflow as tf

        try:
            found = self._loaded.signatures["serving_default"](image_bytes=tf.constant([content]))
        except tf.errors.OpError:
            return None
        return np.asarray(_take(found)[0])


def _take(found: Any) -> Floats:
    return np.asarray(found["probabilities" if "probabilities" in found else "values"])


EXAMPLE = """\
import json
import sys
import tensorflow as tf

told = json.load(open(sys.argv[0][:-3] + ".json"))
model = tf.saved_model.load(sys.argv[0][:-3] + "/1").signatures["serving_default"]
for path in sys.argv[1:]:
    row = model(image_bytes=tf.constant([open(path, "rb").read()]))["{output}"][0].numpy()
    {answer}
"""
