"""Heat maps: where the thing is, the same as by gradients, and for every kind of network."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode
from models import saved_models
from PIL import Image

from headstart import Explainer, ImageClassifier
from headstart.bundle import GRAPH, load_bundle
from headstart.data.decode import KEPT_SHARE
from headstart.errors import HeadstartError
from headstart.explain import measure_derivatives
from headstart.runtimes.onnx_maps import find_maps

SIDE = 196  # fewer pixels than the network takes: it sees all of them
CORNERS = {(0, 0): "top left", (0, 1): "top right", (1, 0): "bottom left", (1, 1): "bottom right"}


def draw(kind: str, corner: tuple[int, int], seed: int) -> np.ndarray:
    """A grey photo with a thing in one of its corners."""
    rng = np.random.default_rng(seed)
    photo = rng.integers(110, 140, (SIDE, SIDE, 3))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    down, right = (46 + 104 * c + rng.integers(-8, 8) for c in corner)
    if kind == "disc":
        photo[(rows - down) ** 2 + (columns - right) ** 2 < 34**2] = (200, 40, 40)
    else:
        near = (abs(rows - down) < 36) & (abs(columns - right) < 36)
        photo[near & ((rows + columns) % 24 < 12)] = (20, 20, 90)
    return photo.astype(np.uint8)


@pytest.fixture(scope="module")
def things() -> Any:
    """Tells discs from stripes; not to be changed."""
    corners = list(CORNERS)
    photos = [draw(kind, corners[n % 4], n) for kind in ("disc", "stripes") for n in range(24)]
    return ImageClassifier().fit(photos, ["disc"] * 24 + ["stripes"] * 24)


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
@pytest.mark.parametrize("corner", CORNERS, ids=CORNERS.get)
def test_heat_is_where_the_thing_is(things: Any, method: str, corner: tuple[int, int]) -> None:
    explainer = Explainer(things.bundle, method=method)
    assert explainer.method == method
    # Two classes: what speaks for stripes may also be that there is no disc, as it is by occlusion.
    kinds = ("disc", "stripes") if method == "grad-cam" else ("disc",)
    photos = [draw(kind, corner, 100 + n) for n, kind in enumerate(kinds)]
    for found, label in zip(explainer.explain(photos), kinds, strict=True):
        assert found.label == label
        half = len(found.heat) / 2
        hottest = np.unravel_index(found.heat.argmax(), found.heat.shape)
        assert tuple(int(place >= half) for place in hottest) == corner
        assert 0 <= found.heat.min() < 0.2
        assert found.heat.max() == 1


def test_the_answer_is_that_of_predict(things: Any) -> None:
    photos = [draw("disc", (0, 1), 7), draw("stripes", (1, 0), 8)]
    for method in ("grad-cam", "occlusion"):
        for found, said in zip(
            Explainer(things.bundle, method=method).explain(photos),
            things.predictor.predict(photos),
            strict=True,
        ):
            assert found.label == said.label
            assert found.probability == pytest.approx(said.probability, abs=1e-5)


def test_another_class_can_be_explained(things: Any) -> None:
    photo = draw("disc", (0, 0), 5)
    (found,) = Explainer(things.bundle).explain([photo], "stripes")
    (said,) = things.predictor.predict([photo])
    assert found.label == "stripes"
    assert found.probability == pytest.approx(1 - said.probability, abs=1e-5)
    with pytest.raises(HeadstartError, match="Did you mean stripes"):
        next(Explainer(things.bundle).explain([photo], "strips"))


def by_gradients(layers: Any, photo: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Grad-CAM as its paper has it, by TensorFlow."""
    import tensorflow as tf

    x = tf.constant(photo[None], tf.float32)
    with tf.GradientTape() as tape:
        for layer in layers:
            x = layer(x, training=False)
            if x.ndim == 4:
                tape.watch(x)
                maps = x
        logit = tf.reduce_sum(x * kernel)
        gradients = tape.gradient(logit, maps)
    heat = np.maximum(maps[0].numpy() @ tf.reduce_mean(gradients, (1, 2))[0].numpy(), 0)
    return heat / max(heat.max(), 1e-12)


def make_crooked() -> Any:
    """A network whose features are no mean of its last map."""
    import keras

    keras.utils.set_random_seed(0)
    photos = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(photos)
    x = keras.layers.Conv2D(24, 5, strides=4, activation="relu")(x)
    x = keras.layers.Conv2D(32, 3, strides=2, activation="silu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(20, activation="gelu")(x)
    return keras.Model(photos, x)


@pytest.mark.parametrize("kind", ["a mean", "crooked"])
def test_it_equals_gradients(kind: str, few_digits: Path) -> None:
    if kind == "crooked":
        network = make_crooked()
        layers = network.layers[1:]
        classifier = ImageClassifier(network).fit(few_digits)
    else:
        classifier = ImageClassifier().fit(few_digits)
        layers = classifier.model.layers[1:-1]
    size = classifier.bundle.image_size
    photo = np.asarray(
        Image.fromarray(draw("disc", (0, 1), 0)).resize((size, size)), dtype=np.uint8
    )
    explainer = Explainer(classifier.bundle, method="grad-cam")
    for number, name in enumerate(classifier.classes_):
        found = explainer._explain_image(photo, number)[2]
        expected = by_gradients(layers, photo, explainer._kernel[:, number])
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=0.01, err_msg=str(name))


def test_differences_give_the_weights_of_a_mean(trained: Any) -> None:
    graph = find_maps(trained.bundle.members[GRAPH], 224)
    assert graph is not None
    photo = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    maps, features = graph.compute_maps(photo)
    np.testing.assert_allclose(maps.mean((1, 2)), features, atol=1e-4)
    np.testing.assert_allclose(graph.finish(maps), features, atol=1e-5)
    kernel = Explainer(trained.bundle)._kernel[:, 1]
    found = measure_derivatives(graph, maps[0], kernel)
    np.testing.assert_allclose(found, kernel, atol=2e-2 * abs(kernel).max())


def test_a_saved_model_has_a_map(few_digits: Path) -> None:
    classifier = ImageClassifier(f"hub:{saved_models.reusable()}").fit(few_digits)
    explainer = Explainer(classifier.bundle)
    assert explainer.method == "grad-cam"
    found = list(explainer.explain(sorted(few_digits.glob("*/*.png"))))
    assert all(min(each.heat.shape) > 1 and each.problem is None for each in found)


def without_map(bundle: Any) -> Any:
    """A bundle whose graph has features, but no rows and columns on the way to them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    width = 1280
    mixing = np.random.default_rng(0).normal(size=(224 * 224 * 3, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["photos"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mixing"], ["one"]),
        helper.make_node("Mul", ["one", "spread"], ["features"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "flat",
        [info("photos", TensorProto.UINT8, ["batch", 224, 224, 3])],
        [info("features", TensorProto.FLOAT, ["batch", width])],
        [
            numpy_helper.from_array(mixing / 1e5, "mixing"),
            numpy_helper.from_array(np.ones((1, width), np.float32), "spread"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return replace(bundle, members={**bundle.members, GRAPH: model.SerializeToString()})


def test_a_network_without_map_is_explained_by_occlusion(trained: Any) -> None:
    bundle = without_map(trained.bundle)
    assert find_maps(bundle.members[GRAPH], 224) is None
    assert Explainer(bundle).method == "occlusion"
    photo = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    (found,) = Explainer(bundle).explain([photo])
    assert found.heat.max() == 1
    with pytest.raises(HeadstartError, match="Use the method occlusion"):
        Explainer(bundle, method="grad-cam")


def test_what_cannot_be_read_has_its_reason(trained_bundle: Path, digits_folder: Path) -> None:
    photos = [b"no image", next(digits_folder.glob("*/*.png"))]
    first, second = Explainer(trained_bundle).explain(photos)
    assert (first.label, first.problem) == ("", "not an image of a known format")
    assert second.problem is None


def test_an_unknown_method_is_named(trained_bundle: Path) -> None:
    with pytest.raises(HeadstartError, match="Did you mean grad-cam"):
        Explainer(trained_bundle, method="gradcam")


def test_the_picture_is_upright_and_hot_in_the_right_place(things: Any) -> None:
    """A thing in the lower right of a wide photo that is stored on its side."""
    side = 280  # of which 0.875 are seen
    wide = np.full((side, 2 * side, 3), 120, np.uint8)
    wide[:, side // 2 : side // 2 + side] = Image.fromarray(draw("disc", (1, 1), 3)).resize(
        (side, side)
    )
    stored = Image.fromarray(wide).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stream = io.BytesIO()
    stored.save(stream, "PNG", exif=exif)
    (found,) = Explainer(things.bundle).explain([stream.getvalue()])
    picture = np.asarray(Image.open(io.BytesIO(found.draw()))).astype(int)
    assert picture.shape == wide.shape
    change = abs(picture - wide).sum(2)
    margin = round((side - KEPT_SHARE * side) / 2)
    inside = change[margin:-margin, side // 2 + margin : side // 2 + side - margin]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    assert row > len(inside) / 2
    assert column > inside.shape[1] / 2
    assert change[:, :margin].min() > 0  # what the network does not see is darker


def test_of_a_small_photo_the_network_sees_all(things: Any) -> None:
    small = np.asarray(Image.fromarray(draw("disc", (1, 1), 3)).resize((90, 120)))
    (found,) = Explainer(things.bundle).explain([encode(small)])
    picture = np.asarray(Image.open(io.BytesIO(found.draw()))).astype(int)
    darker = (picture.sum(2) < 0.8 * small.sum(2)).mean(1)
    assert darker[:15].min() > 0.9  # above the central square, whose side is that of the photo
    assert darker[17:40].max() < 0.5


def test_a_photo_is_not_enlarged_and_a_large_one_made_smaller(things: Any) -> None:
    for side, expected in ((100, 100), (1000, 640)):
        photo = encode(np.full((side, side, 3), 128))
        (found,) = Explainer(things.bundle).explain([photo])
        assert Image.open(io.BytesIO(found.draw())).size == (expected, expected)


def test_a_bundle_from_a_file_is_enough(trained_bundle: Path, digits_folder: Path) -> None:
    photo = next(digits_folder.glob("*/*.png"))
    (one,) = Explainer(str(trained_bundle)).explain([photo])
    (other,) = Explainer(load_bundle(trained_bundle)).explain([str(photo)])
    assert one.label == other.label
    assert (one.heat == other.heat).all()
