"""Multiply-adds of a layer, from its shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Shape = tuple[int | None, ...]


def count_multiply_adds(
    layer: Any, input_shapes: tuple[Shape, ...], output_shapes: tuple[Shape, ...]
) -> int:
    """Multiplications of inputs with weights, per photo.

    Exact for convolutions and Dense layers; for other layers an estimate: each matrix of weights is
    used once per position of the output. Sums, activations and normalisation are not counted, as
    in the published figures of networks.

    Args:
        layer: A built Keras layer.
        input_shapes: Shapes of its inputs, with the batch.
        output_shapes: Shapes of its outputs, with the batch.

    >>> import keras
    >>> conv = keras.layers.Conv2D(16, 3, padding="same")
    >>> conv.build((None, 32, 32, 3))
    >>> count_multiply_adds(conv, ((None, 32, 32, 3),), ((None, 32, 32, 16),))
    442368
    """
    if not getattr(layer, "weights", None):
        return 0
    count = _COUNTERS.get(type(layer).__name__, _count_roughly)
    return count(layer, input_shapes[0], output_shapes[0])


def _positions(shape: Shape) -> int:
    return math.prod(size or 1 for size in shape[1:-1])


def _size(variable: Any) -> int:
    return math.prod(variable.shape)


def _count_kernel(layer: Any, _input: Shape, output: Shape) -> int:
    return _positions(_channels_last(layer, output)) * _size(layer.kernel)


def _count_transposed(layer: Any, inputs: Shape, _output: Shape) -> int:
    return _positions(_channels_last(layer, inputs)) * _size(layer.kernel)


def _count_separable(layer: Any, _input: Shape, output: Shape) -> int:
    sizes = _size(layer.depthwise_kernel) + _size(layer.pointwise_kernel)
    return _positions(_channels_last(layer, output)) * sizes


def _count_nothing(_layer: Any, _input: Shape, _output: Shape) -> int:
    return 0


def _count_roughly(layer: Any, _input: Shape, output: Shape) -> int:
    # Positions of a sequence or a map that stays within the layer; vectors (scales) do not count.
    matrices = sum(_size(weight) for weight in layer.weights if len(weight.shape) >= 2)
    return _positions(output) * matrices


def _channels_last(layer: Any, shape: Shape) -> Shape:
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return (shape[0], *shape[2:], shape[1])
    return shape


_COUNTERS: dict[str, Callable[[Any, Shape, Shape], int]] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "Dense"), _count_kernel),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _count_kernel),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _count_separable),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _count_transposed),
    **dict.fromkeys(("BatchNormalization", "LayerNormalization", "Normalization"), _count_nothing),
    **dict.fromkeys(("GroupNormalization", "Embedding"), _count_nothing),
}
