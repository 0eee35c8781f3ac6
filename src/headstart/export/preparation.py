"""Photo of any size → the network's square, within a graph: Pillow's resize as matrix products.

What the product's decoder does to pixels (`headstart.data.decode.square_image`), in ops of Keras:
the central square, Pillow's Hamming filter where it gets smaller and its bicubic filter where it
gets larger. A resize is linear along each axis, so that it is a matrix of filter weights; these are
computed in the graph, from the photo's size. What differs is rounding between the two passes, and
that Pillow shrinks very large photos by whole numbers first.
"""

from __future__ import annotations

import math
from typing import Any

from headstart.data.decode import KEPT_SHARE


def prepare_images(images: Any, size: int) -> Any:
    """``(batch, size, size, 3)`` float32 whole numbers from 0 to 255.

    Args:
        images: ``(batch, height, width, 3)`` float32 pixels from 0 to 255; tensors of TensorFlow
            or of a Keras model that is being built.
        size: The network's side in pixels.
    """
    from keras import ops

    # A model that is being built does not know height and width: they are counted in its graph.
    one_column, one_row = ops.ones_like(images[:, :, 0, 0]), ops.ones_like(images[:, 0, :, 0])
    height, width = (ops.sum(ones, 1, keepdims=True) for ones in (one_column, one_row))
    shorter = ops.minimum(height, width)
    side = ops.maximum(KEPT_SHARE * shorter, ops.minimum(shorter, float(size)))
    rows = _make_weights(one_column, height, side, size)
    columns = _make_weights(one_row, width, side, size)
    x = ops.einsum("bph,bhwc->bpwc", rows, images)
    x = ops.einsum("bqw,bpwc->bpqc", columns, x)
    return ops.clip(ops.round(x), 0, 255)


def _make_weights(ones: Any, length: Any, side: Any, size: int) -> Any:
    """``(batch, size, length)`` how much of each old pixel is in each new one; rows sum to 1."""
    from keras import ops

    scale = side / size
    new = ops.arange(size, dtype="float32")[None] + 0.5
    centres = (length - side) / 2 + new * scale
    pixels = ops.cumsum(ones, 1) - 0.5
    distances = ops.expand_dims(pixels, 1) - ops.expand_dims(centres, 2)
    distances = distances / ops.expand_dims(ops.maximum(scale, 1.0), 2)
    is_larger = ops.expand_dims(ops.less(scale, 1.0), 2)
    weights = ops.where(is_larger, _bicubic(distances), _hamming(distances))
    return weights / ops.sum(weights, 2, keepdims=True)


def _hamming(distances: Any) -> Any:
    from keras import ops

    # At 0 the quotient would be 0 / 0.
    angles = math.pi * ops.maximum(ops.abs(distances), 1e-6)
    found = ops.sin(angles) / angles * (0.54 + 0.46 * ops.cos(angles))
    return ops.where(ops.less(ops.abs(distances), 1.0), found, 0.0)


def _bicubic(distances: Any) -> Any:
    from keras import ops

    d = ops.abs(distances)
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return ops.where(ops.less(d, 1.0), near, ops.where(ops.less(d, 2.0), far, 0.0))
