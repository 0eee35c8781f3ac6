"""keras.applications → backbones with preprocessing, without top, as flat functional models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import BackboneError
from headstart.models.keras_catalogue import ROWS, Row
from headstart.models.keras_graph import finish_loading, rebuild, seeded
from headstart.models.keras_weights import fetch_weights
from headstart.models.preprocessing import PREPROCESSING, preprocess
from headstart.models.weights_files import load_weights_file

if TYPE_CHECKING:
    import keras

# EfficientNet carries its pixels' mean and deviation as weights. Its files hold the deviation where
# a variance belongs; Keras makes up for it with a second Rescaling, but only when it downloads the
# weights itself (https://github.com/tensorflow/tensorflow/issues/49930).
_MEAN, _VARIANCE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_application(name: str, weights: str | Path | None, image_size: int | None) -> keras.Model:
    """A network of keras.applications.

    Args:
        name: A key of `ROWS`.
        weights: ``"imagenet"``, a weights file, or None for random ones (the same every time).
        image_size: Side of the photos in pixels; the network's own by default.

    Returns:
        A flat functional model ``(batch, size, size, 3)`` → ``(batch, height, width, channel)``:
        preprocessing first, then the layers as Keras builds them.

    Raises:
        BackboneError: Photos too small, no such file, or weights that do not fit.
    """
    row = ROWS[name]
    size = row.image_size if image_size is None else image_size
    if weights == "imagenet":
        path: Path | None = fetch_weights(f"keras:{name}", row, size)
    else:
        path = None if weights is None else Path(weights)
    model = build_application(name, row, size)
    if path is not None:
        load_weights_file(model, path)
    if _has_statistics(model):
        _check_statistics(model, path)
    finish_loading(model)
    return model


def build_application(name: str, row: Row, size: int) -> keras.Model:
    """The network with random weights, which are the same every time."""
    import keras

    photos = keras.Input((size, size, 3), name="photos")
    has_own = row.family.is_self_contained
    x = photos if has_own else preprocess(photos, PREPROCESSING[row.family.preprocessing])
    builder = getattr(keras.applications, row.builder)
    with seeded():
        built = builder(
            include_top=False, weights=None, input_tensor=x, input_shape=(size, size, 3)
        )
        plain = keras.Model(photos, built.output)
        model = rebuild(plain, name, _add_second_rescaling if _has_statistics(plain) else None)
    if _has_statistics(model):
        normalization = model.get_layer("normalization")
        normalization.adapt_mean.assign(_MEAN)
        normalization.adapt_variance.assign(_VARIANCE)
    return model


def _has_statistics(model: keras.Model) -> bool:
    """Whether the network keeps its pixels' statistics as weights, as EfficientNet does."""
    return any(type(layer).__name__ == "Normalization" and layer.weights for layer in model.layers)


def _add_second_rescaling(layer: Any, output: Any) -> Any:
    from keras import layers

    if type(layer).__name__ != "Normalization":
        return output
    scale = [1 / math.sqrt(deviation) for deviation in _VARIANCE]
    return layers.Rescaling(scale, name="rescaling_1")(output)


def _check_statistics(model: keras.Model, path: Path | None) -> None:
    layer = model.get_layer("normalization")
    found = np.asarray(layer.adapt_mean), np.asarray(layer.adapt_variance)
    if not np.allclose(found, (_MEAN, _VARIANCE), atol=1e-3):
        raise BackboneError(
            f"{path} was trained with other preprocessing: its pixels' mean is {found[0]} and "
            f"variance {found[1]}, where ImageNet's files have {_MEAN} and {_VARIANCE}. Save that "
            "model whole, as a .keras file, and load it with local:FILE."
        )
