"""Boundaries, blocks and cuts, on the families of the field and on odd graphs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from conftest import needs_time

from headstart import load_backbone
from headstart.errors import BoundaryError
from headstart.features.forward import padded
from headstart.models.backbones import get_backbone
from headstart.models.boundary import (
    INPUT,
    build_prefix_model,
    cut,
    cut_prefix,
    get_boundary,
    list_blocks,
    list_boundaries,
)
from headstart.models.efficientnet_lite.weights import load_weights
from headstart.models.keras_graph import set_arrays
from headstart.models.loaders import load_prefix
from headstart.runtimes import TOLERANCE, get_runtime

layers = keras.layers

# Application → boundary before its last block, that block, its stage, number of blocks; as read
# from the papers' tables and the layer names in Keras's sources.
FAMILIES: dict[str, tuple[str, str, str | None, int]] = {
    "VGG16": ("block4_pool", "block5", None, 5),
    "ResNet50": ("conv5_block2_out", "conv5_block3", "conv5", 16),
    "ResNet50V2": ("conv5_block2_out", "conv5_block3", "conv5", 16),
    "MobileNet": ("conv_pw_12_relu", "conv_13", None, 13),
    "MobileNetV2": ("block_15_add", "block_16", None, 17),
    "MobileNetV3Small": ("expanded_conv_9_add", "expanded_conv_10", None, 11),
    "DenseNet121": ("conv5_block15_concat", "conv5_block16", "conv5", 58),
    "InceptionV3": ("mixed9", "mixed10", None, 11),
    "EfficientNetB0": ("block6d_add", "block7a", "block7", 16),
}


# They take ten seconds each, and are of kinds that the others show, too.
DEEP = {"ResNet50V2", "DenseNet121", "InceptionV3"}


def build(name: str) -> keras.Model:
    size = 96
    return getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )


def make_photos(model: keras.Model, count: int = 2) -> np.ndarray:
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def check_cuts(model: keras.Model, every: int = 1) -> None:
    photos = make_photos(model)
    whole = np.asarray(model(photos, training=False))
    assert np.abs(whole).max() > 0
    for boundary in list_boundaries(model)[::every]:
        prefix, suffix = cut(model, boundary)
        activations = prefix(photos, training=False)
        assert activations.shape[1:] == boundary.shape
        np.testing.assert_allclose(
            np.asarray(suffix(activations, training=False)), whole, rtol=1e-5, atol=1e-6
        )
        owned = {id(v) for v in (*prefix.variables, *suffix.variables)}
        assert owned == {id(v) for v in model.variables}, "a cut must not copy variables"


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_time) if n in DEEP else n for n in FAMILIES]
)
def test_the_blocks_of_a_family_are_found(name: str) -> None:
    before, block, stage, count = FAMILIES[name]
    model = build(name)
    blocks, boundaries = list_blocks(model), list_boundaries(model)
    assert (blocks[-1].name, blocks[-1].stage, len(blocks)) == (block, stage, count)
    assert len({block.name for block in blocks}) == len(blocks)
    assert [b.first for b in blocks[1:]] == [b.last + 1 for b in blocks[:-1]]
    assert next(b.name for b in boundaries if b.step == blocks[-1].first - 1) == before
    assert boundaries[0].name == INPUT
    assert boundaries[-1].shape == model.output_shape[1:]
    check_cuts(model, every=max(1, len(boundaries) // 3))


def test_boundaries_of_the_built_in_backbone_cut() -> None:
    check_cuts(load_backbone(weights=None, image_size=64), every=6)


def test_multiply_adds_are_the_catalogues() -> None:
    for name in ("efficientnet-lite0", "efficientnet-lite2"):
        boundaries = list_boundaries(load_backbone(name, weights=None))
        total = get_backbone(name).multiply_adds
        assert boundaries[-1].multiply_adds_before == total
        assert {b.multiply_adds_before + b.multiply_adds_after for b in boundaries} == {total}
        befores = [b.multiply_adds_before for b in boundaries]
        assert befores == sorted(befores)
        assert boundaries[0].share_before == 0
        assert boundaries[-1].share_before == 1


@pytest.mark.parametrize(
    ("name", "size", "millions"),
    # As published, less the top: 15.3 G, 300 M, 8.4 G.
    [("VGG16", 224, 15_300), ("MobileNetV2", 224, 300), ("Xception", 299, 8_400)],
)
def test_multiply_adds_of_known_networks(name: str, size: int, millions: int) -> None:
    model = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    found = list_boundaries(model)[-1].multiply_adds_before
    assert found == pytest.approx(millions * 1e6, rel=0.01)


def test_multiply_adds_count_each_kind_of_layer() -> None:
    x = photos = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, groups=2, padding="same")(x)  # 64 · 9 · 2 · 6
    x = layers.DepthwiseConv2D(3, 2, padding="same")(x)  # 16 · 9 · 6
    x = layers.SeparableConv2D(5, 3, padding="same")(x)  # 16 · (9 · 6 + 6 · 5)
    x = layers.Conv2DTranspose(3, 2, 2)(x)  # 16 · 4 · 5 · 3
    x = layers.BatchNormalization()(x)
    x = layers.Dense(7)(layers.Flatten()(x))  # 8 · 8 · 3 · 7
    total = list_boundaries(keras.Model(photos, x))[-1].multiply_adds_before
    assert total == 64 * 108 + 16 * 54 + 16 * 84 + 16 * 60 + 192 * 7


def make_odd() -> keras.Model:
    """A nested model, a shared layer, an operation, two outputs of one layer, a long skip."""
    photos = keras.Input((16, 16, 3))
    stem = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, name="first")]
    )
    x = stem(photos)
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(keras.ops.relu(shared(x)))
    left, right = keras.ops.split(x, 2, axis=-1)
    x = layers.Concatenate(name="join")([right, left])
    y = layers.Conv2D(4, 1, name="branch")(x)
    y = layers.Add(name="add")([layers.Activation("relu", name="late")(y), x])
    return keras.Model(photos, layers.MaxPooling2D(name="pool")(y))


def test_odd_graphs_are_cut_only_where_one_tensor_remains() -> None:
    model = make_odd()
    names = [boundary.name for boundary in list_boundaries(model)]
    for name in ("first", "shared", "shared#2", "join", "add", "pool"):
        assert name in names
    assert not {"branch", "late", "split"} & set(names), "the skip goes around these"
    check_cuts(model)


def test_models_within_with_layers_of_one_name_stay_whole() -> None:
    def inner(name: str) -> keras.Model:
        return keras.Sequential(
            [keras.Input((8, 8, 3)), layers.Conv2D(3, 3, padding="same", name="conv")], name=name
        )

    photos = keras.Input((8, 8, 3))
    model = keras.Model(photos, inner("b")(inner("a")(photos)))
    assert [boundary.name for boundary in list_boundaries(model)] == [INPUT, "a", "b"]
    check_cuts(model)


def test_a_baked_training_flag_survives_the_cut() -> None:
    photos = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(photos, training=True)
    model = keras.Model(photos, layers.Conv2D(2, 3, name="conv")(x))
    prefix, _ = cut(model, "norm")
    pixels = make_photos(model, 8)
    assert abs(float(np.asarray(prefix(pixels)).mean())) < 1e-3, "statistics of the batch"
    assert abs(float(np.asarray(prefix(pixels, training=False)).mean())) > 10


def test_unknown_networks_get_blocks_from_their_graph() -> None:
    assert [block.name for block in list_blocks(make_odd())] == ["join", "add"]
    chain = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            *(layers.Conv2D(8, 3, padding="same", name=f"a{i}") for i in range(2)),
            layers.MaxPooling2D(name="p"),
            *(layers.Conv2D(8, 3, padding="same", name=f"b{i}") for i in range(2)),
            layers.Conv2D(8, 3, 2, padding="same", name="c0"),
            layers.Conv2D(8, 3, padding="same", name="c1"),
        ]
    )
    found = list_blocks(chain)
    names = [layer.name for layer in chain.layers]
    assert [names[block.first] for block in found] == ["a0", "b0", "c0"]
    assert [names[block.last] for block in found] == ["p", "b1", "c1"]


class Own(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="own")
        self.conv = layers.Conv2D(5, 3)

    def call(self, photos: Any) -> Any:
        return self.conv(photos)


def test_a_model_with_its_own_call_has_one_boundary() -> None:
    model = Own()
    with pytest.raises(BoundaryError, match="no functional graph and no known output shape"):
        list_boundaries(model)
    wrapped_input = keras.Input((8, 8, 3))
    wrapped = keras.Model(wrapped_input, model(wrapped_input))
    assert [boundary.name for boundary in list_boundaries(wrapped)] == [INPUT, "own"]
    check_cuts(wrapped)


def test_what_cannot_be_cut_is_refused_with_a_sentence() -> None:
    a, b = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(BoundaryError, match="has 2 inputs and 1 outputs; a boundary needs one"):
        list_boundaries(keras.Model([a, b], layers.add([a, b])))
    free = keras.Input((None, None, 3))
    with pytest.raises(BoundaryError, match="has no fixed size"):
        list_boundaries(keras.Model(free, layers.Conv2D(2, 3)(free)))
    with pytest.raises(BoundaryError, match="'block6d_ad' is not a boundary of efficientnet_lite0"):
        get_boundary(load_backbone(weights=None), "block6d_ad")
    with pytest.raises(BoundaryError, match="Did you mean block6d_add"):
        cut(load_backbone(weights=None), "block6d_ad")


@pytest.mark.parametrize("name", ["block6d_add", "block4c_add", "stem_activation"])
def test_the_prefix_graph_without_tensorflow_is_the_cut(name: str) -> None:
    backbone = load_backbone(weights=None)
    set_arrays(backbone, load_weights("efficientnet-lite0"))
    boundary = get_boundary(backbone, name)
    prefix = cut_prefix(load_prefix("efficientnet-lite0"), boundary)
    assert (prefix.boundary, prefix.shape) == (boundary.name, boundary.shape)
    photos = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    session = padded(get_runtime("onnxruntime").open(prefix, lambda: build_prefix_model(prefix)))
    reference = np.asarray(build_prefix_model(prefix)(photos.astype(np.float32), training=False))
    error = np.linalg.norm(session(photos) - reference) / np.linalg.norm(reference)
    assert error < TOLERANCE


def test_a_graph_until_an_unknown_layer_is_refused() -> None:
    emit = load_prefix("efficientnet-lite0").emit_graph
    assert emit is not None
    with pytest.raises(BoundaryError, match="Did you mean block6d_add"):
        emit(None, "block6d_ad")
