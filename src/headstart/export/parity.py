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
from headstart.evaluation.tasks import read_trust
from headstart.export.decisions import DECISIONS
from headstart.runtimes.onnx_runtime import open_outputs
from headstart.task import CLASSIFICATION, Task

# From the files' bytes a format may decode and resize in its own way.
MOST_CHANGED_FROM_FILES = 0.01
# Of the score, by whole numbers.
MOST_LOST = 0.05


@dataclass(frozen=True)
class Gap:
    """How far two sets of answers are apart.

    Attributes:
        photos: How many were compared.
        largest: Difference of a probability; of a number, as a share of the spread of all answers.
        mean: Of the largest difference of each photo.
        changed: How many photos get another class, other labels, or a number that is farther away
            than a tenth of the spread.
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
        score: Of the export minus that of the bundle, where it was measured again: of the accuracy,
            of the share of photos with exactly the right labels, or of 1 - error / spread.
        milliseconds: Per photo, one after the other.
        bundle_milliseconds: Likewise, of the bundle.
        task: What is told of a photo.
    """

    pixels: Gap
    files: Gap
    score: Comparison | None
    milliseconds: float
    bundle_milliseconds: float
    task: Task = CLASSIFICATION

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = {key: value for key, value in asdict(self).items() if key != "task"}
        return plain | {"measure": DECISIONS[self.task.name].measure if self.score else None}


@dataclass(frozen=True)
class Trial:
    """Photos to compare on.

    Attributes:
        contents: Bytes of files.
        squares: ``(photo, size, size, 3)`` uint8 what the product makes of them.
        truths: ``(photo, name)`` as `headstart.data.targets.encode_targets` has it; NaN where the
            label is none that the bundle knows.
    """

    contents: tuple[bytes, ...]
    squares: npt.NDArray[np.uint8]
    truths: npt.NDArray[np.float64]

    def take(self, most: int) -> Trial:
        """The first photos."""
        return Trial(self.contents[:most], self.squares[:most], self.truths[:most])


class Original:
    """A bundle and its answers for the photos of a trial, each of which is computed once.

    Args:
        bundle: The bundle.
        trial: Photos.
    """

    def __init__(self, bundle: Bundle, trial: Trial) -> None:
        self.trial, self.task = trial, bundle.task
        record = bundle.manifest.get("trust")
        self.trust = read_trust(record, self.task) if record else None
        self.run = open_outputs(bundle.members[GRAPH], (self.task.output,))
        self._rows: list[npt.NDArray[np.float32]] = []

    def answer(self, count: int) -> npt.NDArray[np.float32]:
        """``(photo, name)`` answers for the first photos."""
        missing = self.trial.squares[len(self._rows) : count]
        self._rows += [self.run(square[None])[0][0] for square in missing]
        return np.stack(self._rows[:count])


def make_trial(
    contents: Sequence[bytes], truths: npt.NDArray[np.float64], image_size: int
) -> Trial:
    """The photos that can be read, see `Trial`.

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
    return Trial(tuple(contents[number] for number in kept), np.stack(squares), truths[kept])


def measure_parity(
    original: Original, runner: Any, *, most: int | None = None, again: bool = False
) -> Parity:
    """Compare an export with its bundle.

    Args:
        original: The bundle, with photos.
        runner: A `headstart.export.Runner`.
        most: How many of the photos; all by default.
        again: Whether the score is measured again.
    """
    trial = original.trial if most is None else original.trial.take(most)
    expected = original.answer(len(trial.squares))
    found = np.asarray(runner.run_squares(trial.squares))
    pixels = _compare(original, expected, list(found))
    files = _compare(original, expected, runner.run_files(trial.contents))
    return Parity(
        pixels,
        files,
        _measure_score(original, expected, found, trial.truths) if again else None,
        _time(runner.run_squares, trial.squares),
        _time(original.run, trial.squares),
        original.task,
    )


def _measure_score(
    original: Original,
    expected: npt.NDArray[np.float32],
    found: npt.NDArray[np.float32],
    truths: npt.NDArray[np.float64],
) -> Comparison | None:
    """The score of the found answers beside that of the expected ones, where truths are known."""
    known = ~np.isnan(truths).any(1)
    if not known.any():
        return None
    decisions = DECISIONS[original.task.name]
    unit = decisions.unit(expected)
    hits, before = (
        decisions.score(rows[known], truths[known], original.trust, unit)
        for rows in (found, expected)
    )
    return compare_hits(hits, before, np.arange(len(hits)))


def _compare(original: Original, expected: npt.NDArray[np.float32], found: Sequence[Any]) -> Gap:
    decisions, unit = DECISIONS[original.task.name], 1.0
    pairs = [(e, f) for e, f in zip(expected, found, strict=True) if f is not None]
    if not pairs:
        return Gap(0, 0.0, 0.0, 0, len(found))
    unit = decisions.unit(expected)
    ours, theirs = (np.array(rows, np.float64) for rows in zip(*pairs, strict=True))
    gaps = abs(theirs - ours).max(1) / unit
    changed = int(decisions.differ(ours, theirs, original.trust, unit).sum())
    return Gap(len(pairs), float(gaps.max()), float(gaps.mean()), changed, len(found) - len(pairs))


def _time(run: Any, squares: npt.NDArray[np.uint8], most: int = 20) -> float:
    run(squares[:1])
    start = time.perf_counter()
    for square in squares[:most]:
        run(square[None])
    return 1000 * (time.perf_counter() - start) / min(most, len(squares))


def find_faults(parity: Parity, tolerance: float | None) -> list[str]:
    """Why an export is refused; empty where it is not."""
    faults = []
    pixels, files, decisions = parity.pixels, parity.files, DECISIONS[parity.task.name]
    if tolerance is not None and not pixels.largest <= tolerance:
        faults.append(
            f"from identical pixels {decisions.each} differs by {pixels.largest:.2g}, more than "
            f"{tolerance:g}"
        )
    allowed = max(MOST_CHANGED_FROM_FILES * files.photos, 1)
    if tolerance is not None and files.changed > allowed:
        faults.append(
            f"from files {files.changed} of {files.photos} photos get {decisions.another}"
        )
    if not files.photos:
        faults.append("it reads none of the files")
    if tolerance is None:
        lost = -parity.score.difference.value if parity.score else 0.0
        share = pixels.changed / pixels.photos
        if not lost <= MOST_LOST or (parity.score is None and share > MOST_LOST):
            faults.append(
                f"{pixels.changed} of {pixels.photos} photos get {decisions.another}, and the "
                f"{decisions.measure} falls by {100 * lost:.1f} points"
            )
    return faults
