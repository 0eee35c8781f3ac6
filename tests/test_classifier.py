"""`ImageClassifier` and the steps it is made of: fit, use, save, extract."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import ImageClassifier, attach_head, extract_features, load, load_backbone
from headstart.bundle import WEIGHTS, load_bundle, parse_arrays
from headstart.data.damage import find_damage
from headstart.data.decode import decode_photo
from headstart.data.scan import scan_folder
from headstart.errors import (
    BackboneError,
    BundleError,
    DatasetError,
    HeadstartError,
    OutputExistsError,
)


@pytest.fixture(scope="module")
def paths(digits_folder: Path) -> list[Path]:
    return sorted(digits_folder.glob("*/*.png"))


@pytest.fixture(scope="module")
def labels(paths: list[Path]) -> list[str]:
    return [path.parent.name for path in paths]


@pytest.fixture
def photos(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the digits that a test may change."""
    return shutil.copytree(digits_folder, tmp_path / "photos")


def small_backbone() -> Any:
    """A Keras model of one's own, with weights that are the same every time."""
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            keras.layers.Conv2D(16, 5, strides=2, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.AveragePooling2D(4),
            keras.layers.Flatten(),
        ],
        name="mine",
    )


# ---- fit


def test_what_fit_leaves_behind(trained: Any) -> None:
    assert trained.classes_.tolist() == ["0", "1", "2", "3"]
    samples = trained.bundle.manifest["samples"]
    assert 8 <= trained.evaluation.photos <= 24  # about a fifth of each class
    assert trained.evaluation.class_names == ("0", "1", "2", "3")
    assert trained.evaluation.accuracy.value >= 0.7
    assert trained.problems == ()
    assert any("Few training photos" in warning for warning in trained.warnings)
    assert set(trained.seconds) == {
        *("scan", "decode", "prefix", "groups", "probe", "fine_tune", "trust", "evaluate", "total")
    }
    test = trained.evaluation.photos
    assert samples == {"train": 80 - test, "validation": 0, "test": test}


def test_the_kept_figures_are_measured_on_photos_that_were_not_trained_on(
    trained: Any, digits_folder: Path
) -> None:
    split = trained.bundle.manifest["split"]
    assert not set(split["train"]) & set(split["test"])
    test = set(split["test"])
    samples = [s for s in scan_folder(digits_folder).samples if s.digest in test]
    assert len(samples) == trained.evaluation.photos
    found = trained.predict([sample.path for sample in samples])
    right = np.mean([name == sample.label for name, sample in zip(found, samples, strict=True)])
    assert right == trained.evaluation.accuracy.value


def test_photos_and_labels(paths: list[Path], labels: list[str]) -> None:
    classifier = ImageClassifier()
    assert classifier.fit(paths, labels) is classifier
    assert classifier.evaluation is None
    assert classifier.bundle.manifest["samples"] == {"train": 80, "validation": 0, "test": 0}
    rows = classifier.predict_proba(paths[::8])
    assert rows.shape == (10, 4)
    assert classifier.score(paths[::4], labels[::4]) >= 0.95
    # The same photos as arrays, images or bytes make the same classifier.
    arrays = [np.asarray(Image.open(io.BytesIO(path.read_bytes()))) for path in paths]
    images = [Image.fromarray(array) for array in arrays]
    encoded = [path.read_bytes() for path in paths]
    for content in (encoded, arrays, images, np.stack(arrays)):
        other = ImageClassifier().fit(content, labels)
        assert np.abs(other.predict_proba(paths[::8]) - rows).max() < 0.01
    assert (other.predict(arrays[::8]) == classifier.classes_[rows.argmax(1)]).all()


def test_labels_may_be_numbers(paths: list[Path], labels: list[str]) -> None:
    classifier = ImageClassifier().fit(paths, np.array(labels, int))
    assert classifier.classes_.tolist() == ["0", "1", "2", "3"]
    assert classifier.score(paths[::8], np.array(labels, int)[::8]) >= 0.9


def test_a_test_folder_is_used_as_it_is(photos: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    for name in "0123":
        (test / name).mkdir(parents=True)
        for photo in sorted((photos / name).iterdir())[:3]:
            shutil.move(photo, test / name)
    classifier = ImageClassifier().fit(photos, test=test)
    assert classifier.evaluation is not None
    assert classifier.evaluation.photos == 12
    assert classifier.bundle.manifest["samples"]["train"] == 68
    again = classifier.evaluate(test)
    assert again.confusion == classifier.evaluation.confusion
    assert again.log_loss.value == pytest.approx(classifier.evaluation.log_loss.value, abs=0.01)


@pytest.mark.parametrize(
    ("photos", "labels", "message"),
    [
        ([], [], "No photos found"),
        ([b"1"], ["a", "b"], "1 photos but 2 labels"),
        ([np.zeros((8, 8), np.uint8)] * 4, ["a"] * 4, "Only one class was found"),
    ],
)
def test_photos_that_make_no_classifier(photos: Any, labels: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ImageClassifier().fit(photos, labels)


def test_unknown_settings_are_refused_before_any_work(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(BackboneError, match="Did you mean efficientnet-lite0"):
        ImageClassifier("efficientnet-lit0").fit(missing)
    with pytest.raises(HeadstartError, match=r"'prob' is not a known recipe. Did you mean probe"):
        ImageClassifier(recipe="prob").fit(missing)
    with pytest.raises(DatasetError, match="does not exist"):
        ImageClassifier().fit(missing)


def test_an_unknown_runtime_is_refused(digits_folder: Path) -> None:
    with pytest.raises(HeadstartError, match="Did you mean onnxruntime"):
        ImageClassifier(runtime="onnx-runtime").fit(digits_folder)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_block_that_is_not_there_is_refused_before_photos_are_forwarded(
    digits_folder: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    def forward(*arguments: Any, **named: Any) -> None:
        pytest.fail("photos were forwarded")

    monkeypatch.setattr("headstart.training.fit.FirstPass", forward)
    monkeypatch.setattr("headstart.training.targets.extract_manifest", forward)
    source = digits_folder if task == "classification" else drawn / "sizes.csv"
    with pytest.raises(HeadstartError, match="'block9' is not a block of efficientnet"):
        ImageClassifier(unfreeze="block9", task=task).fit(source)


def test_unreadable_photos_are_problems_and_the_rest_is_trained_on(photos: Path) -> None:
    (photos / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (photos / "1" / "empty.jpg").touch()
    (photos / "notes.txt").write_text("not in a class folder")
    classifier = ImageClassifier().fit(photos)
    assert {problem.path.name for problem in classifier.problems} == {
        "broken.png",
        "empty.jpg",
        "notes.txt",
    }
    assert all(problem.reason for problem in classifier.problems)
    assert sum(classifier.bundle.manifest["samples"].values()) == 80


# ---- using


def test_before_fit_it_says_so(digits_folder: Path, tmp_path: Path) -> None:
    classifier = ImageClassifier()
    for use in (
        lambda: classifier.predict([b""]),
        lambda: classifier.predict_proba([b""]),
        lambda: classifier.evaluate(digits_folder),
        lambda: classifier.save(tmp_path / "a.headstart"),
        lambda: classifier.model,
    ):
        with pytest.raises(HeadstartError, match=r"not fitted yet; call fit\(photos\) first"):
            use()


def test_a_folder_or_a_path_counts_as_its_photos(trained: Any, digits_folder: Path) -> None:
    folder = digits_folder / "2"
    expected = trained.predict(sorted(folder.iterdir()))
    assert (trained.predict(folder) == expected).all()
    assert (trained.predict(str(folder / "000.png")) == expected[:1]).all()


def test_a_photo_that_cannot_be_predicted_is_named(trained: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    with pytest.raises(HeadstartError, match=r"broken\.jpg cannot be predicted: not an image"):
        trained.predict([broken])
    with pytest.raises(HeadstartError, match=r"Photo 0 cannot be predicted.*predictor\.predict"):
        trained.predict_proba([b"x"])


def test_an_evaluation_refuses_unknown_classes(trained: Any, photos: Path) -> None:
    (photos / "3").rename(photos / "seven")
    with pytest.raises(DatasetError, match="classes the classifier does not know: seven"):
        trained.evaluate(photos)


def test_the_keras_model_agrees_with_the_bundle(trained: Any, paths: list[Path]) -> None:
    import keras

    model = trained.model
    assert isinstance(model, keras.Model)
    assert model is trained.model
    pixels = np.stack([decode_photo(path.read_bytes(), 224) for path in paths[::9]])
    rows = np.asarray(model(pixels.astype(np.float32)))
    assert np.abs(rows - trained.predict_proba(paths[::9])).max() <= 1e-3


def test_it_shows_itself(trained: Any) -> None:
    assert repr(trained) == (
        "ImageClassifier(backbone='efficientnet-lite0', recipe=None, unfreeze=None, seed=0, "
        "runtime='auto', group_by=None, budget_seconds=None, keep_thumbnails=False, "
        "trackers=(), task='classification', engine=None)"
    )
    assert "<table>" in trained._repr_html_()
    assert "not fitted yet" in ImageClassifier()._repr_html_()


# ---- save and load


def test_saved_and_loaded(trained: Any, trained_bundle: Path, paths: list[Path]) -> None:
    loaded = load(trained_bundle)
    assert loaded.classes_.tolist() == trained.classes_.tolist()
    assert loaded.evaluation == trained.evaluation
    assert loaded.get_params() == {**trained.get_params(), "recipe": "probe"}
    some = paths[::8]
    assert np.array_equal(loaded.predict_proba(some), trained.predict_proba(some))
    assert np.array_equal(load(str(trained_bundle)).predict(some), trained.predict(some))


def test_the_loaded_model_is_the_same_network(trained_bundle: Path, paths: list[Path]) -> None:
    loaded = load(trained_bundle)
    pixels = np.stack([decode_photo(path.read_bytes(), 224) for path in paths[:3]])
    rows = np.asarray(loaded.model(pixels.astype(np.float32)))
    assert np.abs(rows - loaded.predict_proba(paths[:3])).max() <= 1e-3


def test_saving_does_not_overwrite(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.headstart"
    path.write_bytes(b"something dear")
    with pytest.raises(OutputExistsError):
        trained.save(path)
    assert path.read_bytes() == b"something dear"
    assert trained.save(str(path), force=True) == path
    assert load(path).classes_.tolist() == trained.classes_.tolist()


def test_the_same_seed_gives_the_same_file(
    trained_bundle: Path, digits_folder: Path, tmp_path: Path
) -> None:
    again = ImageClassifier().fit(digits_folder).save(tmp_path / "again.headstart")
    assert again.read_bytes() == trained_bundle.read_bytes()
    other = ImageClassifier(seed=1).fit(digits_folder).bundle.manifest
    assert other["split"]["test"] != load_bundle(again).manifest["split"]["test"]


def test_the_same_seed_gives_the_same_file_from_scratch(
    digits_folder: Path, trained_bundle: Path, tmp_path: Path, empty_cache: Path
) -> None:
    # Nothing is cached: the features themselves are the same bytes, whatever the threads did.
    again = ImageClassifier().fit(digits_folder).save(tmp_path / "again.headstart")
    assert list(empty_cache.glob("activations*/*.npy"))
    assert again.read_bytes() == trained_bundle.read_bytes()


# ---- scikit-learn's habits


def test_parameters_are_read_and_set() -> None:
    classifier = ImageClassifier("efficientnet-lite1", seed=3)
    assert classifier.get_params() == {
        "backbone": "efficientnet-lite1",
        "recipe": None,
        "unfreeze": None,
        "seed": 3,
        "runtime": "auto",
        "group_by": None,
        "budget_seconds": None,
        "keep_thumbnails": False,
        "trackers": (),
        "task": "classification",
        "engine": None,
    }
    assert classifier.set_params(seed=4, runtime="tensorflow") is classifier
    assert (classifier.seed, classifier.runtime) == (4, "tensorflow")
    with pytest.raises(ValueError, match="'sed' is not a parameter; known: backbone"):
        classifier.set_params(sed=5)


def test_scikit_learn_clones_and_cross_validates(paths: list[Path], labels: list[str]) -> None:
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import cross_val_score

    classifier = ImageClassifier(seed=5)
    copy = clone(classifier)
    assert copy is not classifier
    assert copy.get_params() == classifier.get_params()
    assert is_classifier(classifier)
    X, y = np.array([str(path) for path in paths]), np.array(labels)
    scores = cross_val_score(classifier, X, y, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.7


# ---- extraction


def forwarded(photos: Path) -> int:
    return extract_features("efficientnet-lite0", photos).forwarded


def test_what_is_cached_is_not_computed_again(photos: Path, empty_cache: Path) -> None:
    from conftest import write_digits

    assert forwarded(photos) == 80
    assert forwarded(photos) == 0
    write_digits(photos, ("0", "1", "2", "3"), photos=22, start=20)
    assert forwarded(photos) == 8
    # A new name or another label is the same photo.
    (photos / "0").rename(photos / "zero")
    for path in sorted((photos / "1").iterdir()):
        path.rename(path.with_name(f"renamed {path.name}"))
    shutil.move(photos / "2" / "000.png", photos / "3" / "moved.png")
    shutil.copy(photos / "2" / "001.png", photos / "3" / "copy.png")
    assert forwarded(photos) == 0
    assert ImageClassifier().fit(photos).seconds["prefix"] == 0


def test_features_are_those_of_the_backbone(digits_folder: Path) -> None:
    found = extract_features("efficientnet-lite0", digits_folder / "0")
    assert found.array.shape == (20, 1280)
    assert found.array.dtype == np.float16
    assert [sample.path.name for sample in found.samples] == [f"{n:03d}.png" for n in range(20)]
    pixels = [decode_photo(sample.path.read_bytes(), 224) for sample in found.samples[:3]]
    backbone = load_backbone()
    rows = np.asarray(backbone(np.stack(pixels).astype(np.float32))).mean((1, 2))
    errors = np.linalg.norm(found.array[:3] - rows, axis=1) / np.linalg.norm(rows, axis=1)
    assert errors.max() < 1e-3  # float16


def test_progress_is_told(digits_folder: Path, empty_cache: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = digits_folder / "0"
    extract_features("efficientnet-lite0", folder, progress=lambda *done: told.append(done))
    assert told[0] == (0, 20)
    assert told[-1] == (20, 20)
    assert told == sorted(told)
    told.clear()
    extract_features("efficientnet-lite0", folder, progress=lambda *done: told.append(done))
    assert told == [(20, 20)]


def test_tensorflow_as_the_runtime_predicts_the_same(
    trained: Any, digits_folder: Path, paths: list[Path]
) -> None:
    other = ImageClassifier(runtime="tensorflow").fit(digits_folder)
    assert other.bundle.manifest["runtime"].startswith("tensorflow ")
    assert trained.bundle.manifest["runtime"].startswith("onnxruntime ")
    assert other.evaluation.confusion == trained.evaluation.confusion
    some = paths[::8]
    assert np.abs(other.predict_proba(some) - trained.predict_proba(some)).max() < 0.01


# ---- a Keras model of one's own as the backbone


def test_a_keras_model_as_the_backbone(
    digits_folder: Path, paths: list[Path], tmp_path: Path
) -> None:
    backbone = small_backbone()
    classifier = ImageClassifier(backbone).fit(digits_folder)
    assert classifier.evaluation is not None
    assert classifier.evaluation.accuracy.value > 0.5
    rows = classifier.predict_proba(paths)
    # As one plain Keras model, it gives the same.
    pixels = np.stack([decode_photo(path.read_bytes(), 32) for path in paths])
    model = classifier.model
    assert np.abs(np.asarray(model(pixels.astype(np.float32))) - rows).max() <= 1e-3
    # From the file, it predicts without that model, and says why it cannot be had back.
    loaded = load(classifier.save(tmp_path / "mine.headstart"))
    assert np.array_equal(loaded.predict_proba(paths), rows)
    with pytest.raises(BundleError, match=r"the Keras model 'mine'.*only the graph.*attach_head"):
        _ = loaded.model
    # Other weights are another backbone: nothing of the old features is used.
    backbone.layers[1].kernel.assign(-backbone.layers[1].kernel)
    assert extract_features(backbone, digits_folder).forwarded == 80
    assert extract_features(backbone, digits_folder).forwarded == 0


def test_the_head_of_a_bundle_fits_a_model_of_ones_own(trained: Any, paths: list[Path]) -> None:
    arrays = parse_arrays(trained.bundle.members[WEIGHTS])
    model = attach_head(load_backbone(), 4, kernel=arrays["head/kernel"], bias=arrays["head/bias"])
    pixels = np.stack([decode_photo(path.read_bytes(), 224) for path in paths[:3]])
    rows = np.asarray(model(pixels.astype(np.float32)))
    assert np.abs(rows - trained.predict_proba(paths[:3])).max() <= 1e-3


def test_a_backbone_of_another_form_is_refused_before_any_work(digits_folder: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(BackboneError, match="fixed size"):
        ImageClassifier(model).fit(digits_folder)


# ---- real photos


def test_ants_and_bees_are_told_apart(photos_folder: Path, tmp_path: Path) -> None:
    folder = photos_folder / "ants-bees"
    chosen = tmp_path / "chosen"
    for name in sorted(path.name for path in (folder / "train").iterdir()):
        (chosen / name).mkdir(parents=True)
        for photo in sorted((folder / "train" / name).iterdir())[:60]:
            shutil.copy(photo, chosen / name)
    classifier = ImageClassifier().fit(chosen, test=folder / "test")
    assert classifier.evaluation is not None
    assert classifier.evaluation.photos == 153
    assert classifier.evaluation.accuracy.value >= 0.88


def test_a_photo_that_may_be_corrupt_is_used_and_listed(photos: Path, empty_cache: Path) -> None:
    random = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "JPEG")
    jpeg = bytearray(stream.getvalue())
    jpeg[len(jpeg) // 2] ^= 0xFF
    assert find_damage(bytes(jpeg)), "choose another byte"
    damaged = photos / "0" / "damaged.jpg"
    damaged.write_bytes(jpeg)
    for _ in range(2):  # the second run reads the flag from the cache
        classifier = ImageClassifier().fit(photos)
        [flag] = classifier.flags
        assert flag.path == damaged
        assert flag.reason.startswith("may be corrupt: ")
        assert not classifier.problems


def test_photos_of_a_group_count_as_fewer(trained: Any, photos: Path) -> None:
    """Copies of a photo are right or wrong together: they make the interval no narrower."""
    once = trained.evaluate(photos)
    for path in sorted(photos.glob("*/*.png")):
        for number in range(3):
            shutil.copy(path, path.with_name(f"{path.stem}-{number}.png"))
    fourfold = trained.evaluate(photos)
    assert fourfold.photos == 4 * once.photos
    assert fourfold.accuracy.value == once.accuracy.value
    assert fourfold.accuracy.low == pytest.approx(once.accuracy.low, abs=0.01)
    assert fourfold.log_loss.low == pytest.approx(once.log_loss.low, rel=0.2)


def test_an_evaluation_on_training_photos_says_so(trained: Any, photos: Path) -> None:
    trained.evaluate(photos)
    assert any("photos were trained on" in warning for warning in trained.warnings)
    (photos / "0" / "new.png").write_bytes(encode_noise())
    for path in photos.glob("*/0*.png"):
        path.unlink()
    trained.evaluate(photos)
    assert not any("trained on" in warning for warning in trained.warnings)


def encode_noise() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def test_a_single_photo_counts_as_one(trained: Any) -> None:
    photo = np.zeros((20, 30, 3), np.uint8)
    for single in (photo, photo[:, :, 0], Image.fromarray(photo), encode_noise()):
        assert trained.predict_proba(single).shape == (1, len(trained.classes_))
