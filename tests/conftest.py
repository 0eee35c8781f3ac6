"""What several tests share: a cache of their own, photos, and a bundle trained once."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLASSES, PHOTOS_PER_CLASS = ("0", "1", "2", "3"), 20
DRAWN = 60

# What runs in the background (nohup, &) may have been told to ignore Ctrl-C, which tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

needs_time = pytest.mark.skipif(
    "HEADSTART_TEST_DEEP" not in os.environ,
    reason="set HEADSTART_TEST_DEEP=1 for deep networks and long trainings",
)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every run has a cache of its own, so that the user's is neither read nor written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder))
        yield folder


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Path:
    """A cache without activations; the converted weights are there, which takes no second."""
    folder = tmp_path / "empty-cache"
    folder.mkdir()
    if (cache / "weights").is_dir():
        shutil.copytree(cache / "weights", folder / "weights", copy_function=os.link)
    monkeypatch.setenv("HEADSTART_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def photos_folder() -> Path:
    """Real photos, for those who have them: clothing, ants-bees, imagenet-sample, odd-images."""
    named = os.environ.get("HEADSTART_TEST_PHOTOS")
    if not named:
        pytest.skip("HEADSTART_TEST_PHOTOS is not set to a folder of test photos")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"HEADSTART_TEST_PHOTOS is {folder}, which is not a folder")
    return folder


def encode(pixels: Any, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, kind)
    return stream.getvalue()


def write_digits(folder: Path, classes: tuple[str, ...], photos: int, start: int = 0) -> Path:
    """Handwritten digits as PNG files, one folder per class; files ``start`` to ``photos``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for name in classes:
        images = digits.images[digits.target == int(name)][start:photos]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images, start):
            pixels = np.kron(255 - image * (255 / 16), np.ones((8, 8)))
            (folder / name / f"{number:03d}.png").write_bytes(encode(pixels))
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 20 handwritten digits; not to be changed."""
    return write_digits(tmp_path_factory.mktemp("digits"), CLASSES, PHOTOS_PER_CLASS)


@pytest.fixture(scope="session")
def few_digits(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first three of each class of `digits_folder`; not to be changed."""
    folder = tmp_path_factory.mktemp("few")
    for path in digits_folder.glob("*/00[0-2].png"):
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


@pytest.fixture(scope="session")
def trained(digits_folder: Path, cache: Path) -> Any:
    """An `ImageClassifier` fitted on `digits_folder`; not to be changed."""
    from headstart import ImageClassifier

    return ImageClassifier().fit(digits_folder)


@pytest.fixture(scope="session")
def trained_bundle(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `trained`; not to be changed."""
    return trained.save(tmp_path_factory.mktemp("bundle") / "digits.headstart")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`DRAWN` photos with a red or a blue square, both or neither, and others with a white one.

    ``labels.csv`` has the colours of the former, ``sizes.csv`` the sizes of the latter.
    """
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    labels, sizes = ["path,label"], ["path,label"]
    for number in range(DRAWN):
        pixels = rng.integers(90, 160, (48, 48, 3))
        side = int(rng.integers(8, 22))
        names = []
        for place, (name, colour) in enumerate((("red", 0), ("blue", 2))):
            if rng.random() < 0.5:
                square = pixels[2 : 2 + side, 2 + 24 * place : 2 + 24 * place + side]
                square[:] = 0
                square[..., colour] = 255
                names.append(name)
        (folder / f"{number}.png").write_bytes(encode(pixels))
        white = np.full((48, 48, 3), 30)
        white[24 - side : 24 + side, 24 - side : 24 + side] = 230
        (folder / f"size{number}.png").write_bytes(encode(white + rng.integers(0, 20, (48, 48, 3))))
        labels.append(f"{number}.png,{';'.join(names)}")
        sizes.append(f"size{number}.png,{side / 4}")
    (folder / "labels.csv").write_text("\n".join(labels))
    (folder / "sizes.csv").write_text("\n".join([*sizes, "0.png,wide"]))
    return folder


def _fit_drawn(name: str, task: str, folder: Path) -> Any:
    from headstart import ImageClassifier

    fitted = ImageClassifier(task=task).fit(folder / f"{name}.csv")
    fitted.save(folder / f"{name}.headstart")
    fitted.save_run(folder / f"{name}.run")
    return fitted


@pytest.fixture(scope="session")
def fitted_labels(drawn: Path, cache: Path) -> Any:
    """Fitted on the labels of `drawn`, where it is saved beside them; not to be changed."""
    return _fit_drawn("labels", "multilabel", drawn)


@pytest.fixture(scope="session")
def fitted_sizes(drawn: Path, cache: Path) -> Any:
    """Fitted on the sizes of `drawn`, where it is saved beside them; not to be changed."""
    return _fit_drawn("sizes", "regression", drawn)


def build_network(size: int) -> Any:
    """A Keras model of three convolutions with random weights, for photos of that many pixels."""
    import keras

    keras.utils.set_random_seed(0)
    photos = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(photos)
    for filters in (16, 32, 64):
        x = keras.layers.Conv2D(filters, 3, 2, "same", activation="relu")(x)
    return keras.Model(photos, x, name="small")
