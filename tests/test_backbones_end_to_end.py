"""`headstart train` with backbones of several sources, and the classic script, on digits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import saved_models
from models.keras_files import write_legacy
from test_lazy import HEAVY, loaded, run
from typer.testing import CliRunner

import headstart
from headstart import ImageClassifier, load_backbone
from headstart.bundle import WEIGHTS, load_bundle
from headstart.cli.commands import app
from headstart.data.decode import decode_photo
from headstart.models import loaders
from headstart.models.keras_catalogue import ROWS
from headstart.models.keras_weights import weights_file
from headstart.testing import settle

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def settled_mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with the statistics of photos; raw ones shrink activations to nothing."""
    model = load_backbone("keras:mobilenet_v2", weights=None, image_size=64)
    settle(model)
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    model.save_weights(path)
    return path


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small KerasHub ResNet with random weights."""
    keras_hub = pytest.importorskip("keras_hub")
    folder = tmp_path_factory.mktemp("preset") / "resnet"
    keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    ).save_to_preset(folder)
    return folder


def train(backbone: str, photos: Path, output: Path) -> Any:
    """The command's JSON."""
    arguments = ["train", str(photos), "-o", str(output), "--json", "--backbone", backbone]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def check(backbone: str, photos: Path, output: Path) -> None:
    """Better than chance (four classes); the bundle predicts as the Keras model does."""
    done = train(backbone, photos, output)
    assert done["backbone"] == backbone
    assert done["evaluation"]["accuracy"]["value"] > 0.35  # random weights
    classifier = headstart.load(output)
    paths = sorted(photos.glob("*/00[0-4].png"))
    found = classifier.predict_proba(paths)
    size = classifier.bundle.image_size
    pixels = np.stack([decode_photo(path.read_bytes(), size) for path in paths])
    expected = classifier.model.predict(pixels.astype(np.float32), verbose=0)
    assert np.abs(found - expected).max() <= 1e-3


def test_vgg16(digits_folder: Path, tmp_path: Path) -> None:
    check("keras:vgg16?weights=none&image_size=32", digits_folder, tmp_path / "a.headstart")


def test_mobilenet_with_a_weights_file(
    digits_folder: Path, tmp_path: Path, settled_mobilenet: Path
) -> None:
    name = f"keras:mobilenet_v2?weights={settled_mobilenet}&image_size=64"
    check(name, digits_folder, tmp_path / "a.headstart")


def test_a_second_run_needs_no_tensorflow(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are where Keras keeps ImageNet's; Keras has no digest for those of MobileNet."""
    import keras

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    path = weights_file(ROWS["mobilenet"])
    path.parent.mkdir(parents=True)
    write_legacy(keras.applications.MobileNet(include_top=False, weights=None), path)
    first = train("keras:mobilenet", few_digits, tmp_path / "a.headstart")
    arguments = ("train", few_digits, "--backbone", "keras:mobilenet", "--json")
    second = run(*arguments, "-o", tmp_path / "b.headstart")
    assert second["status"] == 0, second["stderr"]
    assert loaded(second, *HEAVY) == set()
    assert json.loads(second["stdout"])["evaluation"] == first["evaluation"]
    bundles = [load_bundle(tmp_path / f"{name}.headstart") for name in "ab"]
    assert bundles[0].members[WEIGHTS] == bundles[1].members[WEIGHTS]


def test_kerashub(digits_folder: Path, tmp_path: Path, preset: Path) -> None:
    check(f"kerashub:{preset}", digits_folder, tmp_path / "a.headstart")


def test_a_saved_model(digits_folder: Path, tmp_path: Path) -> None:
    check(f"hub:{saved_models.reusable()}", digits_folder, tmp_path / "a.headstart")


def test_a_local_model(digits_folder: Path, tmp_path: Path) -> None:
    import keras

    whole = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    whole.save(tmp_path / "mine.keras")
    check(f"local:{tmp_path / 'mine.keras'}", digits_folder, tmp_path / "a.headstart")


def test_a_model_that_is_not_here_any_more_still_predicts(
    digits_folder: Path, tmp_path: Path, preset: Path
) -> None:
    moved = preset.with_name("moved")
    fitted = ImageClassifier(f"kerashub:{preset}").fit(digits_folder)
    path = fitted.save(tmp_path / "a.headstart")
    preset.rename(moved)
    loaders._load_once.cache_clear()  # as in another process
    try:
        loaded = headstart.load(path)
        photo = [digits_folder / "0" / "000.png"]
        assert np.array_equal(loaded.predict_proba(photo), fitted.predict_proba(photo))
        with pytest.raises(headstart.HeadstartError, match="which is not here as it was"):
            _ = loaded.model
    finally:
        moved.rename(preset)


def test_the_classic_script(few_digits: Path) -> None:
    script = ROOT / "examples" / "classic_keras.py"
    options = ("--weights", "none", "--image-size", "32", "--epochs", "1")
    done = subprocess.run(
        [sys.executable, str(script), str(few_digits), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trained = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" True")]
    assert trained == ["block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"]
    assert "loss" in done.stdout
