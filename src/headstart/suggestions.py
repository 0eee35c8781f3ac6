"""Which unlabelled photos are most worth a label."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.bundle import GRAPH, Bundle, check_output
from headstart.data.addresses import AddressPath, locate
from headstart.data.decode import LIMITS
from headstart.data.decode_pool import DecodePool
from headstart.data.scan import Problem, check_file, list_files
from headstart.data.split import SIDES
from headstart.data.stream import map_photos
from headstart.data.thumbnails import try_thumbnail
from headstart.earlier import find_network_size
from headstart.errors import DatasetError, HeadstartError, UnreadablePhotoError, say_count
from headstart.evaluation.gallery import Card, Section, render_gallery
from headstart.evaluation.novelty import normalise_rows
from headstart.evaluation.selection import measure_margins, select_photos
from headstart.files import digest_bytes, digest_file, dump_table, write_bytes
from headstart.predictor import Predictor
from headstart.runtimes.onnx_runtime import open_outputs
from headstart.task import require_task

Floats = npt.NDArray[np.floating]

_SIDE = 144


@dataclass(frozen=True)
class Suggestion:
    """A photo that is worth a label.

    Attributes:
        path: The photo.
        label: The most probable class.
        probability: Its probability.
        other: The second class.
        other_probability: Its probability.
        is_novel: Whether it does not look like the training photos; None where not known.
    """

    path: Path
    label: str
    probability: float
    other: str
    other_probability: float
    is_novel: bool | None

    @property
    def says(self) -> str:
        """A sentence."""
        text = f"{self.label} {self.probability:.0%} or {self.other} {self.other_probability:.0%}"
        return f"{text}; unlike the training photos" if self.is_novel else text


@dataclass(frozen=True)
class Suggestions:
    """Photos to label, those of the least sure answers first.

    Attributes:
        rows: The photos.
        photos: How many were looked at.
        known: How many of them were passed over because the classifier was trained or tested on
            their bytes, or because another one has the same bytes.
        problems: Files that could not be read.
    """

    rows: tuple[Suggestion, ...]
    photos: int
    known: int
    problems: tuple[Problem, ...]

    def write_csv(self, path: Path, *, force: bool = False) -> None:
        """A table with an empty column ``label``, to be filled in.

        Raises:
            OutputExistsError, HeadstartError: It exists, or cannot be written.
        """
        check_output(path, force)
        columns = ("path", "label", "answer", "probability", "other", "other_probability")
        rows = (
            {
                "path": row.path.absolute(),
                "label": None,
                "answer": row.label,
                "probability": f"{row.probability:.4f}",
                "other": row.other,
                "other_probability": f"{row.other_probability:.4f}",
            }
            for row in self.rows
        )
        write_bytes(path, dump_table(columns, rows))

    def write_html(self, path: Path, *, force: bool = False) -> None:
        """A page with the photos; it needs nothing else.

        Raises:
            OutputExistsError, HeadstartError: It exists, or cannot be written.
            MissingPackageError: Jinja is not installed.
        """
        check_output(path, force)
        cards = tuple(
            Card(
                f"{row.label} or {row.other}?",
                row.says,
                row.path.name,
                (try_thumbnail(row.path, _SIDE),),
            )
            for row in self.rows
        )
        section = Section("Worth a label", "", cards, len(cards))
        lines = [f"Of {self.photos:,} photos, these would teach the classifier most."]
        text = render_gallery("Photos to label next", "Headstart suggestions", lines, [section])
        write_bytes(path, text.encode())


def suggest_photos(
    photos: str | Path | Iterable[str | Path],
    bundle: str | Path | Bundle,
    count: int = 20,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Suggestions:
    """The unlabelled photos most worth a label: unsure answers, unlike one another.

    Photos that the classifier knows, by their bytes, are passed over. A photo's features take some
    kilobytes of memory until the choice is made.

    Args:
        photos: A folder, a photo, or several of them.
        bundle: Of the classifier that shall learn from them.
        count: How many are wanted.
        seed: Of the choice among similar photos.
        progress: Called with ``(done, all)`` photos.

    Raises:
        DatasetError: No photo is new and can be read.
        HeadstartError: ``count`` is below 1.
        BundleError: The bundle cannot be used.

    Example::

        found = headstart.suggest_photos("unlabelled/", "flowers.headstart")
        found.write_csv(Path("to-label.csv"))
    """
    if count < 1:
        raise HeadstartError(f"{count} photos were asked for; accepted are numbers from 1 on.")
    predictor = Predictor(bundle)
    require_task(predictor.task, "Suggesting photos to label")
    problems: list[Problem] = []
    given = [photos] if isinstance(photos, (str, Path)) else photos
    paths = list(list_files(map(locate, given), problems))
    new, odds, features, known = _compute(predictor, paths, problems, progress)
    if not new:
        raise DatasetError(_describe_none(len(paths), known, problems))
    chosen = select_photos(measure_margins(odds), normalise_rows(features), count, seed)
    novelties = predictor.measure_novelty(features[chosen].astype(np.float32))
    rows = [_suggest(new[row], odds[row], predictor.class_names) for row in chosen]
    if novelties is not None:
        rows = [replace(r, is_novel=bool(n > 1)) for r, n in zip(rows, novelties, strict=True)]
    return Suggestions(tuple(rows), len(paths), known, tuple(problems))


def _compute(
    predictor: Predictor,
    paths: Sequence[Path],
    problems: list[Problem],
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Path], Floats, Floats, int]:
    """New photos, their probabilities and features, and how many are known."""
    bundle, digests = predictor.bundle, dict[Path, str]()
    session = open_outputs(bundle.members[GRAPH], ("probabilities", "features"))

    def load(path: Path) -> Path | bytes:
        reason = check_file(path, LIMITS.file_bytes)
        if reason:
            raise UnreadablePhotoError(reason)
        if isinstance(path, AddressPath):
            content = path.read_bytes()
            digests[path] = digest_bytes(content)
            return content
        digests[path] = digest_file(path)
        return path

    def compute(images: npt.NDArray[np.uint8]) -> Floats:
        return np.concatenate([array.astype(np.float32) for array in session(images)], axis=1)

    seen = {digest for side in SIDES for digest in (bundle.manifest["split"] or {}).get(side, ())}
    new, rows, known, done = [], [], 0, 0
    with (
        DecodePool(bundle.image_size, network_size=find_network_size(bundle)) as pool,
        contextlib.closing(map_photos(paths, load, pool, compute)) as batches,
    ):
        for batch in batches:
            problems += [Problem(path, reason) for path, reason in batch.failures]
            for path, row in zip(batch.items, batch.rows, strict=True):
                if digests[path] in seen:
                    known += 1
                    continue
                seen.add(digests[path])
                new.append(path)
                rows.append(row.astype(np.float16))
            done += len(batch.order)
            if progress is not None:
                progress(done, len(paths))
    width = len(predictor.class_names)
    found = np.array(rows) if rows else np.empty((0, width), np.float16)
    return new, found[:, :width].astype(np.float32), found[:, width:], known


def _describe_none(count: int, known: int, problems: Sequence[Problem]) -> str:
    if known:
        return f"All {known} photos that can be read are known to the classifier already."
    if problems:
        first = problems[0]
        return (
            f"No photo can be read; "
            f"{say_count(len(problems), 'file has a problem', 'files have problems')}, "
            f"the first: {first.path} ({first.reason})."
        )
    return f"No photos found ({count} files). Give a folder of unlabelled photos."


def _suggest(path: Path, odds: Floats, names: Sequence[str]) -> Suggestion:
    first, second = np.argsort(-odds, kind="stable")[:2]
    figures = names[first], float(odds[first]), names[second], float(odds[second])
    return Suggestion(path, *figures, None)
