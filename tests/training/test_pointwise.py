"""Pointwise convolutions as matrix products: the same numbers, and layers left as they were."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from headstart.training.pointwise import list_pointwise, multiplying


@pytest.fixture
def model() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = photos = keras.Input((6, 5, 4))
    inner = keras.Input((6, 5, 8))
    nested = keras.Model(inner, layers.Conv2D(8, 1, name="nested")(inner), name="inside")
    x = layers.Conv2D(8, 1, activation="relu", name="pointwise")(x)
    x = nested(x)
    x = layers.DepthwiseConv2D(1, name="depthwise")(x)
    x = layers.Conv2D(8, 3, padding="same", name="wide")(x)
    x = layers.Conv2D(8, 1, groups=2, name="grouped")(x)
    x = layers.Conv2D(6, 1, strides=2, name="strided")(x)
    return keras.Model(photos, x)


def gradients(model: Any, x: Any) -> tuple[Any, list[np.ndarray], list[str]]:
    """Output, gradients, and the operations of the graph that computes them."""

    def step() -> Any:
        with tf.GradientTape() as tape:
            y = model(x)
            loss = tf.reduce_sum(y**2)
        return y, tape.gradient(loss, model.trainable_variables)

    graph = tf.function(step).get_concrete_function()
    y, found = graph()
    kinds = [operation.type for operation in graph.graph.get_operations()]
    return y.numpy(), [g.numpy() for g in found], kinds


def test_only_plain_pointwise_layers_are_taken(model: Any) -> None:
    assert {layer.name for layer in list_pointwise(model)} == {"pointwise", "nested"}

    class Other(keras.layers.Conv2D):
        """Who knows what it does."""

    assert list_pointwise(keras.Sequential([Other(3, 1), keras.layers.Conv2D(3, 1)])) != []
    assert list_pointwise(keras.Sequential([Other(3, 1)])) == []


def test_output_and_gradients_are_those_of_convolutions(model: Any) -> None:
    x = tf.random.stateless_normal((3, 6, 5, 4), (0, 1))
    before = gradients(model, x)
    with multiplying(model):
        within = gradients(model, x)
    after = gradients(model, x)
    np.testing.assert_allclose(within[0], before[0], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(within[1], before[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert before[2].count("MatMul") == after[2].count("MatMul") == 0
    assert within[2].count("MatMul") >= 4  # two layers, there and back
    assert within[2].count("Conv2D") == before[2].count("Conv2D") - 2
    assert after[2] == before[2]


def test_layers_are_left_alone_after_an_error(model: Any) -> None:
    with pytest.raises(RuntimeError, match="stop"), multiplying(model):
        raise RuntimeError("stop")
    assert all("convolution_op" not in vars(layer) for layer in list_pointwise(model))
