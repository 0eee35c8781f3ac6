"""Photos and labels given as two lists: paths, encoded bytes, Pillow images, uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.data.groups import compile_pattern, find_groups
from headstart.data.scan import Manifest, Problem, Sample, read_sample
from headstart.errors import DatasetError
from headstart.files import digest_bytes


def scan_labelled(photos: Any, labels: Sequence[Any], group_by: str | None = None) -> Manifest:
    """The manifest of photos with labels.

    ``photos`` is any iterable of them; those that are not files are called ``photo N`` in lists of
    problems. ``group_by`` is a regular expression on paths as they are given, see
    `headstart.data.groups.find_groups`.

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
    for number, (photo, label) in enumerate(zip(items, labels, strict=True)):
        if isinstance(photo, (str, Path)):
            found = read_sample(Path(photo), str(label), None)
            if isinstance(found, Problem):
                problems.append(found)
                continue
        elif pattern is not None:
            raise DatasetError(
                f"group_by={group_by!r} looks for groups in paths, and photo {number} is "
                f"{type(photo).__name__}. Give paths, or a DataFrame with a column of groups."
            )
        else:
            digest = digest_content(photo)
            found = Sample(Path(f"photo {number}"), str(label), digest, None, photo)
        samples.append(found)
    groups, warnings = find_groups([sample.path.as_posix() for sample in samples], pattern)
    grouped = (replace(s, group=group) for s, group in zip(samples, groups, strict=True))
    return Manifest(tuple(grouped), tuple(problems), tuple(warnings))


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
