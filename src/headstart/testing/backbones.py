"""The contract of a backbone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.models.boundary import Boundary, cut, list_boundaries
from headstart.models.preprocessing import PREPROCESSING, Preprocessing
from headstart.runtimes import TOLERANCE
from headstart.testing.promises import require

if TYPE_CHECKING:
    import keras

# Of values after preprocessing, relative to the largest; and of a network cut in two.
_PREPROCESSING_TOLERANCE, _CUT_TOLERANCE = 1e-5, 1e-4

# Of a probability, between the Keras model and what a bundle predicts without TensorFlow.
_BUNDLE_TOLERANCE = 1e-3
_PHOTOS_PER_CLASS = 8


def check_backbone(
    model: keras.Model,
    preprocessing: str | Preprocessing | None = None,
    *,
    boundaries: tuple[Boundary, ...] | None = None,
    runtimes: tuple[str, ...] = ("onnxruntime",),
    with_bundle: bool = True,
) -> None:
    """Check that a backbone keeps what `load_backbone` promises.

    It takes 0-255 RGB photos of one size and is frozen; what reaches its first convolution is the
    preprocessing that is named, applied once; every boundary cuts it into two networks that make
    the whole; neither inference nor a step of training a head moves a weight or a statistic;
    runtimes agree with TensorFlow; a classifier on it, saved as a bundle, predicts the same in a
    process without TensorFlow.

    Args:
        model: A backbone, such as `load_backbone` gives.
        preprocessing: What its first convolution expects; None where nobody knows.
        boundaries: Which to cut at; by default all of `list_boundaries`.
        runtimes: Which are compared with TensorFlow, within `TOLERANCE`.
        with_bundle: Whether a classifier is trained, saved and loaded.

    Raises:
        AssertionError: With the promise that is broken.
    """
    _check_form(model)
    photos = _make_photos(model.input_shape[1])
    if preprocessing is not None:
        kind = PREPROCESSING[preprocessing] if isinstance(preprocessing, str) else preprocessing
        _check_preprocessing(model, kind, photos)
    expected = np.asarray(model(photos, training=False))
    require(bool(np.isfinite(expected).all()), f"{model.name} gives values that are not finite")
    _check_boundaries(model, boundaries, photos, expected)
    _check_stillness(model, photos)
    for runtime in runtimes:
        _check_runtime(model, runtime)
    if with_bundle:
        _check_bundle(model)


def settle(model: keras.Model) -> None:
    """Give every BatchNormalization the statistics of random photos.

    A network of random weights shrinks its activations to nothing, layer by layer, because its
    statistics are not its own; checks of such a network could not fail.

    Args:
        model: A backbone with random weights.
    """
    from keras.layers import BatchNormalization

    norms = [la for la in _flatten(model) if isinstance(la, BatchNormalization)]
    kept = [norm.momentum for norm in norms]
    was_trainable = model.trainable
    model.trainable = True
    for norm in norms:
        norm.momentum = 0.0
    size = int(model.input_shape[1])
    # All photos of the checks: on others, channels that hardly vary on these would explode.
    model(np.concatenate([_make_photos(size), _make_labelled_photos(size)[0]]), training=True)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.moving_variance.assign(np.asarray(norm.moving_variance) + 1e-3)
    model.trainable = was_trainable


def _flatten(model: keras.Model) -> list[Any]:
    return list(model._flatten_layers())


def _make_photos(size: int) -> npt.NDArray[np.float32]:
    """Two photos of blurred noise: 0-255, with the extremes in them."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (2, 8, 8, 3))
    rows = np.arange(size) * 8 // size
    photos = coarse[:, rows][:, :, rows] + generator.integers(-20, 21, (2, size, size, 3))
    clipped: npt.NDArray[np.float32] = np.clip(photos, 0, 255).astype(np.float32)
    return clipped


def _check_form(model: keras.Model) -> None:
    shape = model.input_shape
    require(
        isinstance(shape, tuple) and len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2],
        f"{model.name} has the input shape {shape}, not (batch, size, size, 3)",
    )
    output = model.output_shape
    require(
        isinstance(output, tuple) and len(output) in (2, 4) and None not in output[1:],
        f"{model.name} has the output shape {output}, not a feature map or vector of a fixed size",
    )
    trained = [weight.path for weight in model.trainable_variables]
    require(not trained, f"{model.name} is not frozen: {trained[:3]} are trainable")


def _check_preprocessing(
    model: keras.Model, kind: Preprocessing, photos: npt.NDArray[np.float32]
) -> None:
    shape = tuple(model.input_shape[1:])
    before = [b for b in list_boundaries(model) if not b.multiply_adds_before and b.shape == shape]
    prefix, _ = cut(model, before[-1])
    found, expected = np.asarray(prefix(photos, training=False)), kind(photos)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    require(
        error <= _PREPROCESSING_TOLERANCE,
        f"{model.name} does not get the preprocessing {kind.name!r}: its first convolution sees "
        f"{_describe(found)}, expected {_describe(expected)}",
    )


def _describe(values: npt.NDArray[np.float32]) -> str:
    means = ", ".join(f"{mean:.3f}" for mean in values.mean((0, 1, 2)))
    return f"{values.min():.3f} to {values.max():.3f} with means {means}"


def _check_boundaries(
    model: keras.Model,
    boundaries: tuple[Boundary, ...] | None,
    photos: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
) -> None:
    for boundary in list_boundaries(model) if boundaries is None else boundaries:
        prefix, suffix = cut(model, boundary)
        activations = np.asarray(prefix(photos, training=False))
        require(
            activations.shape[1:] == boundary.shape,
            f"{model.name} gives {activations.shape[1:]} at the boundary {boundary.name}, which "
            f"says {boundary.shape}",
        )
        found = np.asarray(suffix(activations, training=False))
        error = _relative_error(found, expected)
        require(
            error <= _CUT_TOLERANCE,
            f"{model.name} cut at {boundary.name} is not the whole: relative error {error:.1e}",
        )


def _check_stillness(model: keras.Model, photos: npt.NDArray[np.float32]) -> None:
    """A step of plain Keras on a head: nothing of the backbone may move, not even statistics."""
    import keras

    from headstart.models.heads import attach_head

    before = [np.array(weight.numpy()) for weight in model.weights]
    classifier = attach_head(model, 2)
    classifier.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    classifier.train_on_batch(photos, np.array([0, 1]))
    for weight, value in zip(model.weights, before, strict=True):
        require(
            np.array_equal(weight.numpy(), value),
            f"{model.name} is not still: {weight.path} moved while only a head was trained",
        )


def measure_agreement(model: keras.Model, runtime: str) -> float:
    """Largest relative error per photo of a runtime's features beside TensorFlow's.

    Args:
        model: A backbone.
        runtime: A key of `RUNTIMES`.
    """
    from headstart.models.boundary import build_prefix_model
    from headstart.models.loaders import load_prefix
    from headstart.runtimes import get_runtime

    prefix = load_prefix(model)
    whole = build_prefix_model(prefix)
    pixels = _make_photos(prefix.image_size).astype(np.uint8)
    expected = np.asarray(whole(pixels.astype(np.float32), training=False))
    found = get_runtime(runtime).open(prefix, lambda: whole)(pixels)
    return max(_relative_error(*rows) for rows in zip(found, expected, strict=True))


def measure_sensitivity(model: keras.Model) -> float:
    """Largest relative change per photo of TensorFlow's features when pixels move by a rounding.

    A deep network of random weights can be chaotic: what rounds differently, another runtime or
    TensorFlow's own compiler, then gives other features, and a disagreement no larger than this
    says nothing about the runtime.

    Args:
        model: A backbone.
    """
    photos = _make_photos(int(model.input_shape[1])).round()
    # Half a unit in the last place of the largest pixels.
    noise = np.random.default_rng(2).choice([-1, 1], photos.shape) * np.float32(255 * 2**-24)
    moved = np.asarray(model(photos + noise.astype(np.float32), training=False))
    expected = np.asarray(model(photos, training=False))
    return max(_relative_error(*rows) for rows in zip(moved, expected, strict=True))


def _check_runtime(model: keras.Model, runtime: str) -> None:
    error = measure_agreement(model, runtime)
    require(
        error <= TOLERANCE,
        f"{model.name} on {runtime} is not TensorFlow's: relative error {error:.1e}",
    )


def _check_bundle(model: keras.Model) -> None:
    error = measure_bundle(model)
    require(
        error <= _BUNDLE_TOLERANCE,
        f"A bundle of {model.name} does not predict what its Keras model does: probabilities "
        f"differ by {error:.1e}",
    )


def measure_bundle(model: keras.Model) -> float:
    """Largest difference of probabilities between a bundle and the Keras model it was made from.

    A classifier is trained on a few random photos and saved; the bundle predicts in a process in
    which TensorFlow cannot be imported.

    Args:
        model: A backbone.
    """
    from headstart.classifier import ImageClassifier
    from headstart.data.stream import read_image

    size = int(model.input_shape[1])
    photos, labels = _make_labelled_photos(size)
    classifier = ImageClassifier(model, runtime="onnxruntime").fit(list(photos), labels)
    pixels = np.stack([read_image(photo, size) for photo in photos])
    expected = np.asarray(classifier.model(pixels.astype(np.float32), training=False))
    with tempfile.TemporaryDirectory() as folder:
        bundle = classifier.save(Path(folder) / "a.headstart")
        np.save(Path(folder) / "photos.npy", photos)
        done = subprocess.run(  # noqa: S603 - this Python, on files that were written just now
            [sys.executable, "-c", _PREDICT, str(bundle), str(Path(folder) / "photos.npy")],
            capture_output=True,
            text=True,
            check=False,
        )
    require(done.returncode == 0, f"A bundle of {model.name} cannot predict: {done.stderr[-500:]}")
    return float(np.abs(np.array(json.loads(done.stdout)) - expected).max())


_PREDICT = """
import json, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import numpy, headstart
classifier = headstart.load(sys.argv[1])
print(json.dumps(classifier.predict_proba(list(numpy.load(sys.argv[2]))).tolist()))
"""


def _make_labelled_photos(size: int) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Dark and bright photos of noise, ``(photo, size, size, 3)``, and what they are."""
    generator = np.random.default_rng(1)
    photos, labels = [], []
    for label, low, high in (("dark", 0, 150), ("bright", 105, 256)):
        for _ in range(_PHOTOS_PER_CLASS):
            coarse = generator.integers(low, high, (8, 8, 3)).astype(np.uint8)
            rows = np.arange(size) * 8 // size
            photos.append(coarse[rows][:, rows])
            labels.append(label)
    return np.stack(photos), labels


def _relative_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(found - expected)) / max(size, float(np.finfo(np.float32).tiny))
