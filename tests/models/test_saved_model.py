"""A SavedModel as a Keras layer: its own variables, frozen or trained, saved and written back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved_models

from headstart import attach_head, load_backbone
from headstart.errors import BackboneError, HeadstartError, OutputExistsError
from headstart.models.saved_model import digest_saved_model, save_saved_model
from headstart.models.saved_model.layer import build_layer

PHOTOS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.float32)
TARGETS = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]]

KINDS: dict[str, Callable[[], Path]] = {
    "reusable": saved_models.reusable,
    "module": saved_models.module,
    "keyword_only": saved_models.keyword_only,
    "exported": saved_models.exported,
    "signature": saved_models.signature,
}
TRAINABLE = [kind for kind in KINDS if kind != "signature"]


def load(kind: str) -> Any:
    return load_backbone(f"hub:{KINDS[kind]()}")


def get_layer(backbone: Any) -> Any:
    return backbone.get_layer("saved_model")


def read_variables(layer: Any) -> dict[str, bytes]:
    """Bytes of the SavedModel's own variables."""
    return {v.name: v.numpy().tobytes() for v in layer.network.variables}


def compute_directly(path: Path, photos: Any) -> Any:
    """What the SavedModel gives by itself, without any of our code."""
    import tensorflow as tf

    root = tf.saved_model.load(str(path))
    if hasattr(root, "serve"):
        return root.serve(photos)
    if not callable(root):
        signature = root.signatures["serving_default"]
        return next(
            iter(
                signature(**{signature.structured_input_signature[1].popitem()[0]: photos}).values()
            )
        )
    names = root.__call__.function_spec.fullargspec
    flags = {n: False for n in (*names.args, *names.kwonlyargs) if "training" in n}
    outputs = root(photos, **flags)
    return outputs["default"] if isinstance(outputs, dict) else outputs


@pytest.mark.parametrize("kind", KINDS)
def test_photos_reach_it_in_the_range_of_the_hub(kind: str) -> None:
    backbone = load(kind)
    expected = compute_directly(KINDS[kind](), PHOTOS / 255)
    assert np.allclose(backbone(PHOTOS), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() > 1e-3
    assert backbone.input_shape == (None, 32, 32, 3)
    assert backbone.output_shape == (None, *expected.shape[1:])
    assert [layer.name for layer in backbone.layers] == ["photos", "rescaling", "saved_model"]
    assert not backbone.trainable_variables


def test_another_range_can_be_given() -> None:
    path = saved_models.reusable()
    backbone = load_backbone(f"hub:{path}#input_range=-1..1")
    assert np.allclose(backbone(PHOTOS), compute_directly(path, PHOTOS / 127.5 - 1), atol=1e-5)
    backbone = load_backbone(f"hub:{path}#input_range=0..255")
    assert np.allclose(backbone(PHOTOS), compute_directly(path, PHOTOS), rtol=1e-5)


def test_bytes_are_fed_as_bytes() -> None:
    path = saved_models.module("uint8")
    backbone = load_backbone(f"hub:{path}")
    assert np.allclose(backbone(PHOTOS), compute_directly(path, PHOTOS.astype(np.uint8)), atol=1e-6)
    assert "rescaling" not in [layer.name for layer in backbone.layers]


@pytest.mark.parametrize("kind", KINDS)
def test_variables_are_the_saved_models_own(kind: str) -> None:
    layer = get_layer(load(kind))
    assert layer.weights
    for variable, original in zip(layer.network_variables, layer.network.variables, strict=True):
        assert variable.value is original
    root = layer.network.root
    layer.weights[0].assign(layer.weights[0] + 1)
    assert layer.network.root is root
    changed = layer._forward(PHOTOS[:1] / 255, False)
    assert not np.allclose(changed, compute_directly(KINDS[kind](), PHOTOS[:1] / 255))


# ---- training


def fit(backbone: Any, *, trainable: bool, epochs: int = 2, rate: float = 0.1) -> Any:
    """A classifier on a backbone, fitted by plain Keras with the training flag on."""
    import keras

    backbone.trainable = trainable
    features = backbone.output
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D()(features)
    answer = keras.layers.Dense(2, activation="softmax")(features)
    model = keras.Model(backbone.input, answer)
    model.compile(keras.optimizers.SGD(rate), "categorical_crossentropy")
    model.fit(PHOTOS, TARGETS, epochs=epochs, verbose=0)
    return model


@pytest.mark.parametrize("kind", TRAINABLE)
def test_fine_tuning_changes_its_own_variables_and_no_statistics(kind: str) -> None:
    backbone = load(kind)
    layer = get_layer(backbone)
    before = read_variables(layer)
    fit(backbone, trainable=True)
    after = read_variables(layer)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {variable.name for variable in layer.network.trainable}
    assert len(changed) >= 2
    assert not any("moving" in name for name in changed)
    if kind == "reusable":  # beta is not in the author's choice
        assert {name.partition(":")[0] for name in changed} == {"conv/kernel", "bn/gamma"}


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_nothing_changes_by_a_bit(kind: str) -> None:
    backbone = load(kind)
    before = read_variables(get_layer(backbone))
    fit(backbone, trainable=False)
    assert read_variables(get_layer(backbone)) == before
    model = attach_head(load(kind), num_classes=2)
    model.compile("adam", "categorical_crossentropy")
    frozen = read_variables(get_layer(model.layers[1]))
    model.fit(PHOTOS, TARGETS, verbose=0)
    assert read_variables(get_layer(model.layers[1])) == frozen


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("kind", ["reusable", "keyword_only"])
def test_batchnorm_train_moves_the_statistics_only_where_it_is_trained(
    kind: str, trainable: bool
) -> None:
    layer = build_layer(KINDS[kind](), batchnorm="train")
    layer.trainable = trainable
    before = read_variables(layer)
    layer(PHOTOS / 255, training=False)
    assert read_variables(layer) == before
    layer(PHOTOS / 255, training=True)
    moved = {name for name, value in read_variables(layer).items() if value != before[name]}
    assert {name.partition(":")[0] for name in moved} == (
        {"bn/moving_mean", "bn/moving_variance"} if trainable else set()
    )


def test_dropout_is_off_unless_asked_for() -> None:
    layer = build_layer(saved_models.reusable())
    layer.trainable = True
    first, second = (np.asarray(layer(PHOTOS / 255, training=True)) for _ in range(2))
    assert np.array_equal(first, second)
    layer = build_layer(saved_models.reusable(), batchnorm="train", trainable=True)
    first, second = (np.asarray(layer(PHOTOS / 255, training=True)) for _ in range(2))
    assert not np.array_equal(first, second)


def test_regularisation_losses_are_the_models_while_it_is_trained() -> None:
    backbone = load("reusable")
    kernel = next(v for v in get_layer(backbone).network.variables if v.name == "conv/kernel:0")
    backbone(PHOTOS)
    assert backbone.losses == []
    backbone.trainable = True
    backbone(PHOTOS)
    expected = 0.25 * float(np.square(kernel.numpy()).sum())  # half of the half of l2_loss
    assert [float(loss) for loss in backbone.losses] == pytest.approx([expected])
    backbone.trainable = False
    backbone(PHOTOS)
    assert backbone.losses == []


def test_regularisation_losses_are_part_of_what_fit_minimises() -> None:
    import keras

    backbone = load("reusable")
    backbone.trainable = True
    kernel = next(v for v in get_layer(backbone).network.variables if v.name == "conv/kernel:0")
    before = kernel.numpy()

    # The target is what the network gives: without the loss of the author nothing would change.
    backbone.compile(keras.optimizers.SGD(0.1), "mse")
    backbone.fit(PHOTOS, backbone.predict(PHOTOS, verbose=0), epochs=1, verbose=0)
    assert np.allclose(kernel.numpy(), before * (1 - 0.1 * 0.5), atol=1e-4)


def test_signatures_cannot_be_trained() -> None:
    backbone = load("signature")
    with pytest.raises(BackboneError, match="only a signature for serving") as caught:
        backbone.trainable = True
    assert "Use it frozen" in str(caught.value)
    with pytest.raises(BackboneError, match="only a signature"):
        build_layer(saved_models.signature(), trainable=True)
    before = read_variables(get_layer(backbone))
    fit_head = attach_head(load("signature"), num_classes=2)
    assert len(fit_head.trainable_variables) == 2
    assert read_variables(get_layer(backbone)) == before


def test_without_a_list_of_variables_the_marks_of_tensorflow_count() -> None:
    layer = get_layer(load_backbone(f"hub:{saved_models.reusable(has_list=False)}"))
    names = {variable.name.partition(":")[0] for variable in layer.network.trainable}
    assert names == {"conv/kernel", "bn/gamma", "bn/beta"}
    assert len(layer.weights) == 5


def test_mixed_precision_leaves_it_alone() -> None:
    import keras

    expected = load("reusable")(PHOTOS)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        backbone = load("reusable")
        assert np.array_equal(backbone(PHOTOS), expected)
        assert all(weight.dtype == "float32" for weight in backbone.weights)
    finally:
        keras.config.set_dtype_policy("float32")


# ---- saving

# Keras 3.15 with NumPy 2.4, for every model.
KERAS_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("kind", TRAINABLE)
def test_a_fine_tuned_one_is_written_back_and_trains_again(kind: str, tmp_path: Path) -> None:
    backbone = load(kind)
    model = fit(backbone, trainable=True)
    path = save_saved_model(model, tmp_path / "again")
    assert [p.name for p in tmp_path.iterdir()] == ["again"]
    again = load_backbone(f"hub:{path}")
    tuned = backbone(PHOTOS)
    assert np.allclose(again(PHOTOS), tuned, atol=1e-6)
    assert np.allclose(compute_directly(path, PHOTOS / 255), tuned, rtol=1e-5, atol=1e-6)
    assert not np.allclose(load(kind)(PHOTOS), tuned, atol=1e-4)
    first, second = get_layer(backbone).network, get_layer(again).network
    assert (first.kind, first.has_training) == (second.kind, second.has_training)
    assert [v.name for v in first.trainable] == [v.name for v in second.trainable]
    assert len(first.losses) == len(second.losses)
    before = read_variables(get_layer(again))
    fit(again, trainable=True)
    assert read_variables(get_layer(again)) != before


def test_writing_back_refuses_what_it_cannot(tmp_path: Path) -> None:
    import keras

    backbone = load("reusable")
    path = save_saved_model(backbone, tmp_path / "net")
    with pytest.raises(OutputExistsError, match="exists already"):
        save_saved_model(backbone, path)
    digest = digest_saved_model(path)
    get_layer(backbone).weights[0].assign(get_layer(backbone).weights[0] * 2)
    save_saved_model(backbone, path, force=True)
    assert digest_saved_model(path) != digest
    with pytest.raises(BackboneError, match="contains no SavedModels"):
        save_saved_model(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "other")
    (tmp_path / "file").touch()
    with pytest.raises(HeadstartError, match="could not be written"):
        save_saved_model(backbone, tmp_path / "file" / "net")


@KERAS_WARNS
def test_keras_saves_and_loads_a_model_with_it(tmp_path: Path) -> None:
    import keras

    model = fit(load("reusable"), trainable=True)
    model.save(tmp_path / "model.keras")
    expected = model.predict(PHOTOS, verbose=0)
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.allclose(again.predict(PHOTOS, verbose=0), expected, atol=1e-6)
    assert not np.allclose(load("reusable")(PHOTOS), get_backbone_output(again), atol=1e-4)
    again.fit(PHOTOS, TARGETS, epochs=1, verbose=0)
    assert not np.allclose(again.predict(PHOTOS, verbose=0), expected, atol=1e-4)


def get_backbone_output(model: Any) -> Any:
    import keras

    inner = model.get_layer("saved_model")
    return keras.Model(model.input, inner.output)(PHOTOS)


@KERAS_WARNS
def test_a_changed_saved_model_is_not_taken_for_the_saved_one(tmp_path: Path) -> None:
    import keras

    path = tmp_path / "net"
    shutil.copytree(saved_models.reusable(), path)
    load_backbone(f"hub:{path}").save(tmp_path / "model.keras")
    save_saved_model(fit(load("reusable"), trainable=True), path, force=True)
    with pytest.raises(BackboneError, match="has changed: its digest is"):
        keras.saving.load_model(tmp_path / "model.keras")
    shutil.rmtree(path)
    with pytest.raises(BackboneError, match="is not there any more"):
        keras.saving.load_model(tmp_path / "model.keras")


def test_keras_exports_a_model_with_it(tmp_path: Path) -> None:
    import tensorflow as tf

    model = attach_head(load("reusable"), num_classes=2)
    model.export(str(tmp_path / "exported"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))  # its functions do not keep it alive
    assert np.allclose(loaded.serve(PHOTOS), model(PHOTOS), atol=1e-6)


def test_another_process_gives_the_same(tmp_path: Path) -> None:
    path = save_saved_model(fit(load("reusable"), trainable=True), tmp_path / "tuned")
    np.save(tmp_path / "photos.npy", PHOTOS)
    code = (
        "import numpy, headstart, sys\n"
        f"backbone = headstart.load_backbone({f'hub:{path}'!r})\n"
        f"numpy.save({str(tmp_path / 'out.npy')!r}, "
        f"backbone(numpy.load({str(tmp_path / 'photos.npy')!r})))\n"
        "assert 'tensorflow_hub' not in sys.modules and 'tf_keras' not in sys.modules"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=600)
    expected = load_backbone(f"hub:{path}")(PHOTOS)
    assert np.allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)


# ---- input and output


def test_size_and_output_come_from_the_signature() -> None:
    open_size = f"hub:{saved_models.reusable(None)}"
    assert load_backbone(open_size).input_shape == (None, 224, 224, 3)
    assert load_backbone(open_size, image_size=48).input_shape == (None, 48, 48, 3)
    assert load_backbone(f"{open_size}#image_size=40").input_shape == (None, 40, 40, 3)
    with pytest.raises(BackboneError, match="takes photos of 32 pixels only, not of 48"):
        load_backbone(f"hub:{saved_models.reusable()}", image_size=48)
    assert load("module").output_shape == (None, 16, 16, 8)


def test_the_features_are_chosen_among_outputs() -> None:
    several, keyed = saved_models.several_outputs(), saved_models.keyword_only()
    with pytest.raises(BackboneError, match=r"has the outputs 0 \(2, 8\), 1 \(2, 16, 16, 8\)"):
        load_backbone(f"hub:{several}")
    assert load_backbone(f"hub:{several}#output=1").output_shape == (None, 16, 16, 8)
    assert load_backbone(f"hub:{keyed}").output_shape == (None, 8)  # Hub's "default"
    assert load_backbone(f"hub:{keyed}#output=small").output_shape == (None, 8, 8, 8)
    with pytest.raises(BackboneError, match=r"default \(2, 8\), map .* Say which"):
        load_backbone(f"hub:{keyed}#output=pooled")
    with pytest.raises(BackboneError, match="one output without a name"):
        load_backbone(f"hub:{saved_models.reusable()}#output=pooled")


def _as_logits(x: Any) -> Any:
    import tensorflow as tf

    return tf.tile(tf.reduce_mean(x, [1, 2, 3], keepdims=False)[:, None], [1, 1001])


def _as_sequence(x: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(x, [-1, 256, 8])


def _as_sum(x: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_sum(x, 0)[0]


def test_outputs_that_are_no_features_are_refused() -> None:
    logits = saved_models.with_output(_as_logits, "logits")
    with pytest.raises(BackboneError, match="1001 numbers, which is what a classifier") as caught:
        load_backbone(f"hub:{logits}")
    assert "feature_vector" in str(caught.value)
    assert load_backbone(f"hub:{logits}#output=logits").output_shape == (None, 1001)
    for make in (_as_sequence, _as_sum):
        with pytest.raises(BackboneError, match="needed is a vector"):
            load_backbone(f"hub:{saved_models.with_output(make, 'odd')}")


def test_inputs_that_are_no_photos_are_refused() -> None:
    with pytest.raises(BackboneError, match="takes exactly 1 photos at a time"):
        load_backbone(f"hub:{saved_models.module(batch=1)}")
    with pytest.raises(BackboneError, match=r"no reusable function of one batch of photos.*int32"):
        load_backbone(f"hub:{saved_models.module('int32')}")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("image_sise=3", "'image_sise' in .* is not a known option. Did you mean image_size"),
        ("image_size=big", "image_size=big in .* is not a number of pixels"),
        ("image_size=0", "is not a number of pixels"),
        ("sha256=12", "is not 64 hexadecimal digits"),
        ("input_range=1", "is not a range from black to white"),
        ("input_range=1..0", "is not a range from black to white"),
        ("sha256=" + "0" * 64, "is a folder; sha256= is checked of archives"),
    ],
)
def test_wrong_options_are_named(option: str, sentence: str) -> None:
    with pytest.raises(BackboneError, match=sentence):
        load_backbone(f"hub:{saved_models.reusable()}#{option}")


def test_a_path_may_have_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "net #2"
    shutil.copytree(saved_models.reusable(), path)
    assert load_backbone(f"hub:{path}").output_shape == (None, 8)
    assert load_backbone(f"hub:{path}").name == "net_2"


def test_other_weights_and_no_name_are_refused() -> None:
    with pytest.raises(BackboneError, match="brings its own weights"):
        load_backbone(f"hub:{saved_models.reusable()}", weights=None)
    with pytest.raises(BackboneError, match="names no SavedModel"):
        load_backbone("hub:")
    with pytest.raises(BackboneError, match="batchnorm='on' is not known"):
        build_layer(saved_models.reusable(), batchnorm="on")


def test_the_digest_follows_the_contents_only(tmp_path: Path) -> None:
    source = saved_models.reusable()
    copy = tmp_path / "elsewhere"
    shutil.copytree(source, copy)
    assert digest_saved_model(copy) == digest_saved_model(source)
    data = next((copy / "variables").glob("*.data*"))
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    assert digest_saved_model(copy) != digest_saved_model(source)
    with pytest.raises(BackboneError, match="cannot be read"):
        digest_saved_model(tmp_path / "nothing")


def test_the_command_shows_where_it_can_be_cut(capsys: pytest.CaptureFixture[str]) -> None:
    from headstart.cli.backbones import _show_one

    _show_one(f"hub:{saved_models.reusable()}", False)
    assert "boundary" in capsys.readouterr().out
    with pytest.raises(BackboneError, match="nowhere"):
        _show_one("hub:nowhere", False)
