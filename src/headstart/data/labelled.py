"""Photos and labels given as two lists: paths, encoded bytes, Pillow images, uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from headstart.data.addresses import locate, map_waiting
from headstart.data.groups import compile_pattern, find_groups
from headstart.data.scan import Manifest, Problem, Sample, list_files, read_sample
from headstart.data.targets import normalise_label
from headstart.errors import DatasetError
from headstart.files import digest_bytes
from headstart.task import CLASSIFICATION, Task


def scan_labelled(
    photos: Any,
    labels: Sequence[Any],
    group_by: str | None = None,
    task: Task = CLASSIFICATION,
) -> Manifest:
    """The manifest of photos with labels.

    ``photos`` is any iterable of them; those that are not files are called ``photo N`` in lists of
    problems. ``group_by`` is a regular expression on paths as they are given, see
    `headstart.data.groups.find_groups`. Labels are as `headstart.data.targets.normalise_label`
    takes them; a photo whose label cannot be used is a problem.

    Raises:
        DatasetError: Not as many labels as photos, or something that is no photo; or ``group_by``
            is not a regular expression, or there are photos without a path.

    >>> manifest = scan_labelled([np.zeros((4, 4, 3), np.uint8), b"bytes"], ["black", "other"])
    >>> manifest.class_names, len({sample.digest for sample in manifest.samples})
    (('black', 'other'), 2)
    """
    items, pattern = list(photos), compile_pattern(group_by)
    if len(items) != len(labels):
        raise DatasetError(f"{len(items)} photos but {len(labels)} labels; each photo needs one.")
    samples: list[Sample] = []
    problems: list[Problem] = []

    def read(place: tuple[Any, Any, int]) -> Sample | Problem:
        photo, label, number = place
        is_file = isinstance(photo, (str, Path))
        path = locate(photo) if is_file else Path(f"photo {number}")
        try:
            # Any text is a class, also an empty one.
            text = str(label) if task is CLASSIFICATION else normalise_label(label, task)
        except ValueError as error:
            return Problem(path, str(error))
        if is_file:
            return read_sample(path, text, None)
        if pattern is not None:
            raise DatasetError(
                f"group_by={group_by!r} looks for groups in paths, and photo {number} is "
                f"{type(photo).__name__}. Give paths, or a DataFrame with a column of groups."
            )
        return Sample(path, text, digest_content(photo), None, photo)

    for found in map_waiting(read, zip(items, labels, range(len(items)), strict=True)):
        (samples if isinstance(found, Sample) else problems).append(found)  # type: ignore[arg-type]
    groups, warnings = find_groups([sample.path.as_posix() for sample in samples], pattern)
    grouped = (replace(s, group=group) for s, group in zip(samples, groups, strict=True))
    return Manifest(tuple(grouped), tuple(problems), tuple(warnings), task)


def digest_content(photo: Any) -> str:
    """A digest of a photo in memory that changes with everything its pixels depend on.

    Raises:
        DatasetError: It is no photo.
    """
    if isinstance(photo, bytes):
        return digest_bytes(photo)
    if isinstance(photo, Image.Image):
        palette = photo.getpalette("RGBA") if photo.mode in ("P", "PA") else None
        traits = [photo.info.get(key) for key in ("transparency", "icc_profile")]
        orientation = photo.getexif().get(0x0112)
        head = repr((photo.mode, photo.size, palette, traits, orientation))
        return digest_bytes(head.encode() + photo.tobytes())
    if isinstance(photo, np.ndarray):
        head = repr((photo.shape, photo.dtype.str))
        return digest_bytes(head.encode() + np.ascontiguousarray(photo).tobytes())
    raise DatasetError(
        f"{type(photo).__name__} is not a photo; accepted are paths, bytes of an image file, "
        "Pillow images and uint8 arrays (height, width, 3)."
    )


def unpack_dataset(dataset: Any) -> tuple[list[npt.NDArray[np.uint8]], list[str]]:
    """Photos and labels of a `tf.data.Dataset` of pairs, batched or not; held in memory.

    Pixels are uint8, or floats from 0 to 255; labels are numbers, strings or one-hot rows. Where
    the dataset has ``class_names``, as those of `keras.utils.image_dataset_from_directory` have,
    numbers and one-hot rows are called by them.

    Raises:
        DatasetError: Its elements are no such pairs, or pixels or labels are out of their range.

    >>> class Pairs:
    ...     def as_numpy_iterator(self):
    ...         yield np.zeros((2, 4, 4, 3)), np.array([[0, 1], [1, 0]])
    >>> photos, labels = unpack_dataset(Pairs())
    >>> len(photos), photos[0].dtype, labels
    (2, dtype('uint8'), ['1', '0'])
    """
    photos: list[npt.NDArray[np.uint8]] = []
    labels: list[str] = []
    names = getattr(dataset, "class_names", None)
    for element in dataset.as_numpy_iterator():
        if not isinstance(element, tuple) or len(element) < 2:
            raise DatasetError("The dataset gives no pairs (photos, labels), which fit needs.")
        pixels, truth = np.asarray(element[0]), np.asarray(element[1])
        if pixels.ndim == 3:
            pixels, truth = pixels[None], truth[None]
        if pixels.ndim != 4 or len(pixels) != len(truth):
            raise DatasetError(
                f"The dataset gives photos {pixels.shape} and labels {truth.shape}; needed are "
                "(batch, height, width, 3) and (batch,), or single ones of them."
            )
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
            raise DatasetError(
                f"The dataset's pixels go from {pixels.min():.4g} to {pixels.max():.4g}; needed "
                "are 0 to 255, as photos are: preprocessing is inside the backbone."
            )
        photos += list(np.round(pixels).astype(np.uint8))
        labels += [_name_label(label, names) for label in truth]
    return photos, labels


def _name_label(label: Any, names: Sequence[str] | None) -> str:
    if np.ndim(label):
        label = np.argmax(label) if np.size(label) > 1 else np.ravel(label)[0]
    if names is not None and isinstance(label, (np.integer, np.floating)):
        if not 0 <= label < len(names):
            raise DatasetError(f"The dataset has a label {label:g}, and {len(names)} class_names.")
        return str(names[int(label)])
    return label.decode() if isinstance(label, bytes) else str(label)


def list_photos(photos: Any) -> Sequence[Any]:
    """Photos as a list: a single one, a path or a folder counts as a list of its photos.

    >>> len(list_photos(np.zeros((20, 30, 3), np.uint8))), len(list_photos([b"a", b"b"]))
    (1, 2)

    Raises:
        DatasetError: A path that does not exist, or cannot be listed.
    """
    is_array = isinstance(photos, np.ndarray) and photos.ndim in (2, 3)
    if isinstance(photos, (bytes, Image.Image)) or is_array:
        return [photos]
    if not isinstance(photos, (str, Path)):
        listed: Sequence[Any] = photos
        return listed
    problems: list[Problem] = []
    paths = list(list_files([locate(photos)], problems))
    if problems:
        raise DatasetError(f"{problems[0].path} {problems[0].reason}.")
    return paths
