"""Write a classifier for other runtimes, each file checked against the bundle before it is kept."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.bundle import Bundle, load_bundle
from headstart.data.addresses import locate
from headstart.data.decode import decode_photo
from headstart.data.scan import Sample
from headstart.data.table import scan_source
from headstart.data.targets import encode_targets
from headstart.earlier import find_network_size
from headstart.errors import (
    ExportError,
    HeadstartError,
    OutputExistsError,
    RunError,
    UnreadablePhotoError,
)
from headstart.export import EXPORTERS, get_exporter
from headstart.export.card import write_card
from headstart.export.material import Material, Pixels
from headstart.export.parity import (
    Original,
    Parity,
    Trial,
    find_faults,
    make_trial,
    measure_parity,
)
from headstart.files import digest_bytes, make_folder, write_bytes
from headstart.quiet import start_tensorflow
from headstart.runs import load_run
from headstart.task import Task

if TYPE_CHECKING:
    import keras

RECORD, CARD = "exports.json", "README.md"
# Photos that an export is compared on; for whole numbers, whose accuracy is measured, all of the
# test photos up to the second number; and training photos that these are calibrated with.
_COMPARED, _MEASURED, _REPRESENTATIVE = 100, 1000, 200


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        name: Of the format.
        path: The file or folder.
        size_bytes: Of all of it.
        reads: What it takes, for people.
        parity: Beside the bundle.
        faults: Why it would have been refused; empty unless that was overridden.
    """

    name: str
    path: Path
    size_bytes: int
    reads: str
    parity: Parity
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format": self.name,
            "file": self.path.name,
            "bytes": self.size_bytes,
            "reads": self.reads,
            "parity": self.parity.to_json(),
            "faults": list(self.faults),
        }


class Exporting:
    """Exports of one bundle into one folder.

    Args:
        bundle: A path, or a loaded bundle.
        folder: Where to; by default ``NAME-exports`` beside the bundle.
        photos: Labelled photos to compare on: a folder or table as for training. By default the
            test photos of the run folder beside the bundle, and its training photos to calibrate
            with.
        known: The backbone, where it was given as an object and is still in memory.
        force: Whether exports that are there are replaced.
        keep_faulty: Whether exports that differ too much from the bundle are kept all the same.

    Raises:
        ExportError: There are no photos to compare on.
        BundleError: The bundle cannot be used.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        folder: str | Path | None = None,
        *,
        photos: str | Path | Any = None,
        known: keras.Model | None = None,
        force: bool = False,
        keep_faulty: bool = False,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(Path(bundle))
        path = self.bundle.path or Path("classifier.headstart")
        if find_network_size(self.bundle) != self.bundle.image_size:
            raise ExportError(
                f"{path} was trained when small photos were cut like large ones; exports cut them "
                "as trainings do now. Train it again."
            )
        self.name = path.name.removesuffix(".headstart")
        self.folder = Path(folder) if folder else path.with_name(f"{self.name}-exports")
        self.force, self.keep_faulty = force, keep_faulty
        test, train = _find_photos(path, photos, self.bundle.task)
        self._original = Original(self.bundle, _read_trial(test[:_MEASURED], self.bundle))
        shown = _read_squares(train[:_REPRESENTATIVE], self.bundle.image_size)
        self._material = Material(self.bundle, known, shown)

    def write(self, name: str) -> Export:
        """Write one format, compare it with the bundle, and keep it if it agrees.

        Beside it go a JSON file with class names, thresholds and what was measured, and a program
        of fewer than 20 lines that answers with it. The folder gets a model card.

        Raises:
            ExportError: The format cannot hold the network, or does not predict what the bundle
                does.
            OutputExistsError: It is there, and ``force`` is not set.
            MissingPackageError: A package of the format is not installed.
        """
        exporter = get_exporter(name)
        start_tensorflow()
        target = make_folder(self.folder) / f"{self.name}{exporter.suffix}"
        if target.exists() and not self.force:
            raise OutputExistsError(
                f"{target} exists already. Choose another folder with -o, or overwrite it with "
                "--force."
            )
        with tempfile.TemporaryDirectory(prefix=".export-", dir=self.folder) as partial:
            written = Path(partial) / target.name
            exporter.write(self._material, written)
            again = exporter.tolerance is None
            most = None if again else _COMPARED
            parity = measure_parity(self._original, exporter.open(written), most=most, again=again)
            faults = tuple(find_faults(parity, exporter.tolerance))
            if faults and not self.keep_faulty:
                raise ExportError(
                    f"{target.name} does not predict what the bundle does: {'; '.join(faults)}. "
                    "Nothing was written; --keep-faulty writes it all the same."
                )
            size = sum(p.stat().st_size for p in _list_files(written))
            _replace(written, target)
        export = Export(name, target, size, exporter.reads, parity, faults)
        self._write_beside(export, exporter.write_example(self._material))
        return export

    def write_all(self, told: Callable[[str, Export | Exception], None]) -> list[Export]:
        """Write every format; ``told`` hears of each, what was written or why it was not."""
        written = []
        for name in EXPORTERS:
            try:
                written.append(self.write(name))
                told(name, written[-1])
            except HeadstartError as error:
                told(name, error)
        return written

    def _write_beside(self, export: Export, example: str) -> None:
        beside = {**self._material.metadata, **export.to_json()}
        path = export.path
        write_bytes(path.with_name(f"{path.name}.json"), json.dumps(beside, indent=1).encode())
        write_bytes(path.with_name(f"{path.name}.py"), example.encode())
        record = self.folder / RECORD
        rows = json.loads(record.read_bytes()) if record.is_file() else []
        rows = [row for row in rows if row["format"] != export.name] + [export.to_json()]
        write_bytes(record, json.dumps(rows, indent=1).encode())
        card = write_card(self.name, self.bundle.manifest, rows)
        write_bytes(self.folder / CARD, card.encode())


def _find_photos(path: Path, photos: Any, task: Task) -> tuple[list[Sample], list[Sample]]:
    """Photos to compare on, and training photos."""
    if photos is not None:
        mixed = _shuffle(scan_source(photos, task=task).samples)
        return mixed, mixed
    try:
        run = load_run(path)
    except RunError as error:
        raise ExportError(
            f"An export is compared with the bundle on real photos, and there are none: {error} "
            "Or give --photos FOLDER."
        ) from None
    sides: dict[str, list[Sample]] = {"test": [], "train": [], "validation": []}
    for row in run.split:
        sides[row["split"]].append(Sample(locate(row["path"]), row["label"], row["digest"]))
    test, train = (_shuffle(sides[side]) for side in ("test", "train"))
    return test or train, train


def _shuffle(samples: Sequence[Sample]) -> list[Sample]:
    order = np.random.default_rng(0).permutation(len(samples))
    return [samples[number] for number in order.tolist()]


def _read(samples: Iterable[Sample]) -> Iterable[tuple[bytes, Sample]]:
    for sample in samples:
        try:
            content = sample.path.read_bytes() if sample.content is None else sample.content
        except OSError:
            continue  # not there any more
        if isinstance(content, bytes):
            yield content, sample


def _read_trial(samples: Sequence[Sample], bundle: Bundle) -> Trial:
    pairs = list(_read(samples))
    truths = np.full((len(pairs), len(bundle.class_names)), np.nan)
    for row, (_, sample) in enumerate(pairs):
        # A label that the bundle does not know: nothing it says would be right or wrong.
        with contextlib.suppress(KeyError):
            truths[row] = encode_targets([sample.label], bundle.class_names, bundle.task)[0]
    return make_trial([content for content, _ in pairs], truths, bundle.image_size)


def _read_squares(samples: Sequence[Sample], image_size: int) -> Pixels:
    squares = []
    for content, sample in _read(samples):
        if digest_bytes(content) != sample.digest:
            continue  # another photo than was trained on
        try:
            squares.append(decode_photo(content, image_size))
        except UnreadablePhotoError:
            continue
    return np.stack(squares) if squares else np.empty(0, np.uint8)


def _list_files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]


def _replace(written: Path, target: Path) -> None:
    """Put a finished file or folder where it belongs; an old one goes once the new one is there."""
    if target.is_dir():
        old = written.with_name(f"old-{target.name}")
        target.replace(old)
        os.replace(written, target)  # noqa: PTH105 - works for folders, too
        shutil.rmtree(old)
        return
    written.replace(target)
