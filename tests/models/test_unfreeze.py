"""The setting ``unfreeze``: what is trained, where the boundary is, what moves."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from headstart import load_backbone
from headstart.errors import BoundaryError
from headstart.models.boundary import list_blocks, list_boundaries
from headstart.models.unfreeze import (
    Unfreeze,
    count_parameters,
    list_batchnorms,
    resolve_unfreeze,
    set_trainable,
)


@pytest.fixture(scope="module")
def vgg() -> keras.Model:
    return keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))


@pytest.fixture
def lite() -> keras.Model:
    return load_backbone(image_size=64)


BLOCK5 = ("block5_conv1", "block5_conv2", "block5_conv3")


@pytest.mark.parametrize(
    ("setting", "layers", "boundary"),
    [
        ("none", (), "block5_pool"),
        (0, (), "block5_pool"),
        (4, BLOCK5, "block4_pool"),
        ("4", BLOCK5, "block4_pool"),
        (3, BLOCK5[1:], "block5_conv1"),
        ("block5", BLOCK5, "block4_pool"),
        ("last_block", BLOCK5, "block4_pool"),
        ("last_1_block", BLOCK5, "block4_pool"),
        (r"^block5_conv[13]$", (BLOCK5[0], BLOCK5[2]), "block4_pool"),
    ],
)
def test_settings_of_vgg16(
    vgg: keras.Model, setting: Any, layers: tuple[str, ...], boundary: str
) -> None:
    found = resolve_unfreeze(vgg, setting)
    assert (found.layers, found.boundary.name) == (layers, boundary)


def test_larger_settings_of_vgg16(vgg: keras.Model) -> None:
    assert resolve_unfreeze(vgg, "last_2_blocks").boundary.name == "block3_pool"
    everything = resolve_unfreeze(vgg, "all")
    assert (len(everything.layers), everything.boundary.name) == (13, "photos")
    assert resolve_unfreeze(vgg, "block4").layers == everything.layers[-6:], "and all that follows"


@pytest.mark.parametrize(
    ("setting", "share", "names"),
    [("half", 0.5, ("block3_pool", "block5b_add")), ("most", 0.25, ("block2_pool", "block3b_add"))],
)
def test_shares_are_where_so_many_of_the_multiply_adds_lie_before(
    vgg: keras.Model, lite: keras.Model, setting: str, share: float, names: tuple[str, str]
) -> None:
    for model, boundary in zip((vgg, lite), names, strict=True):
        found = resolve_unfreeze(model, setting).boundary
        assert found.name == boundary
        assert found.share_before >= share
        blocks = list_blocks(model)
        steps = {b.step: b.share_before for b in list_boundaries(model)}
        earlier = [b.first for b in blocks if b.first - 1 < found.step]
        assert steps[earlier[-1] - 1] < share, "one block more would be less"


def test_a_stage_is_a_name_too(lite: keras.Model) -> None:
    assert resolve_unfreeze(lite, "block6").boundary.name == "block5c_add"
    assert resolve_unfreeze(lite, "block6b").boundary.name == "block6a_project_bn"


def test_of_equally_deep_boundaries_the_narrowest_is_taken() -> None:
    photos = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="narrow")(photos)
    x = keras.layers.ZeroPadding2D(4, name="wide")(x)
    model = keras.Model(photos, keras.layers.Conv2D(4, 3, name="last")(x))
    assert resolve_unfreeze(model, "last").boundary.name == "narrow"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("blok5", "'blok5' is not a block of vgg16.*Did you mean block5.*last_block"),
        ("last_9_blocks", "has 5 blocks: block1, block2, block3, block4, block5"),
        ("last_0_blocks", "has 5 blocks"),
        (1, "leaves nothing to train in vgg16: the layers that it names have no weights"),
        (99, 'has 18 layers. To train all of them: unfreeze="all"'),
        (-1, "is negative"),
        ("-1", "is negative"),
        (True, "is not a setting"),
        (2.5, "is not a setting"),
        (None, "is not a setting"),
        ("", "is empty"),
        (" ", "is empty"),
        ("(", r"'\(' is not a block of vgg16"),
    ],
)
def test_bad_settings_are_refused(vgg: keras.Model, setting: Any, says: str) -> None:
    with pytest.raises(BoundaryError, match=says):
        resolve_unfreeze(vgg, setting)


def test_only_batchnorm_is_nothing_unless_asked_for(lite: keras.Model) -> None:
    with pytest.raises(BoundaryError, match='stays as it is with batchnorm="inference"'):
        resolve_unfreeze(lite, 2)
    assert resolve_unfreeze(lite, 2, "train").layers == ("top_bn",)
    with pytest.raises(BoundaryError, match="Did you mean inference"):
        resolve_unfreeze(lite, 4, "inferenc")


def test_a_shared_layer_is_trained_in_all_its_calls() -> None:
    photos = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    x = keras.layers.ReLU(name="between")(shared(photos))
    model = keras.Model(photos, shared(x))
    found = resolve_unfreeze(model, "shared#2")
    assert (found.layers, found.boundary.name) == (("shared",), "photos")


def fit_a_little(model: keras.Model, backbone: keras.Model) -> dict[str, float]:
    """How far each layer of the backbone moved in two steps of SGD in Keras's own fit."""
    before = {layer.name: [w.numpy() for w in layer.weights] for layer in backbone.layers}
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    photos = rng.uniform(0, 255, (8, *model.input_shape[1:])).astype(np.float32)
    model.fit(photos, np.arange(8) % 3, batch_size=4, epochs=1, verbose=0)
    moved = {}
    for layer in backbone.layers:
        pairs = zip(layer.weights, before[layer.name], strict=True)
        moved[layer.name] = max(
            (float(np.abs(w.numpy() - old).max()) for w, old in pairs), default=0
        )
    return moved


def classifier(backbone: keras.Model) -> keras.Model:
    photos = keras.Input(backbone.input_shape[1:])
    x = keras.layers.GlobalAveragePooling2D()(backbone(photos, training=False))
    return keras.Model(photos, keras.layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("batchnorm", ["inference", "train"])
def test_fit_moves_what_was_unfrozen_and_nothing_else(lite: keras.Model, batchnorm: str) -> None:
    found = resolve_unfreeze(lite, "block7a", batchnorm)
    set_trainable(lite, found)
    moved = fit_a_little(classifier(lite), lite)
    assert {name for name, distance in moved.items() if distance > 0} == set(found.layers)
    norms = {norm.name for norm in list_batchnorms(lite)}
    assert bool(norms & set(found.layers)) == (batchnorm == "train")


class Pair(keras.layers.Layer):
    """A layer made of layers, one of them BatchNormalization."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.conv = keras.layers.Conv2D(4, 3, padding="same")
        self.norm = keras.layers.BatchNormalization()

    def build(self, shape: Any) -> None:
        self.conv.build(shape)
        self.norm.build((*shape[:3], 4))

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.norm(self.conv(x), training=training)


def test_batchnorm_within_a_layer_stays_too() -> None:
    photos = keras.Input((8, 8, 3))
    model = keras.Model(photos, Pair(name="second")(Pair(name="first")(photos)))
    found = resolve_unfreeze(model, "last_block")
    assert (found.layers, found.boundary.name) == (("second",), "first")
    set_trainable(model, found)
    norm = model.get_layer("second").norm
    before = [w.numpy() for w in norm.weights]
    moved = fit_a_little(classifier(model), model)
    assert moved["first"] == 0
    assert moved["second"] > 0
    assert all((w.numpy() == old).all() for w, old in zip(norm.weights, before, strict=True))


def test_freezing_again_leaves_no_trace(lite: keras.Model) -> None:
    set_trainable(lite, resolve_unfreeze(lite, "all"))
    set_trainable(lite, resolve_unfreeze(lite, "last_block"))
    names = {v.path for v in lite.trainable_variables}
    assert len(names) == 4
    set_trainable(lite, resolve_unfreeze(lite, "none"))
    assert not lite.trainable_variables
    set_trainable(lite, resolve_unfreeze(lite, "last_block"))
    assert {v.path for v in lite.trainable_variables} == names


def test_affine_is_not_for_keras_fit(lite: keras.Model) -> None:
    with pytest.raises(BoundaryError, match=r"needs headstart\.fine_tune"):
        set_trainable(lite, resolve_unfreeze(lite, "last_block", "affine"))


def test_the_table_of_parameters_adds_up(lite: keras.Model) -> None:
    found: Unfreeze = resolve_unfreeze(lite, "last_block")
    set_trainable(lite, found)
    rows = {row.name: row for row in count_parameters(lite)}
    assert sum(row.trainable + row.frozen for row in rows.values()) == lite.count_params()
    assert {name for name, row in rows.items() if row.trainable} == {"block7a"}
    assert rows["block7a"].trainable == 192 * 1152 + 9 * 1152 + 1152 * 320 + 320 * 1280
