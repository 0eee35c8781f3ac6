"""Heads: what turns pooled features into probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headstart.models.boundary import pool

if TYPE_CHECKING:
    import keras
    import numpy as np
    import numpy.typing as npt


def attach_head(
    backbone: keras.Model,
    num_classes: int,
    *,
    kernel: npt.NDArray[np.float32] | None = None,
    bias: npt.NDArray[np.float32] | None = None,
) -> keras.Model:
    """A classifier on a frozen backbone: pooling, then Dense with softmax.

    The backbone is frozen (``trainable = False``): neither its weights nor the statistics of its
    BatchNormalization change, which normalises as in inference also while the head is fitted.
    Dropout inside a backbone stays active in ``fit``, as Keras has it; the built-in ones have none.
    Compile and fit the result as any Keras model.

    Args:
        backbone: A model from photos to a feature map or vector, such as `load_backbone` gives.
        num_classes: Number of classes, 2 or more.
        kernel: ``(feature, class)`` start of the Dense layer; random by default.
        bias: ``(class,)`` start of the Dense layer; zero by default.

    Returns:
        A model from ``(batch, size, size, 3)`` photos to ``(batch, num_classes)`` probabilities.

    Raises:
        ValueError: Fewer than two classes.

    >>> from headstart import load_backbone
    >>> model = attach_head(load_backbone(weights=None, image_size=64), num_classes=5)
    >>> model.output_shape, len(model.trainable_variables)
    ((None, 5), 2)
    """
    import keras

    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2.")
    backbone.trainable = False
    photos = keras.Input(backbone.input_shape[1:], name="photos")
    features = pool(backbone(photos, training=False))
    head = keras.layers.Dense(num_classes, activation="softmax", name="head")
    model = keras.Model(photos, head(features), name=f"{backbone.name}_classifier")
    if kernel is not None:
        head.kernel.assign(kernel)
    if bias is not None:
        head.bias.assign(bias)
    return model
