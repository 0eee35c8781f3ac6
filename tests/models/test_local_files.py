"""``local:`` files: whole models, weights, bundles; and what is refused, without being run."""

from __future__ import annotations

import copy
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_time

from headstart import list_boundaries, load, load_backbone
from headstart.errors import BackboneError
from headstart.models.keras_graph import list_arrays
from headstart.models.loaders import load_prefix
from headstart.models.preprocessing import PREPROCESSING

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PHOTOS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)


def make_model(*top: Any, size: int | None = 32, inner: bool = False) -> Any:
    """Two convolutions, then what is given."""
    import keras

    layers = keras.layers
    photos = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 255)(photos)
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="first")(x)
    block = [layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization(), layers.ReLU()]
    if inner:
        x = keras.Sequential(block, name="block")(x)
        block = []
    for layer in (*block, *top):
        x = layer(x)
    return keras.Model(photos, x)


def save(model: Any, path: Path) -> Path:
    model.save(path)
    return path


def change_config(path: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a .keras file with another configuration."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    result = change(config)
    result = config if result is None else result
    members["config.json"] = json.dumps(result).encode()
    changed = path.with_name("changed.keras")
    with zipfile.ZipFile(changed, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return changed


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model(), tmp_path_factory.mktemp("local") / "mine.keras")


def test_a_whole_model_gives_the_same_features(backbone_file: Path) -> None:
    import keras

    model = load_backbone(f"local:{backbone_file}")
    expected = keras.models.load_model(backbone_file).predict(PHOTOS, verbose=0)
    assert np.allclose(model.predict(PHOTOS, verbose=0), expected, atol=1e-6)
    assert (model.name, model.trainable) == ("mine", False)
    assert model.input_shape == (None, 32, 32, 3)
    assert "first" in [boundary.name for boundary in list_boundaries(model)]


def test_inner_models_are_unfolded(tmp_path: Path) -> None:
    path = save(make_model(inner=True), tmp_path / "a.keras")
    model = load_backbone(f"local:{path}")
    assert [type(layer).__name__ for layer in model.layers[-3:]] == [
        "Conv2D", "BatchNormalization", "ReLU"
    ]  # fmt: skip


def test_preprocessing_is_put_in_front_when_it_is_asked_for(backbone_file: Path) -> None:
    import keras

    whole = keras.models.load_model(backbone_file)
    for kind in ("tf", "caffe"):
        model = load_backbone(f"local:{backbone_file}?preprocessing={kind}")
        expected = whole.predict(PREPROCESSING[kind](PHOTOS), verbose=0)
        assert np.allclose(model.predict(PHOTOS, verbose=0), expected, atol=1e-5)
    with pytest.raises(BackboneError, match=r"'tfx' is not known\. Did you mean tf"):
        load_backbone(f"local:{backbone_file}?preprocessing=tfx")


def test_another_size_is_built_where_the_network_allows_it(
    backbone_file: Path, tmp_path: Path
) -> None:
    assert load_backbone(f"local:{backbone_file}", image_size=48).output_shape[1:] == (23, 23, 6)
    free = save(make_model(size=None), tmp_path / "free.keras")
    assert load_backbone(f"local:{free}").input_shape == (None, 224, 224, 3)
    assert load_backbone(f"local:{free}?image_size=40").input_shape == (None, 40, 40, 3)


def tops() -> dict[str, tuple[list[Any], tuple[int, ...], str]]:
    """By case: the top, the shape that remains, the last layer that remains."""
    from keras import layers

    dense = layers.Dense
    return {
        "pooled": ([layers.GlobalAveragePooling2D(), layers.Dropout(0.2), dense(3, "softmax")],
                   (15, 15, 6), "ReLU"),
        "flattened": ([layers.Flatten(), dense(8, "relu"), dense(3), layers.Softmax()],
                      (15, 15, 6), "ReLU"),
        "max": ([layers.GlobalMaxPooling2D(), layers.BatchNormalization(), dense(3)],
                (6,), "GlobalMaxPooling2D"),
        "mobilenet": ([layers.GlobalAveragePooling2D(keepdims=True), layers.Dropout(0.1),
                       layers.Conv2D(3, 1), layers.Reshape((3,)), layers.Activation("softmax")],
                      (15, 15, 6), "ReLU"),
        "embedding": ([layers.GlobalAveragePooling2D()], (6,), "GlobalAveragePooling2D"),
        "tokens": ([layers.Reshape((225, 6)), layers.GlobalAveragePooling1D(), layers.Dropout(0.1),
                    dense(3, "softmax")], (6,), "GlobalAveragePooling1D"),
    }  # fmt: skip


@pytest.mark.parametrize("case", ["pooled", "flattened", "max", "mobilenet", "embedding", "tokens"])
def test_the_top_is_found_and_left_out(case: str, tmp_path: Path) -> None:
    top, shape, last = tops()[case]
    path = save(make_model(*top), tmp_path / "a.keras")
    model = load_backbone(f"local:{path}")
    assert model.output_shape[1:] == shape
    assert type(model.layers[-1]).__name__ == last


@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV3Small",
        pytest.param(
            "ConvNeXtTiny",
            marks=needs_time,
        ),
    ],
)
def test_networks_of_keras_with_their_tops_load_and_are_cut(name: str, tmp_path: Path) -> None:
    import keras

    whole = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=5, include_top=True
    )
    model = load_backbone(f"local:{save(whole, tmp_path / f'{name}.keras')}")
    assert model.output_shape[-1] == 768 or name == "MobileNetV3Small"
    assert not any(w.shape[-1] == 5 for w in model.weights)


# ---- weights and bundles


def test_weights_with_an_architecture(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    source = load_backbone("keras:mobilenet", weights=None, image_size=32)
    source.set_weights([np.full(w.shape, 0.5, np.float32) for w in source.weights])
    source.save_weights(tmp_path / "a.weights.h5")
    save_file(list_arrays(source), tmp_path / "a.safetensors")
    for name in ("a.weights.h5", "a.safetensors"):
        path = f"local:{tmp_path / name}?architecture=mobilenet&image_size=32"
        for spelt in (path, path.replace("=mobilenet", "=keras:mobilenet")):
            assert all((np.asarray(w) == 0.5).all() for w in load_backbone(spelt).weights)
        with pytest.raises(BackboneError, match="Did you mean keras:mobilenet"):
            load_backbone(path.replace("=mobilenet", "=mobilenett"))
    with pytest.raises(BackboneError, match=r"a\.weights\.h5\?architecture="):
        load_backbone(f"local:{tmp_path / 'a.weights.h5'}")


def test_the_backbone_of_a_bundle(trained_bundle: Path, tmp_path: Path) -> None:
    model = load_backbone(f"local:{trained_bundle}")
    expected = list_arrays(load_backbone("efficientnet-lite0"))
    found = list_arrays(model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    classifier = load(trained_bundle)
    assert classifier.model.count_params() > model.count_params()
    damaged = tmp_path / "a.headstart"
    damaged.write_bytes(trained_bundle.read_bytes()[:5000])
    with pytest.raises(BackboneError, match="cannot be read"):
        load_backbone(f"local:{damaged}")


def test_what_is_not_there_or_nothing_known_is_named(tmp_path: Path, backbone_file: Path) -> None:
    (tmp_path / "a.pt").touch()
    for name, text in (
        ("a.pt", "is none of these"),
        ("missing", "does not exist"),
        ("missing.keras", "does not exist"),
    ):
        with pytest.raises(BackboneError, match=text):
            load_backbone(f"local:{tmp_path / name}")
    with pytest.raises(BackboneError, match="names its own weights"):
        load_backbone(f"local:{backbone_file}", weights="other.h5")
    for data in (b"", b"PK\x03\x04 no zip"):
        (tmp_path / "bad.keras").write_bytes(data)
        with pytest.raises(BackboneError, match="cannot be read"):
            load_backbone(f"local:{tmp_path / 'bad.keras'}")


# ---- files from strangers


def _nest(depth: int) -> Any:
    return {"a": _nest(depth - 1)} if depth else {}


# By case: what the last layer of the configuration becomes, and what the refusal names. All but the
# last few are the ways of published vulnerabilities; MARKER stands for a file to be touched.
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "lambda": ({"class_name": "Lambda"}, "keras.layers.Lambda"),
    "lambda value": (
        {"config": {"activation": {"class_name": "__lambda__", "config": {"value": "MARKER"}}}},
        "__lambda__",
    ),
    "CVE-2025-1550": (
        {"module": "os", "class_name": "function", "config": "system", "args": "touch MARKER"},
        "os.function",
    ),
    "CVE-2025-8747": (
        {"module": "keras.utils", "class_name": "function", "config": "get_file"},
        "keras.utils.function",
    ),
    "CVE-2025-9906": (
        {"module": "keras.config", "class_name": "enable_unsafe_deserialization"},
        "enable_unsafe_deserialization",
    ),
    "CVE-2025-49655": ({"class_name": "TorchModuleWrapper"}, "TorchModuleWrapper"),
    "CVE-2026-1462": ({"class_name": "TFSMLayer", "config": {"filepath": "/"}}, "TFSMLayer"),
    "vocabulary": (
        {"class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
        "StringLookup",
    ),
    "statistics": (
        {"class_name": "Normalization", "config": {"mean": "/etc/passwd"}},
        "whose statistics are a file",
    ),
    "registered": ({"registered_name": "stranger>ReLU"}, "stranger>ReLU"),
    "own module": ({"module": "my_package.layers"}, "my_package.layers.ReLU"),
    "no module": ({"module": None}, "None.ReLU"),
    "activation": ({"config": {"activation": "os.system"}}, "os.system"),
    "deep": ({"config": _nest(200)}, "nesting"),
}


def copy_to(path: Path, folder: Path) -> Path:
    copied = folder / path.name
    copied.write_bytes(path.read_bytes())
    return copied


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_configurations_are_refused(case: str, backbone_file: Path, tmp_path: Path) -> None:
    update, named = HOSTILE[case]
    marker = tmp_path / "marker"
    update = json.loads(json.dumps(update).replace("MARKER", str(marker)))

    def change(config: Any) -> None:
        config["config"]["layers"][-1].update(update)

    path = change_config(copy_to(backbone_file, tmp_path), change)
    with pytest.raises(BackboneError) as caught:
        load_backbone(f"local:{path}")
    assert "is refused" in str(caught.value)
    assert named in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("config", [[], {"class_name": "Evil", "module": "my_package"}, "x"])
def test_models_of_other_classes_are_refused(
    config: Any, backbone_file: Path, tmp_path: Path
) -> None:
    path = change_config(copy_to(backbone_file, tmp_path), lambda _: config)
    with pytest.raises(BackboneError, match="the model's class"):
        load_backbone(f"local:{path}")


def test_what_the_optimizer_says_is_not_read(backbone_file: Path, tmp_path: Path) -> None:
    local = copy_to(backbone_file, tmp_path)

    def add(config: Any) -> None:
        config["compile_config"] = {"optimizer": "adam", "loss": "mse"}

    model = load_backbone(f"local:{change_config(local, add)}")
    assert not model.compiled


def test_a_compiled_model_in_a_compiled_model_is_read(tmp_path: Path) -> None:
    import keras

    inner = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3)], name="inner")
    photos = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inner(photos))
    whole = keras.Model(photos, keras.layers.Dense(2, activation="softmax")(pooled))
    for model in (inner, whole):
        model.compile(keras.optimizers.Adam(1e-4), loss=keras.losses.CategoricalCrossentropy())
    whole.fit(np.zeros((2, 32, 32, 3)), np.eye(2), verbose=0)
    whole.save(tmp_path / "a.keras")
    loaded = load_backbone(f"local:{tmp_path / 'a.keras'}")
    assert loaded.output_shape == (None, 30, 30, 4)
    kernels = [v.value.numpy() for v in loaded.variables if v.name == "kernel"]
    assert np.array_equal(kernels[0], inner.layers[0].kernel.value.numpy())
    with pytest.warns(UserWarning, match="ends in probabilities, which are taken"):
        assert load_prefix(whole).shape == (2,)
    with warnings.catch_warnings(action="error"):
        assert load_prefix(loaded).shape == (4,)
    with pytest.raises(BackboneError, match="load_backbone takes a name, not Functional"):
        load_backbone(whole)  # type: ignore[arg-type]


def test_a_network_larger_than_its_weights_is_refused_before_it_is_built(
    backbone_file: Path, tmp_path: Path
) -> None:
    local = copy_to(backbone_file, tmp_path)

    def grow(config: Any) -> None:
        layers = config["config"]["layers"]
        for layer in layers:
            if layer["class_name"] == "Conv2D":
                layer["config"]["filters"] = 10**6  # 9 * 10**12 parameters
            layer.pop("build_config", None)

    with pytest.raises(BackboneError, match="parameters, but the file holds only"):
        load_backbone(f"local:{change_config(local, grow)}")


def write_h5(path: Path, fill: Callable[[Any], Any]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        fill(file)
    return path


def test_hostile_arrays_are_refused(tmp_path: Path) -> None:
    import h5py

    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(400))

    def external(file: Any) -> None:
        file.create_dataset("a", (100,), "f4", external=[(str(secret), 0, 400)])

    def huge(file: Any) -> None:
        file.create_dataset("a", (10**6, 10**6), "f4", chunks=(10, 10))

    def linked(file: Any) -> None:
        file["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")

    def soft(file: Any) -> None:
        file["a"] = h5py.SoftLink("/b")

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((100,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (100,))
        file.create_virtual_dataset("a", layout)

    def text(file: Any) -> None:
        file.create_dataset("a", data=np.array([b"x"], object), dtype=h5py.string_dtype())

    for fill, named in (
        (external, "data in another file"), (virtual, "data in another file"),
        (huge, "declares 4,000,000,000,000 bytes"), (linked, "is a link"), (soft, "is a link"),
        (text, "is of the type object"),
    ):  # fmt: skip
        path = write_h5(tmp_path / f"{fill.__name__}.weights.h5", fill)
        with pytest.raises(BackboneError, match="is refused: its member /a") as caught:
            load_backbone("keras:vgg16", weights=path, image_size=32)
        assert named in str(caught.value)


def test_the_checks_accept_what_keras_writes(backbone_file: Path) -> None:
    from headstart.models.keras_config import check_config

    with zipfile.ZipFile(backbone_file) as archive:
        config = json.loads(archive.read("config.json"))
    before = copy.deepcopy(config)
    del before["compile_config"]
    check_config(config, "mine.keras")
    assert config == before
