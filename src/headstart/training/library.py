"""Fine-tuning step by step: a function, and a dataset for a loop of one's own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.data.duplicates import group_photos
from headstart.data.labelled import scan_labelled, unpack_dataset
from headstart.data.scan import Manifest
from headstart.data.split import check_classes, list_folds
from headstart.errors import BoundaryError, require_package
from headstart.features.activations import Activations, open_activations
from headstart.features.extract import extract_manifest, scan_photos
from headstart.features.near_duplicates import find_pairs
from headstart.models.boundary import Boundary, Prefix, cut_prefix, get_boundary
from headstart.models.heads import attach_head
from headstart.models.loaders import load_prefix
from headstart.recipe import choose_recipe
from headstart.task import require_task
from headstart.training.fine_tune import tune
from headstart.training.once import fit_probe_once
from headstart.training.probe import Probe
from headstart.training.tuning import Callbacks, Options, Photos, Tuning, check_callbacks

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Labelled = str | Path | Sequence[str | Path] | Manifest


@dataclass(frozen=True)
class FineTuned:
    """What `fine_tune` gives.

    Attributes:
        model: The whole classifier: 0-255 RGB photos → probabilities.
        class_names: In the order of the probabilities.
        tuning: What was trained, what it gained on photos held out, every epoch.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    tuning: Tuning


def fine_tune(
    backbone: str | keras.Model,
    photos: Labelled | Any,
    labels: Sequence[Any] | None = None,
    *,
    seed: int = 0,
    runtime: str = "onnxruntime",
    callbacks: Callbacks = (),
    **settings: Any,
) -> FineTuned:
    """Train the last part of a backbone and a head on labelled photos, all of them.

    What comes before the first trained layer runs once per photo (and view), and is cached. The
    head starts from the solved linear probe. Photos are held out to choose the learning rate, the
    number of epochs and how far to go from the probe; then all are trained on.

    Args:
        backbone: A name, or a model such as `load_backbone` gives; it is not changed.
        photos: A folder with one folder per class, a manifest, or a `tf.data.Dataset` of pairs;
            with ``labels`` photos as in `ImageClassifier.fit`.
        labels: ``(photo,)`` of photos that are given one by one.
        seed: Of everything random.
        runtime: What computes the frozen part.
        callbacks: Each is called with every `headstart.training.loop.Epoch`.
        settings: Of `headstart.recipe.FineTune`, such as ``unfreeze="last_block"``, ``epochs=10``,
            ``learning_rate=3e-4``.

    Raises:
        HeadstartError: One of its kinds, with what to do.

    Example::

        result = headstart.fine_tune("efficientnet-lite0", "photos/", unfreeze="last_2_blocks")
        print(result.tuning.says)
        result.model.predict(pixels)
    """
    require_package("tensorflow", "keras", "scipy", "threadpoolctl", purpose="fine-tuning")
    check_callbacks(callbacks)
    recipe = choose_recipe("tune", **settings)
    assert recipe.fine_tune is not None  # noqa: S101 - for the type checker
    prefix, manifest = load_prefix(backbone), scan_given(photos, labels)
    check_classes(manifest)
    given, probe = _fit_probe(prefix, manifest, recipe.folds, runtime, seed)
    options = Options(runtime=runtime, callbacks=callbacks)
    found = tune(prefix, given, probe, recipe.fine_tune, seed=seed, options=options)
    if found is None:
        raise BoundaryError(
            'unfreeze="none" leaves nothing to fine-tune. Train a head with ImageClassifier, or '
            'unfreeze something, such as "last_block".'
        )
    names = given.class_names
    model = attach_head(found.backbone, len(names), kernel=found.kernel, bias=found.bias)
    return FineTuned(model, names, found)


def _fit_probe(
    prefix: Prefix, manifest: Manifest, most_folds: int, runtime: str, seed: int
) -> tuple[Photos, Probe]:
    """The photos with their features, and the head to start from."""
    features = extract_manifest(prefix, manifest, runtime=runtime)
    names = tuple(sorted({sample.label for sample in features.samples}))
    numbers = number_labels([sample.label for sample in features.samples], names)
    digests, named = zip(*((s.digest, s.group) for s in features.samples), strict=True)
    groups = tuple(group_photos(digests, find_pairs(features), named))
    rows = features.array.astype(np.float32)
    sizes = Counter(label for label, _ in set(zip(numbers.tolist(), groups, strict=True)))
    count = min(most_folds, *sizes.values())
    folds = list_folds(numbers, groups, count, seed) if count > 1 else ()
    probe = fit_probe_once(rows, numbers, len(names), folds)
    return Photos(features.samples, (), groups, rows, names), probe


def make_dataset(
    backbone: str | keras.Model,
    photos: Labelled | Any,
    boundary: str | Boundary,
    *,
    labels: Sequence[Any] | None = None,
    views: int = 1,
    batch_size: int = 32,
    seed: int = 0,
) -> tf.data.Dataset:
    """Cached activations of labelled photos, to train a suffix of `cut` in a loop of one's own.

    Args:
        backbone: A name, or a model.
        photos: As in `fine_tune`.
        labels: Likewise.
        boundary: One of `list_boundaries`, or its name.
        views: Views of each photo; every pass takes the next one.
        batch_size: Photos per batch.
        seed: Of the order, which is another one in each pass, and of the views.

    Returns:
        A dataset of ``(batch, *shape)`` float32 activations and ``(batch,)`` class numbers, in the
        order of the sorted class names.

    Raises:
        HeadstartError: One of its kinds, with what to do.
    """
    require_package("tensorflow", purpose="a tf.data.Dataset")
    import tensorflow as tf

    prefix, manifest = load_prefix(backbone), scan_given(photos, labels)
    model = prefix.build_model()
    found = get_boundary(model, boundary if isinstance(boundary, str) else boundary.name)
    source = open_activations(cut_prefix(prefix, found, model), manifest, views=views, seed=seed)
    names = tuple(sorted({sample.label for sample in source.samples}))
    numbers = number_labels([sample.label for sample in source.samples], names)
    passes = iter(range(2**62))
    signature = (
        tf.TensorSpec((None, *source.shape), tf.float32),
        tf.TensorSpec((None,), tf.int64),
    )

    def generate() -> Iterator[tuple[Any, Any]]:
        yield from _one_pass(source, numbers, next(passes), batch_size, seed)

    # With the number of batches Keras does not complain at the end of an epoch.
    count = tf.data.experimental.assert_cardinality(math.ceil(len(numbers) / batch_size))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(count).prefetch(2)


def scan_given(photos: Any, labels: Sequence[Any] | None) -> Manifest:
    """The manifest of photos in any form that is accepted.

    Raises:
        DatasetError: They are no photos, or not as many as labels.
        HeadstartError: They have several labels, or numbers.
    """
    if hasattr(photos, "as_numpy_iterator"):
        photos, labels = unpack_dataset(photos)
    manifest = scan_photos(photos) if labels is None else scan_labelled(photos, labels)
    require_task(manifest.task, "Fine-tuning")
    return manifest


def _one_pass(
    source: Activations, labels: npt.NDArray[np.intp], number: int, batch_size: int, seed: int
) -> Iterator[tuple[Any, Any]]:
    order = np.random.default_rng([seed, number]).permutation(len(labels))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield source.read(rows, number % source.views).astype(np.float32), labels[rows]


def number_labels(labels: Sequence[str], names: Sequence[str]) -> npt.NDArray[np.intp]:
    """Class numbers of labels.

    >>> number_labels(["cat", "ant"], ["ant", "cat"]).tolist()
    [1, 0]
    """
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[label] for label in labels], np.intp)
