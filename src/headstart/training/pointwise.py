"""Pointwise convolutions trained as matrix products: the same numbers in less time on a CPU.

A 1 × 1 convolution is a matrix product over the channels. TensorFlow's gradient of a convolution
does not know that and copies patches first; the gradient of a product copies nothing. In networks
of inverted residuals nearly all multiplications are in such layers. docs/performance.md has the
figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from headstart.models.graph import list_sublayers

if TYPE_CHECKING:
    import keras


def list_pointwise(model: keras.Model) -> list[Any]:
    """The layers of a model, nested ones included, that are nothing but a matrix product."""
    import keras

    return [
        layer
        for layer in list_sublayers(model)
        # Not a subclass: what it computes is not known.
        if type(layer) is keras.layers.Conv2D
        and layer.kernel_size == layer.strides == (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    ]


@contextlib.contextmanager
def multiplying(model: keras.Model) -> Iterator[None]:
    """What is traced within the block computes pointwise convolutions as matrix products.

    The layers are left as they were found, so that the model that a user gets is unchanged.
    """
    layers = list_pointwise(model)
    for layer in layers:
        layer.convolution_op = _multiply
    try:
        yield
    finally:
        for layer in layers:
            del layer.convolution_op  # the method of the class is there again


def _multiply(inputs: Any, kernel: Any) -> Any:
    """``(batch, height, width, channel)`` times ``(1, 1, channel, filter)``."""
    import tensorflow as tf

    rows = tf.reshape(inputs, (-1, kernel.shape[2]))
    product = tf.matmul(rows, tf.reshape(kernel, kernel.shape[2:]))
    return tf.reshape(product, (-1, *inputs.shape[1:3], kernel.shape[3]))
