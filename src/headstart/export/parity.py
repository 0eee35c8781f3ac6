"""Does an export predict what the bundle does? Measured on real photos, before it is given out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.bundle import GRAPH, Bundle
from headstart.data.decode import decode_photo
from headstart.errors import ExportError, UnreadablePhotoError
from headstart.evaluation.intervals import Comparison, compare_hits
from headstart.runtimes.onnx_runtime import open_outputs

# From the files' bytes a format may decode and resize in its own way.
MOST_CHANGED_FROM_FILES = 0.01
# Of the accuracy, by whole numbers.
MOST_LOST = 0.05


@dataclass(frozen=True)
class Gap:
    """How far two sets of probabilities are apart.

    Attributes:
        photos: How many were compared.
        largest: Difference of a probability.
        mean: Of the largest difference of each photo.
        changed: How many photos get another class.
        unread: How many the format could not read.
    """

    photos: int
    largest: float
    mean: float
    changed: int
    unread: int = 0


@dataclass(frozen=True)
class Parity:
    """An export beside its bundle.

    Attributes:
        pixels: From identical squares.
        files: From files' bytes, by the format's own decoder or that of its example.
        accuracy: Of the export minus that of the bundle, where it was measured again.
        milliseconds: Per photo, one after the other.
        bundle_milliseconds: Likewise, of the bundle.
    """

    pixels: Gap
    files: Gap
    accuracy: Comparison | None
    milliseconds: float
    bundle_milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Trial:
    """Photos to compare on.

    Attributes:
        contents: Bytes of files.
        squares: ``(photo, size, size, 3)`` uint8 what the product makes of them.
        labels: ``(photo,)`` class numbers; -1 where the class is not known.
    """

    contents: tuple[bytes, ...]
    squares: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.intp]

    def take(self, most: int) -> Trial:
        """The first photos."""
        return Trial(self.contents[:most], self.squares[:most], self.labels[:most])


class Original:
    """A bundle and its answers for the photos of a trial, each of which is computed once.

    Args:
        bundle: The bundle.
        trial: Photos.
    """

    def __init__(self, bundle: Bundle, trial: Trial) -> None:
        self.trial = trial
        self.run = open_outputs(bundle.members[GRAPH], ("probabilities",))
        self._rows: list[npt.NDArray[np.float32]] = []

    def answer(self, count: int) -> npt.NDArray[np.float32]:
        """``(photo, class)`` probabilities of the first photos."""
        missing = self.trial.squares[len(self._rows) : count]
        self._rows += [self.run(square[None])[0][0] for square in missing]
        return np.stack(self._rows[:count])


def make_trial(contents: Sequence[bytes], labels: Sequence[int], image_size: int) -> Trial:
    """The photos that can be read.

    Raises:
        ExportError: None can.
    """
    kept, squares = [], []
    for number, content in enumerate(contents):
        try:
            squares.append(decode_photo(content, image_size))
            kept.append(number)
        except UnreadablePhotoError:
            continue
    if not kept:
        raise ExportError("No photo can be read to check the export with. Give --photos FOLDER.")
    known = np.array([labels[number] for number in kept], np.intp)
    return Trial(tuple(contents[number] for number in kept), np.stack(squares), known)


def measure_parity(
    original: Original, runner: Any, *, most: int | None = None, again: bool = False
) -> Parity:
    """Compare an export with its bundle.

    Args:
        original: The bundle, with photos.
        runner: A `headstart.export.Runner`.
        most: How many of the photos; all by default.
        again: Whether the accuracy is measured again.
    """
    trial = original.trial if most is None else original.trial.take(most)
    expected = original.answer(len(trial.squares))
    found = np.asarray(runner.run_squares(trial.squares))
    pixels = _compare(expected, list(found))
    files = _compare(expected, runner.run_files(trial.contents))
    accuracy = None
    known = trial.labels >= 0
    if again and known.any():
        truth = trial.labels[known]
        hits, before = found[known].argmax(1) == truth, expected[known].argmax(1) == truth
        accuracy = compare_hits(hits, before, np.arange(len(truth)))
    return Parity(
        pixels,
        files,
        accuracy,
        _time(runner.run_squares, trial.squares),
        _time(original.run, trial.squares),
    )


def _compare(expected: npt.NDArray[np.float32], found: Sequence[Any]) -> Gap:
    pairs = [(e, f) for e, f in zip(expected, found, strict=True) if f is not None]
    if not pairs:
        return Gap(0, 0.0, 0.0, 0, len(found))
    gaps = np.array([abs(np.asarray(f, np.float64) - e).max() for e, f in pairs])
    changed = sum(int(e.argmax() != np.asarray(f).argmax()) for e, f in pairs)
    unread = len(found) - len(pairs)
    return Gap(len(pairs), float(gaps.max()), float(gaps.mean()), changed, unread)


def _time(run: Any, squares: npt.NDArray[np.uint8], most: int = 20) -> float:
    run(squares[:1])
    start = time.perf_counter()
    for square in squares[:most]:
        run(square[None])
    return 1000 * (time.perf_counter() - start) / min(most, len(squares))


def find_faults(parity: Parity, tolerance: float | None) -> list[str]:
    """Why an export is refused; empty where it is not."""
    faults = []
    pixels, files = parity.pixels, parity.files
    if tolerance is not None and not pixels.largest <= tolerance:
        faults.append(
            f"from identical pixels a probability differs by {pixels.largest:.2g}, more than "
            f"{tolerance:g}"
        )
    allowed = max(MOST_CHANGED_FROM_FILES * files.photos, 1)
    if tolerance is not None and files.changed > allowed:
        faults.append(f"from files {files.changed} of {files.photos} photos get another class")
    if not files.photos:
        faults.append("it reads none of the files")
    if tolerance is None:
        lost = -parity.accuracy.difference.value if parity.accuracy else 0.0
        share = pixels.changed / pixels.photos
        if lost > MOST_LOST or (parity.accuracy is None and share > MOST_LOST):
            faults.append(
                f"{pixels.changed} of {pixels.photos} photos get another class, and the accuracy "
                f"falls by {100 * lost:.1f} points"
            )
    return faults
