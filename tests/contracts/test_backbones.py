"""The contract of backbones: kept by rows of the table, and shown to reject broken twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_time
from models import saved_models

from headstart import list_boundaries, load_backbone
from headstart.models.backbones import BACKBONES, get_backbone
from headstart.models.boundary import Boundary
from headstart.testing import check_backbone, measure_sensitivity, settle

# One per convention of preprocessing; benchmarks/backbones.py checks every row in every part.
ROWS = ("efficientnet-lite0",)

# As far as the preprocessing and two cuts go.
LIGHT_ROWS = ("keras:vgg16", "keras:efficientnet_b0", "keras:mobilenet_v2")

# These networks are deep: their cuts take a minute each, so only where they are asked for.
DEEP_ROWS = (
    *("keras:convnext_tiny", "keras:densenet121"),
    *("keras:efficientnet_v2_s", "keras:mobilenet_v3_small"),
)

# Those of them that have a convention of their own, as far as what reaches the first convolution.
PREPROCESSED_ROWS = ("keras:densenet121", "keras:efficientnet_v2_s")


def load(name: str, size: int = 32) -> Any:
    model = load_backbone(name, weights=None, image_size=size)
    settle(model)
    return model


def some(model: Any, count: int = 4) -> tuple[Boundary, ...]:
    found = list_boundaries(model)
    return tuple(found[i * (len(found) - 1) // (count - 1)] for i in range(count))


@pytest.mark.parametrize("name", [*ROWS, pytest.param("keras:mobilenet_v2", marks=needs_time)])
def test_rows_keep_the_contract(name: str) -> None:
    model = load(name)
    check_backbone(model, get_backbone(name).preprocessing, boundaries=some(model))


@pytest.mark.parametrize(
    "name", [*LIGHT_ROWS, *(pytest.param(name, marks=needs_time) for name in DEEP_ROWS)]
)
def test_preprocessing_and_cuts_keep_the_contract(name: str) -> None:
    model = load(name)
    kind = get_backbone(name).preprocessing
    check_backbone(model, kind, boundaries=some(model, 2), runtimes=(), with_bundle=False)


@pytest.mark.parametrize("name", PREPROCESSED_ROWS)
def test_the_preprocessing_of_deep_networks_keeps_the_contract(name: str) -> None:
    kind = get_backbone(name).preprocessing
    model = load_backbone(name, weights=None, image_size=32)
    check_backbone(model, kind, boundaries=(), runtimes=(), with_bundle=False)


def test_every_convention_of_the_catalogue_is_checked_everywhere() -> None:
    names = (*ROWS, *LIGHT_ROWS, *PREPROCESSED_ROWS)
    checked = {get_backbone(name).preprocessing for name in names}
    assert checked == {spec.preprocessing for spec in BACKBONES.values()}


def test_a_saved_model_keeps_the_contract() -> None:
    model = load_backbone(f"hub:{saved_models.reusable()}")
    # TensorFlow's graph is not looked into: what is within it is no boundary.
    assert [cut.name for cut in list_boundaries(model)][-1] == "saved_model"
    check_backbone(model)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_local_file_keeps_the_contract(tmp_path: Path) -> None:
    import keras

    photos = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(photos)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2)(x))
    keras.Model(photos, keras.layers.Conv2D(16, 3)(x)).save(tmp_path / "mine.keras")
    model = load_backbone(f"local:{tmp_path / 'mine.keras'}")
    check_backbone(model, "unit")


@pytest.fixture(scope="module")
def sound() -> Any:
    return load("keras:mobilenet_v2")


def with_front(model: Any, layer: Any) -> Any:
    import keras

    photos = keras.Input(model.input_shape[1:], name="photos")
    twin = keras.Model(photos, model(layer(photos), training=False), name="twin")
    twin.trainable = False
    return twin


def test_preprocessing_that_is_wrong_or_doubled_is_rejected(sound: Any) -> None:
    import keras

    check_backbone(sound, "tf", boundaries=some(sound, 2), runtimes=(), with_bundle=False)
    with pytest.raises(AssertionError, match="does not get the preprocessing 'caffe'"):
        check_backbone(sound, "caffe", boundaries=(), runtimes=(), with_bundle=False)
    twice = with_front(sound, keras.layers.Rescaling(1 / 127.5, offset=-1))
    with pytest.raises(AssertionError, match="does not get the preprocessing 'tf'"):
        check_backbone(twice, "tf", boundaries=(), runtimes=(), with_bundle=False)


def test_moving_statistics_are_rejected() -> None:
    import keras

    class Restless(keras.layers.BatchNormalization):
        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            self.moving_mean.assign(self.moving_mean * 0.9)
            return super().call(inputs, training=training, mask=mask)

    photos = keras.Input((32, 32, 3))
    x = Restless()(keras.layers.Conv2D(4, 3)(photos))
    twin = keras.Model(photos, x, name="restless")
    twin.trainable = False
    layer = twin.layers[-1]
    layer.moving_mean.assign(np.ones(4))
    with pytest.raises(AssertionError, match=r"is not still: .*moving_mean moved"):
        check_backbone(twin, boundaries=(), runtimes=(), with_bundle=False)


def test_a_backbone_that_is_not_frozen_is_rejected() -> None:
    import keras

    photos = keras.Input((32, 32, 3))
    twin = keras.Model(photos, keras.layers.Conv2D(4, 3)(photos), name="thawed")
    with pytest.raises(AssertionError, match="is not frozen"):
        check_backbone(twin)


def test_a_wrong_boundary_is_rejected(sound: Any) -> None:
    import dataclasses

    boundary = list_boundaries(sound)[-3]
    wrong = dataclasses.replace(boundary, shape=(*boundary.shape[:-1], 7))
    with pytest.raises(AssertionError, match="which says"):
        check_backbone(sound, boundaries=(wrong,), runtimes=(), with_bundle=False)


def test_a_cut_that_loses_a_branch_is_rejected(sound: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from headstart.testing import backbones as testing

    real = testing.cut

    def lossy(model: Any, boundary: Any) -> tuple[Any, Any]:
        prefix, suffix = real(model, boundary)
        start = keras.Input(suffix.input_shape[1:])
        return prefix, keras.Model(start, suffix(keras.layers.Rescaling(1.01)(start)))

    monkeypatch.setattr(testing, "cut", lossy)
    with pytest.raises(AssertionError, match="is not the whole: relative error"):
        check_backbone(sound, boundaries=some(sound, 2)[:1], runtimes=(), with_bundle=False)


def test_a_runtime_that_disagrees_is_rejected(sound: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.testing import backbones as testing

    monkeypatch.setattr(testing, "measure_agreement", lambda *_: 2e-3)
    with pytest.raises(AssertionError, match=r"is not TensorFlow's: relative error 2\.0e-03"):
        check_backbone(sound, boundaries=())


def test_a_chaotic_network_is_told_from_a_sound_one(sound: Any) -> None:
    import keras

    class Chaotic(keras.layers.Layer):
        """Whoever moves a little ends elsewhere."""

        def call(self, inputs: Any) -> Any:
            return keras.ops.sin(1e6 * inputs)

    photos = keras.Input((32, 32, 3))
    twin = keras.Model(photos, Chaotic()(keras.layers.Conv2D(4, 3)(photos)), name="chaotic")
    assert measure_sensitivity(twin) > 0.1
    assert measure_sensitivity(sound) < 1e-3


def test_a_bundle_that_predicts_otherwise_is_rejected() -> None:
    import keras
    import tensorflow as tf

    class Fickle(keras.layers.Layer):
        """Computes something else in a graph than step by step."""

        def call(self, inputs: Any) -> Any:
            return inputs if tf.executing_eagerly() else 3 * inputs

    photos = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(photos))
    twin = keras.Model(photos, Fickle()(x), name="fickle")
    twin.trainable = False
    with pytest.raises(AssertionError, match="does not predict what its Keras model does"):
        check_backbone(twin, boundaries=(), runtimes=())


def test_other_forms_are_rejected() -> None:
    import keras

    photos = keras.Input((32, 48, 3))
    twin = keras.Model(photos, keras.layers.ReLU()(photos))
    with pytest.raises(AssertionError, match="input shape"):
        check_backbone(twin)
