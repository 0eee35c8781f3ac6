"""The whole way with a SavedModel: prefix, features, training, bundle, command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved_models
from PIL import Image

from headstart import ImageClassifier, extract_features, load
from headstart.errors import BundleError
from headstart.models.boundary import build_prefix_model
from headstart.models.loaders import load_prefix
from headstart.models.saved_model import save_saved_model
from headstart.runtimes import TOLERANCE, onnx_convert, onnx_runtime, tensorflow_runtime

COLOURS = {"blue": (40, 60, 200), "green": (60, 190, 70), "red": (210, 50, 60)}


@pytest.fixture(scope="module")
def colours_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy photos of three colours; not to be changed."""
    folder, random = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(20):
            pixels = np.clip(random.normal(colour, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.mark.parametrize(
    "make",
    [
        saved_models.reusable,
        saved_models.module,
        lambda: saved_models.module("uint8"),
        saved_models.keyword_only,
        saved_models.exported,
        saved_models.signature,
    ],
    ids=["reusable", "module", "bytes", "keyword", "exported", "signature"],
)
def test_the_graph_gives_the_features_of_tensorflow(make: Any) -> None:
    prefix = load_prefix(f"hub:{make()}")
    assert (prefix.boundary, prefix.shape, prefix.image_size) == ("pooled", (8,), 32)
    model = build_prefix_model(prefix)
    photos = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = tensorflow_runtime.open_model(model)(photos)
    found = onnx_runtime.open_graph(onnx_convert.convert(model))(photos)
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert expected.std() > 0
    assert error.max() < TOLERANCE


def test_the_digest_is_of_the_files_and_what_is_done_with_them(tmp_path: Path) -> None:
    path = saved_models.reusable()
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    digest = load_prefix(f"hub:{path}").weights_digest
    assert load_prefix(f"hub:{copy}").weights_digest == digest
    assert load_prefix(f"hub:{path}#input_range=-1..1").weights_digest != digest
    model = load_prefix(f"hub:{path}").build_model()
    model.get_layer("saved_model").weights[0].assign_add(model.weights[0] * 0 + 1e-3)
    save_saved_model(model, copy, force=True)
    assert load_prefix(f"hub:{copy}").weights_digest != digest


def test_features_are_cached_under_the_digest(colours_folder: Path, empty_cache: Path) -> None:
    name = f"hub:{saved_models.reusable()}"
    first = extract_features(name, colours_folder)
    assert (first.forwarded, first.array.shape) == (60, (60, 8))
    assert extract_features(name, colours_folder).forwarded == 0
    assert extract_features(f"{name}#input_range=0..2", colours_folder).forwarded == 60


def test_the_model_of_a_changed_saved_model_is_refused(
    colours_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved_models.reusable(), tmp_path / "net")
    classifier = ImageClassifier(f"hub:{tmp_path / 'net'}").fit(colours_folder)
    backbone = load_prefix(f"hub:{tmp_path / 'net'}").build_model()
    backbone.weights[0].assign(backbone.weights[0] + 1)
    save_saved_model(backbone, tmp_path / "net", force=True)
    with pytest.raises(BundleError, match="which is not here as it was"):
        _ = classifier.model


def test_a_classifier_is_trained_and_predicts(colours_folder: Path, tmp_path: Path) -> None:
    classifier = ImageClassifier(f"hub:{saved_models.reusable()}").fit(colours_folder)
    assert classifier.evaluation is not None
    assert classifier.evaluation.accuracy.value > 0.9
    bundle = classifier.save(tmp_path / "colours.headstart")
    photos = [colours_folder / name / "00.png" for name in COLOURS]
    probabilities = classifier.predict_proba(photos)
    pixels = np.stack([np.asarray(Image.open(p).resize((32, 32))) for p in photos])
    answers = np.asarray(classifier.model(pixels.astype(np.float32))).argmax(1)
    assert answers.tolist() == probabilities.argmax(1).tolist() == [0, 1, 2]
    again = load(bundle)
    assert np.array_equal(again.predict_proba(photos), probabilities)
    assert np.asarray(again.model(pixels.astype(np.float32))).argmax(1).tolist() == [0, 1, 2]


def test_nothing_is_fetched_for_a_bundle_from_a_file(colours_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(saved_models.reusable(), tmp_path / "net")
    classifier = ImageClassifier(f"hub:{tmp_path / 'net'}").fit(colours_folder)
    bundle = classifier.save(tmp_path / "colours.headstart")
    (tmp_path / "net").rename(tmp_path / "moved")
    with pytest.raises(BundleError, match="which is not here as it was"):
        _ = load(bundle).model


def test_the_command_line_goes_all_the_way(colours_folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "net.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(saved_models.reusable(), ".")
    bundle = tmp_path / "colours.headstart"
    done = run("train", colours_folder, "--backbone", f"hub:{archive}", "-o", bundle, "--json")
    report = json.loads(done.stdout)
    assert report["evaluation"]["accuracy"]["value"] > 0.9
    assert report["samples"]["train"] > 0
    archive.unlink()
    shutil.rmtree(Path(os.environ["HEADSTART_CACHE"]) / "saved_models")
    # Neither the SavedModel nor TensorFlow is needed any more.
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.argv[0] = 'headstart'\n"
        "from headstart.cli import main; main()"
    )
    photo = colours_folder / "red" / "00.png"
    predicted = subprocess.run(
        [sys.executable, "-c", code, "predict", str(bundle), str(photo), "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)["label"] == "red"


def test_the_command_line_refuses_with_a_sentence(colours_folder: Path, tmp_path: Path) -> None:
    done = run(
        "train",
        colours_folder,
        "--backbone",
        f"hub:{saved_models.version_1()}",
        "-o",
        tmp_path / "x.headstart",
    )
    assert done.returncode == 1
    assert "was saved by TensorFlow 1" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headstart", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
