"""The head on a frozen backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart import attach_head
from headstart.models.boundary import build_prefix_model, pool
from headstart.models.loaders import load_prefix


def small_backbone(*, is_map: bool = True) -> Any:
    """A Keras model with BatchNormalization, from photos to a map or a vector."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((32, 32, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(6, 3, strides=2, padding="same", name="conv"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.ReLU(),
    ]
    return keras.Sequential(layers if is_map else [*layers, keras.layers.Flatten()])


def photos(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("is_map", [True, False])
def test_probabilities_of_a_map_or_a_vector(is_map: bool) -> None:
    model = attach_head(small_backbone(is_map=is_map), 3)
    rows = np.asarray(model(photos()))
    assert rows.shape == (4, 3)
    assert np.allclose(rows.sum(1), 1, atol=1e-6)


def test_kernel_and_bias_are_the_given_ones() -> None:
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(6, 3)), rng.normal(size=3)
    backbone = small_backbone()
    model = attach_head(backbone, 3, kernel=kernel, bias=bias)
    features = np.asarray(backbone(photos(), training=False)).mean((1, 2))
    logits = features @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(np.asarray(model(photos())), expected, atol=1e-5)


def test_a_kernel_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        attach_head(small_backbone(), 3, kernel=np.zeros((5, 3), np.float32))


@pytest.mark.parametrize("num_classes", [1, 0, -1])
def test_one_class_is_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        attach_head(small_backbone(), num_classes)


def test_fitting_changes_the_head_and_nothing_else() -> None:
    backbone = small_backbone()
    model = attach_head(backbone, 2)
    assert [variable.path for variable in model.trainable_variables] == [
        "head/kernel",
        "head/bias",
    ]
    before = [variable.numpy() for variable in backbone.variables]
    start = model.get_layer("head").kernel.numpy()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(photos(8), np.array([0, 1] * 4), epochs=2, verbose=0)
    after = [variable.numpy() for variable in backbone.variables]
    # The moving statistics of BatchNormalization are among them.
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not np.array_equal(start, model.get_layer("head").kernel.numpy())


def test_normalisation_is_that_of_inference_also_in_training() -> None:
    backbone = small_backbone()
    thawed = np.asarray(backbone(photos(), training=True))
    model = attach_head(backbone, 2)
    frozen = np.asarray(backbone(photos(), training=True))
    assert np.allclose(model(photos(), training=True), model(photos(), training=False), atol=1e-6)
    assert np.allclose(frozen, np.asarray(backbone(photos(), training=False)), atol=1e-6)
    assert not np.allclose(frozen, thawed, atol=1e-2)  # the difference would be seen


def test_the_prefix_model_is_the_pooled_backbone() -> None:
    import keras

    backbone = small_backbone()
    prefix = load_prefix(backbone)
    rows = np.asarray(build_prefix_model(prefix)(photos(), training=False))
    expected = np.asarray(backbone(photos(), training=False)).mean((1, 2))
    assert rows.shape == (4, *prefix.shape)
    assert np.allclose(rows, expected, atol=1e-6)
    vector = keras.Input((5,))
    assert pool(vector) is vector
