"""Networks of keras.applications: the table, preprocessing, weights, names."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from conftest import needs_time
from keras_files import write_legacy

from headstart import list_boundaries, load_backbone
from headstart.errors import BackboneError
from headstart.models.backbones import BACKBONES, get_backbone
from headstart.models.boundary import cut
from headstart.models.keras_catalogue import ROWS
from headstart.models.keras_weights import weights_file, weights_url
from headstart.models.preprocessing import PREPROCESSING

# One per family, the lightest. The others are checked by benchmarks/backbones.py.
FAMILIES = (
    *("vgg16", "resnet50", "resnet50_v2", "mobilenet", "mobilenet_v2", "mobilenet_v3_small"),
    *("inception_v3", "inception_resnet_v2", "xception", "densenet121", "nasnet_mobile"),
    *("efficientnet_b0", "efficientnet_v2_b0", "efficientnet_v2_s", "convnext_tiny"),
)
# The module of keras.applications whose preprocess_input is each row's own; those that carry
# their preprocessing have one that does nothing.
MODULES = {
    "vgg16": "vgg16",
    "resnet50": "resnet",
    "resnet50_v2": "resnet_v2",
    "mobilenet": "mobilenet",
    "mobilenet_v2": "mobilenet_v2",
    "inception_v3": "inception_v3",
    "inception_resnet_v2": "inception_resnet_v2",
    "xception": "xception",
    "densenet121": "densenet",
    "nasnet_mobile": "nasnet",
}
# Keras saves by way of numpy.array(variable), which NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# Building one of these takes ten to twenty seconds.
DEEP = {"nasnet_mobile", "inception_resnet_v2", "densenet121", "efficientnet_v2_s"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=needs_time) if n in DEEP else n for n in FAMILIES],
)
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A name and its network at its own size, with random weights; not to be changed."""
    return request.param, load_backbone(f"keras:{request.param}", weights=None)


def test_the_table_has_every_network_of_keras() -> None:
    import keras

    builders = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {row.builder for row in ROWS.values()} == builders
    assert len({row.builder for row in ROWS.values()}) == len(ROWS) == 40
    assert {f"keras:{name}" for name in ROWS} <= set(BACKBONES)


@pytest.mark.parametrize("name", ROWS)
def test_files_and_digests_are_those_of_keras(name: str) -> None:
    import keras

    row = ROWS[name]
    module = inspect.getmodule(getattr(keras.applications, row.builder))
    source = inspect.getsource(module)
    if module.__name__.endswith(".resnet_v2"):  # ResNetV2 is built by ResNet's function
        source = inspect.getsource(importlib.import_module("keras.src.applications.resnet"))
    assert row.family.url.startswith("https://storage.googleapis.com/")
    folder = row.family.url.removeprefix("https://storage.googleapis.com/").strip("/")
    assert folder.rpartition("/")[2] in source
    assert f'"{row.digest}"' in source if row.digest else "file_hash" not in source


@pytest.mark.parametrize(
    ("name", "size"),
    [("vgg16", 64), ("mobilenet", 160), ("mobilenet", 200), ("mobilenet_v2", 96),
     ("mobilenet_v3_small", 64), ("efficientnet_b0", 64), ("nasnet_mobile", 224)],
)  # fmt: skip
def test_the_download_is_the_one_that_keras_would_make(name: str, size: int) -> None:
    import warnings

    import keras

    row = ROWS[name]
    builder = getattr(keras.applications, row.builder)
    file_utils = importlib.import_module("keras.src.utils.file_utils")
    with (
        mock.patch.object(file_utils, "get_file", side_effect=InterruptedError) as get_file,
        warnings.catch_warnings(action="ignore"),  # of sizes for which MobileNet has no file
        pytest.raises(InterruptedError),
    ):
        builder(include_top=False, weights="imagenet", input_shape=(size, size, 3))
    file, url = get_file.call_args.args
    assert weights_file(row, size).name == file
    assert weights_url(row, size) == url
    assert get_file.call_args.kwargs.get("file_hash", "") == row.digest


def test_figures_are_those_of_the_graph(family: tuple[str, Any]) -> None:
    name, model = family
    spec = get_backbone(f"keras:{name}")
    assert model.input_shape == (None, spec.image_size, spec.image_size, 3)
    assert model.output_shape[-1] == spec.feature_count
    assert model.count_params() == spec.parameters
    last = list_boundaries(model)[-1]
    assert last.multiply_adds_before + last.multiply_adds_after == spec.multiply_adds


def first_input(model: Any) -> Any:
    """From photos to what reaches the first convolution, before any padding."""
    size = model.input_shape[1]
    before = [b for b in list_boundaries(model) if not b.multiply_adds_before]
    return cut(model, [b for b in before if b.shape == (size, size, 3)][-1])[0]


def test_preprocessing_is_that_of_the_family(family: tuple[str, Any]) -> None:
    name, model = family
    size = model.input_shape[1]
    photos = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32)
    found = np.asarray(first_input(model)(photos))
    expected = PREPROCESSING[get_backbone(f"keras:{name}").preprocessing](photos)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    if name in MODULES:
        module = importlib.import_module(f"keras.applications.{MODULES[name]}")
        theirs = module.preprocess_input(photos.copy())
        assert np.abs(found - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_layers_are_those_of_keras_in_its_order(family: tuple[str, Any]) -> None:
    import keras

    name, model = family
    row = ROWS[name]
    plain = getattr(keras.applications, row.builder)(
        include_top=False, weights=None, input_shape=(row.image_size, row.image_size, 3)
    )
    # In front is what we put there; EfficientNet gets what Keras adds only to a download.
    layers = [layer for layer in model.layers if layer.name != "rescaling_1"]
    ours = [(type(layer), [tuple(w.shape) for w in layer.weights]) for layer in layers]
    theirs = [(type(layer), [tuple(w.shape) for w in layer.weights]) for layer in plain.layers]
    assert ours[1 - len(theirs) :] == theirs[1:]
    assert not model.trainable_variables


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(MODULES)))
def test_what_keras_builds_in_is_left_alone(name: str) -> None:
    module = importlib.import_module(
        "keras.applications." + re.sub(r"_(small|b0|s|tiny)$", "", name)
    )
    photos = np.full((1, 2, 2, 3), 200.0, np.float32)
    assert np.array_equal(module.preprocess_input(photos.copy()), photos)


def test_names_do_not_depend_on_what_was_built_before() -> None:
    import keras

    first = load_backbone("keras:inception_v3", weights=None, image_size=75)
    keras.layers.Conv2D(2, 3)(keras.Input((8, 8, 3)))
    second = load_backbone("keras:inception_v3", weights=None, image_size=75)
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert {"conv2d", "conv2d_93"} < {layer.name for layer in first.layers}
    assert [w.path for w in first.weights] == [w.path for w in second.weights]
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)  # random weights are the same every time


def test_the_model_is_plain_keras() -> None:
    import keras

    model = load_backbone("keras:resnet50", weights=None, image_size=32)
    assert type(model).__module__.startswith("keras.")
    again = keras.models.model_from_json(model.to_json())  # in safe mode
    again.set_weights(model.get_weights())
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    assert np.array_equal(model.predict(photos, verbose=0), again.predict(photos, verbose=0))
    ending = keras.Model(model.input, model.get_layer("conv5_block3_out").output)
    assert np.array_equal(ending.predict(photos, verbose=0), model.predict(photos, verbose=0))


def test_photos_that_are_too_small_are_refused() -> None:
    with pytest.raises(BackboneError, match="needs 75 pixels or more, and was made for 299"):
        load_backbone("keras:inception_v3", weights=None, image_size=74)
    with pytest.raises(BackboneError, match="image_size=0 is not possible"):
        load_backbone("keras:vgg16", weights=None, image_size=0)


# ---- weights files


@pytest.fixture(scope="module")
def mobilenet_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights of a plain MobileNetV2 of Keras in three formats."""
    import keras
    from safetensors.numpy import save_file

    from headstart.models.keras_graph import list_arrays

    folder = tmp_path_factory.mktemp("weights")
    plain = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    generator = np.random.default_rng(0)
    plain.set_weights([generator.uniform(0.1, 0.5, w.shape) for w in plain.weights])
    files = {"keras3": folder / "a.weights.h5", "arrays": folder / "a.safetensors"}
    plain.save_weights(files["keras3"])
    save_file(list_arrays(plain), files["arrays"])
    files["keras2"] = write_legacy(plain, folder / "a.h5")
    return files


@pytest.mark.parametrize("kind", ["keras2", "keras3", "arrays"])
def test_weights_files_of_plain_keras_fit(kind: str, mobilenet_files: dict[str, Path]) -> None:
    model = load_backbone("keras:mobilenet_v2", weights=mobilenet_files[kind], image_size=32)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        assert np.array_equal(weight, generator.uniform(0.1, 0.5, weight.shape).astype("float32"))


def test_weights_are_taken_from_the_name(mobilenet_files: dict[str, Path]) -> None:
    file = mobilenet_files["keras3"]
    model = load_backbone(f"keras:mobilenet_v2?weights={file}&image_size=32")
    same = load_backbone("keras:mobilenet_v2", weights=file, image_size=32)
    assert np.array_equal(model.weights[0], same.weights[0])
    random = load_backbone("keras:mobilenet_v2?weights=none&image_size=32")
    assert not np.array_equal(model.weights[0], random.weights[0])


def test_efficientnets_statistics_come_from_the_file_and_are_checked(tmp_path: Path) -> None:
    import keras

    plain = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    file = write_legacy(plain, tmp_path / "b0.h5")
    with pytest.raises(BackboneError, match="was trained with other preprocessing"):
        load_backbone("keras:efficientnet_b0", weights=file, image_size=32)
    normalization = next(la for la in plain.layers if la.name.startswith("normalization"))
    normalization.adapt_mean.assign([0.485, 0.456, 0.406])
    normalization.adapt_variance.assign([0.229, 0.224, 0.225])
    file = write_legacy(plain, tmp_path / "b0.h5")
    model = load_backbone("keras:efficientnet_b0", weights=file, image_size=32)
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    expected = PREPROCESSING["torch"](photos)
    assert np.allclose(first_input(model)(photos), expected, atol=1e-4)


def test_weights_that_do_not_fit_are_refused(
    mobilenet_files: dict[str, Path], tmp_path: Path
) -> None:
    for file in mobilenet_files.values():
        with pytest.raises(BackboneError, match=r"weights of .* do not fit vgg16"):
            load_backbone("keras:vgg16", weights=file, image_size=32)
    for name, text in (("none.h5", "does not exist"), ("", "is a folder")):
        with pytest.raises(BackboneError, match=text):
            load_backbone("keras:vgg16", weights=tmp_path / name)
    (tmp_path / "a.bin").write_bytes(b"weights")
    with pytest.raises(BackboneError, match=r"accepted are \.weights\.h5, \.h5 and"):
        load_backbone("keras:vgg16", weights=tmp_path / "a.bin", image_size=32)
    for suffix in ("h5", "safetensors"):
        (tmp_path / f"a.{suffix}").write_bytes(b"weights")
        with pytest.raises(BackboneError, match="is not a readable"):
            load_backbone("keras:vgg16", weights=tmp_path / f"a.{suffix}", image_size=32)
