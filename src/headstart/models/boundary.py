"""The freeze boundary: what lies before it is a pure function of the photo and computed once.

With everything frozen the deepest boundary is the pooled feature vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt

POOLED = "pooled"


@dataclass(frozen=True)
class Prefix:
    """The frozen part of a network, ready to be opened by a runtime.

    Attributes:
        backbone: Name of the backbone.
        weights_digest: sha256 that changes with the weights.
        boundary: Where it ends; `POOLED` for the globally pooled features.
        image_size: Side of its square input in pixels.
        shape: Shape of one activation, without the batch.
        write_graph: Gives the ONNX graph without TensorFlow, where that is known how; else None.
        build_model: Gives the backbone as a Keras model (before pooling).
        load_weights: The backbone's arrays by ``layer/variable`` without TensorFlow; else None.
    """

    backbone: str
    weights_digest: str
    boundary: str
    image_size: int
    shape: tuple[int, ...]
    write_graph: Callable[[], bytes] | None
    build_model: Callable[[], keras.Model]
    load_weights: Callable[[], dict[str, npt.NDArray[np.float32]]] | None


def build_prefix_model(prefix: Prefix) -> keras.Model:
    """The prefix as a Keras model in inference mode: photos → pooled features."""
    import keras

    backbone = prefix.build_model()
    photos = keras.Input(backbone.input_shape[1:], name="photos")
    return keras.Model(photos, pool(backbone(photos, training=False)), name="prefix")


def pool(x: Any) -> Any:
    """Global average pooling of a feature map; a vector stays as it is."""
    from keras import layers

    return layers.GlobalAveragePooling2D(name="pooling")(x) if len(x.shape) == 4 else x
