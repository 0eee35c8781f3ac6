"""A small network and its activations, for tests that train."""

from __future__ import annotations

from typing import Any

import numpy as np

SHAPE, CLASSES, SAMPLES = (6, 6, 4), 3, 30


class Array:
    """A source of activations in memory; views differ by a constant."""

    def __init__(self, rows: np.ndarray, views: int = 1) -> None:
        self.rows, self.views = rows, views

    def read(self, rows: np.ndarray, views: Any = 0) -> np.ndarray:
        shift = np.broadcast_to(np.asarray(views, np.float32), rows.shape)
        return self.rows[rows] + 0.01 * shift[:, None, None, None]


def build_small() -> Any:
    """Two convolutions with BatchNormalization before the boundary, two after."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = photos = keras.Input((12, 12, 3))
    for block, (filters, stride) in enumerate([(4, 2), (4, 1), (8, 1), (8, 1)], start=1):
        y = layers.Conv2D(
            filters, 3, stride, padding="same", use_bias=block == 3, name=f"block{block}_conv"
        )(x)
        y = layers.BatchNormalization(name=f"block{block}_bn")(y)
        y = layers.ReLU(name=f"block{block}_relu")(y)
        x = layers.Add(name=f"block{block}_add")([x, y]) if x.shape == y.shape else y
    return keras.Model(photos, x, name="small")
