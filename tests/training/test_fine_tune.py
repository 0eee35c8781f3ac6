"""The stage from photos to the bundle: choices, equality, going on, bad settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import CLASSES, write_digits

import headstart
from headstart import ImageClassifier
from headstart.data.decode import decode_photo
from headstart.errors import BoundaryError, BundleError, HeadstartError
from headstart.features.activations import open_activations
from headstart.models.boundary import change_weights, cut, cut_prefix, get_boundary
from headstart.models.loaders import load_backbone, load_prefix
from headstart.recipe import RECIPES, FineTune, Recipe, choose_recipe
from headstart.training.fine_tune import build_network
from headstart.training.interpolate import choose_share
from headstart.training.objective import encode_classes

QUICK = {"unfreeze": "last_block", "epochs": 2, "views": 2, "learning_rate": 1e-4, "batch_size": 16}


def recipe(**settings: Any) -> Recipe:
    return choose_recipe("tune", **{**QUICK, **settings})


def read_pixels(paths: list[Path], size: int = 224) -> np.ndarray:
    return np.stack([decode_photo(path.read_bytes(), size) for path in paths]).astype(np.float32)


@pytest.fixture(scope="module")
def tuned(digits_folder: Path, cache: Path) -> Any:
    """Fine-tuned without photos held out, so that it is surely changed."""
    seen: list[Any] = []
    classifier = ImageClassifier(recipe=recipe(holdout=0.0))
    classifier.fit(digits_folder, callbacks=[seen.append])
    classifier.seen = seen
    return classifier


def test_the_bundle_predicts_what_the_model_does_and_the_report_says(
    tuned: Any, trained: Any, digits_folder: Path, tmp_path: Path
) -> None:
    paths = sorted(digits_folder.glob("*/*.png"))[::7]
    loaded = headstart.load(tuned.save(tmp_path / "a.headstart"))
    found = loaded.predict_proba(paths)
    assert np.abs(found - trained.predict_proba(paths)).max() > 1e-3, "training changed something"
    for model in (tuned.model, loaded.model):
        np.testing.assert_allclose(model.predict(read_pixels(paths), verbose=0), found, atol=1e-4)
    assert [(e.run, e.number, e.epochs) for e in tuned.seen] == [
        ("all photos", 1, 2),
        ("all photos", 2, 2),
    ]
    record = loaded.bundle.manifest["fine_tune"]
    assert (record["boundary"], record["share"]) == ("block6d_add", 1.0)
    assert record["cached_bytes"] == 2 * 7 * 7 * 192 * 2 * tuned.bundle.manifest["samples"]["train"]
    assert "whether it helped is not known" in record["says"]
    trainable = {row["name"]: row["trainable"] for row in record["parameters"] if row["trainable"]}
    assert trainable == {"block7a": 1009792, "(head)": 1280 * len(CLASSES) + len(CLASSES)}


def test_prediction_needs_no_tensorflow(tuned: Any, digits_folder: Path, tmp_path: Path) -> None:
    bundle = tuned.save(tmp_path / "a.headstart")
    photo = next(digits_folder.glob("*/*.png"))
    code = (
        "import sys, headstart\n"
        f"print(headstart.load({str(bundle)!r}).predict([{str(photo)!r}])[0])\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tuned.predict([photo])[0]


def test_frozen_weights_are_the_pretrained_ones(tuned: Any) -> None:
    before = load_prefix("efficientnet-lite0").load_weights
    assert before is not None
    pretrained, after = before(), tuned.tuning.arrays
    changed = {name for name in after if (after[name] != pretrained[name]).any()}
    assert {name.split("/")[0] for name in changed} == set(tuned.tuning.unfreeze.layers)


def test_the_same_seed_gives_the_same_bundle(
    tuned: Any, digits_folder: Path, empty_cache: Path
) -> None:
    """Computed again, not read."""
    again = ImageClassifier(recipe=recipe(holdout=0.0)).fit(digits_folder)
    assert dict(again.bundle.members) == dict(tuned.bundle.members)
    assert again.bundle.manifest == tuned.bundle.manifest


@pytest.mark.parametrize("name", ["keras:mobilenet?weights=none&image_size=32", None])
def test_what_is_trained_is_nobody_elses(name: str | None, tuned: Any) -> None:
    """Else a probe that is kept would be saved with weights that were trained in vain."""
    prefix = load_prefix(name or "efficientnet-lite0")
    if name is None:  # as `fit(initial=...)` has it
        prefix = change_weights(prefix, tuned.tuning.backbone, tuned.tuning.arrays)
    backbone = prefix.build_model()
    network = build_network(prefix, FineTune(**QUICK), 2, 8)
    assert network is not None
    before = [weight.numpy().copy() for weight in backbone.weights]
    assert all(map(np.array_equal, before, network.backbone.weights))
    for variable in network.variables:
        variable.assign(variable + 1)
    assert all(map(np.array_equal, before, backbone.weights))
    assert not backbone.trainable


def test_going_on_from_a_classifier_leaves_it_as_it_is(tuned: Any, digits_folder: Path) -> None:
    before = {name: array.copy() for name, array in tuned.tuning.arrays.items()}
    backbone = [weight.numpy().copy() for weight in tuned.tuning.backbone.weights]
    more = ImageClassifier(recipe=recipe(holdout=0.0)).fit(digits_folder, initial=tuned)
    assert any((more.tuning.arrays[name] != before[name]).any() for name in before)
    assert all(np.array_equal(array, before[name]) for name, array in tuned.tuning.arrays.items())
    now = [weight.numpy() for weight in tuned.tuning.backbone.weights]
    assert all(map(np.array_equal, now, backbone))


def test_going_on_from_a_bundle_with_a_new_class(
    tuned: Any, digits_folder: Path, tmp_path: Path
) -> None:
    folder = write_digits(tmp_path / "photos", (*CLASSES, "7"), 8)
    bundle = tuned.save(tmp_path / "a.headstart")
    more = ImageClassifier().fit(folder, initial=bundle)
    assert list(more.classes_) == [*CLASSES, "7"]
    assert more.bundle.manifest["backbone"]["weights_digest"] != (
        load_prefix("efficientnet-lite0").weights_digest
    )
    paths = sorted(folder.glob("*/*.png"))[::5]
    found = more.predict_proba(paths)
    np.testing.assert_allclose(more.model.predict(read_pixels(paths), verbose=0), found, atol=1e-4)
    with pytest.raises(BundleError, match="has the backbone efficientnet-lite0, this one has"):
        ImageClassifier("efficientnet-lite1").fit(folder, initial=bundle)


def test_activations_are_computed_once_and_shared_by_what_was_tuned_after_them(
    tuned: Any, few_digits: Path, empty_cache: Path
) -> None:
    from headstart.data.scan import scan_folder

    prefix, manifest = load_prefix("efficientnet-lite0"), scan_folder(few_digits)
    backbone = load_backbone()
    boundary = get_boundary(backbone, "block6d_add")
    ends = cut_prefix(prefix, boundary, backbone)
    after = cut_prefix(prefix, boundary, tuned.tuning.backbone)
    assert after.weights_digest == ends.weights_digest
    earlier = get_boundary(backbone, "block6c_add")
    assert cut_prefix(prefix, earlier, backbone).weights_digest != ends.weights_digest
    first = open_activations(ends, manifest, views=3)
    told: list[tuple[int, int]] = []
    again = open_activations(ends, manifest, views=3, progress=lambda *of: told.append(of))
    assert told[-1] == (3 * len(manifest.samples),) * 2  # also where all of them are cached
    more = open_activations(ends, manifest, views=4)
    count = len(manifest.samples)
    assert again.forwarded == 0
    assert more.forwarded == count
    assert first.views == 3
    assert again.bytes == count * 3 * 7 * 7 * 192 * 2
    rows = np.arange(count)
    mixed = again.read(rows, rows % 3)
    for row in rows[:4]:
        np.testing.assert_array_equal(mixed[row], again.rows[row % 3].read(np.array([row]))[0])
    other = open_activations(ends, manifest, views=3, seed=1)
    assert (other.read(rows) == again.read(rows)).all(), "view 0 has no seed"
    assert (other.read(rows, 2) != again.read(rows, 2)).any()
    whole = cut(backbone, boundary)[0]
    reference = np.asarray(whole(read_pixels([s.path for s in again.samples])))
    error = np.linalg.norm(again.read(rows) - reference) / np.linalg.norm(reference)
    assert error < 2e-3


def make_own_model(size: int = 64) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = photos = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    for block in (1, 2, 3):
        x = keras.layers.Conv2D(8 * block, 3, 2, "same", name=f"block{block}_conv")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    return keras.Model(photos, x, name="own")


@pytest.mark.parametrize("unfreeze", ["last_block", "all"])
def test_a_model_of_ones_own_is_tuned_and_left_as_it_was(
    unfreeze: str, digits_folder: Path
) -> None:
    own = make_own_model()
    before = [w.copy() for w in own.get_weights()]
    classifier = ImageClassifier(own, recipe=recipe(unfreeze=unfreeze, holdout=0.0))
    classifier.fit(digits_folder)
    assert all((a == b).all() for a, b in zip(before, own.get_weights(), strict=True))
    assert classifier.tuning is not None
    assert (classifier.tuning.cached_bytes == 0) == (unfreeze == "all")
    paths = sorted(digits_folder.glob("*/*.png"))[::9]
    np.testing.assert_allclose(
        classifier.model.predict(read_pixels(paths, 64), verbose=0),
        classifier.predict_proba(paths),
        atol=1e-4,
    )


def test_what_is_not_likely_to_help_is_not_done(digits_folder: Path, trained: Any) -> None:
    classifier = ImageClassifier(recipe=recipe(epochs=1, learning_rate=1e-9)).fit(digits_folder)
    assert classifier.tuning is not None
    assert classifier.tuning.share == 0.0
    assert "the probe is kept" in classifier.tuning.says
    assert dict(classifier.bundle.members) == dict(trained.bundle.members)


def test_a_rate_that_diverges_keeps_the_probe_and_says_so(
    digits_folder: Path, trained: Any
) -> None:
    classifier = ImageClassifier(
        recipe=recipe(learning_rate=900.0, optimizer="sgd", holdout=0.0, epochs=4)
    ).fit(digits_folder)
    assert classifier.tuning is not None
    assert "diverged (learning rate 900)" in classifier.tuning.says
    assert dict(classifier.bundle.members) == dict(trained.bundle.members)


def test_two_photos_in_a_class_are_a_handled_case(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "photos", ("0", "1"), 6)
    write_digits(folder, ("2",), 3)
    classifier = ImageClassifier(recipe=recipe(epochs=1)).fit(folder)
    assert np.isfinite(classifier.predict_proba(sorted(folder.glob("*/*.png")))).all()


def test_bad_settings_are_refused_before_training(digits_folder: Path) -> None:
    with pytest.raises(BoundaryError, match="Did you mean block7a"):
        ImageClassifier(unfreeze="blok7a").fit(digits_folder)
    for settings, says in (
        ({"epochs": 0}, "epochs is 0; accepted are whole numbers from 1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; accepted are numbers from 1e-09"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"optimizer": "adam"}, "optimizer is 'adam'"),
        ({"batchnorm": "trian"}, "batchnorm is 'trian'. Did you mean train"),
        ({"views": True}, "views is True"),
        ({"epoch": 3}, "'epoch' is not a setting of fine-tuning. Did you mean epochs"),
    ):
        with pytest.raises(HeadstartError, match=says):
            choose_recipe("tune", **settings)


def test_recipes_survive_json() -> None:
    chosen = recipe(unfreeze=4, learning_rates=(1e-3, 1e-4))
    assert Recipe.from_json(chosen.to_json()) == chosen
    import json

    assert Recipe.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen
    assert Recipe.from_json(RECIPES["probe"].to_json()) == RECIPES["probe"]
    with pytest.raises(HeadstartError, match="Did you mean epochs"):
        Recipe.from_json({"fine_tune": {"epoch": 1}})
    assert FineTune(learning_rates=[1e-3]).learning_rates == (1e-3,)  # type: ignore[arg-type]


def test_the_interpolation_is_chosen_by_what_is_likely() -> None:
    labels = np.arange(120) % 3
    rng = np.random.default_rng(0)
    noise, truth = rng.normal(size=(120, 3)), np.eye(3)[labels]
    groups, targets = list(map(str, range(120))), encode_classes(labels, 3)
    logits = [truth * strength + noise for strength in (1.0, 1.5, 3.0, 2.0, 1.2)]
    share, gain = choose_share(logits, targets, groups, 0)
    assert share == 0.5
    assert gain.low <= gain.tuned - gain.probe <= gain.high
    assert gain.probability > 0.95
    # Ten times as sure is not better or worse: the temperature takes it away.
    again, _ = choose_share([10 * logits[0], *logits[1:]], targets, groups, 0)
    assert again == 0.5
    found = []
    for seed in range(30):
        fresh = np.random.default_rng(seed).normal(size=(120, 3))
        other = truth + 0.95 * noise + 0.3 * fresh  # as good as the first
        share, gain = choose_share([logits[0], other], targets, groups, 0, (0.0, 1.0))
        found.append(gain.probability)
        assert (share == 1.0) == (gain.probability >= 0.8)
    assert any(0 < probability < 0.8 for probability in found), "better, but not likely so"


def test_a_dataset_is_as_its_arrays(digits_folder: Path) -> None:
    import tensorflow as tf

    from headstart.errors import DatasetError

    paths = sorted(digits_folder.glob("*/*.png"))
    pixels, labels = read_pixels(paths, 64), [int(path.parent.name) for path in paths]
    arrays = ImageClassifier().fit(pixels.astype(np.uint8), labels)
    for dataset in (
        tf.data.Dataset.from_tensor_slices((pixels, labels)),
        tf.data.Dataset.from_tensor_slices((pixels, tf.one_hot(labels, 4))).batch(7),
    ):
        found = ImageClassifier().fit(dataset)
        assert list(found.classes_) == list(CLASSES)
        assert dict(found.bundle.members) == dict(arrays.bundle.members)
    scaled = 2 * (pixels - pixels[0].min()) / np.ptp(pixels[0]) - 1  # the first is seen first
    for wrong, says in (
        (tf.data.Dataset.from_tensor_slices(pixels), "no pairs"),
        (tf.data.Dataset.from_tensor_slices((scaled, labels)), "go from -1 to 1"),
        (tf.data.Dataset.from_tensor_slices((pixels[0, 0], labels[:64])), "The dataset gives"),
    ):
        with pytest.raises(DatasetError, match=says):
            ImageClassifier().fit(wrong)


def test_fewer_right_answers_are_no_gain() -> None:
    """Photos that are right become surer by much, and a few that were right become wrong."""
    labels = np.arange(200) % 2
    sure = np.where(np.arange(200) % 10 == 0, -0.01, 6.0)  # a tenth is narrowly wrong
    before = np.where(np.arange(200) % 20 == 0, -0.01, 0.5)  # a twentieth is
    logits = [np.eye(2)[labels] * margin[:, None] for margin in (before, sure)]
    groups, targets = [str(row) for row in range(200)], encode_classes(labels, 2)
    assert choose_share(logits, targets, groups, 0, (0.0, 1.0))[0] == 0.0
    better = np.where(np.arange(200) % 20 == 0, -0.01, 6.0)
    logits[1] = np.eye(2)[labels] * better[:, None]
    assert choose_share(logits, targets, groups, 0, (0.0, 1.0))[0] == 1.0


@pytest.mark.parametrize("rates", [(), (-1.0,), ("a",), (True,), (1e-3, float("nan"))])
def test_rates_that_cannot_be_swept_are_refused(rates: Any) -> None:
    with pytest.raises(HeadstartError, match=r"learning_rates is .* one or more numbers from"):
        FineTune(learning_rates=rates)


def test_a_callback_of_keras_is_refused_before_any_work(digits_folder: Path) -> None:
    callback = keras.callbacks.EarlyStopping()
    for start in (
        lambda: ImageClassifier(recipe=recipe()).fit(digits_folder, callbacks=[callback]),
        lambda: headstart.fine_tune("efficientnet-lite0", digits_folder, callbacks=[callback]),
    ):
        with pytest.raises(HeadstartError, match="EarlyStopping is no callback of fine-tuning"):
            start()
