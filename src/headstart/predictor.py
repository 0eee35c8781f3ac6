"""Bundle → predictions, without TensorFlow: for the command line, the server and the library."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from headstart.bundle import GRAPH, Bundle, load_bundle
from headstart.data.decode import DECODE_VERSION
from headstart.data.scan import Manifest, Problem
from headstart.data.stream import Content, map_photos
from headstart.errors import BundleError, DatasetError
from headstart.evaluation.metrics import Evaluation, evaluate
from headstart.runtimes.onnx_runtime import open_graph

Item = TypeVar("Item")


@dataclass(frozen=True)
class Prediction(Generic[Item]):
    """What a classifier says of one photo.

    Attributes:
        item: The photo as it was given.
        label: The most probable class; empty when the photo could not be read.
        probability: Its probability.
        probabilities: ``(class,)`` all of them; empty when the photo could not be read.
        problem: Why it could not be read, else None.
    """

    item: Item
    label: str
    probability: float
    probabilities: npt.NDArray[np.float32]
    problem: str | None = None


class Predictor:
    """Predicts with a bundle.

    Args:
        bundle: A path, or a loaded bundle.

    Raises:
        BundleError: The bundle cannot be used.
    """

    def __init__(self, bundle: str | Path | Bundle) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(Path(bundle))
        version = self.bundle.manifest["decode_version"]
        if version != DECODE_VERSION:
            raise BundleError(
                f"{self.bundle.path} was trained with version {version} of the photo decoder; this "
                f"Headstart has version {DECODE_VERSION}, whose pixels may differ. Train it again, "
                "or install the Headstart it was trained with (manifest.json, versions)."
            )
        self.class_names = self.bundle.class_names
        self._session = open_graph(self.bundle.members[GRAPH], "probabilities")

    def predict(
        self,
        items: Iterable[Item],
        read: Callable[[Item], Path | Content] | None = None,
    ) -> Iterator[Prediction[Item]]:
        """A prediction per photo, in order, while later ones are still being computed.

        Args:
            items: Paths, encoded bytes, Pillow images or uint8 arrays, or anything that ``read``
                turns into one of them.
            read: Gives the content of an item; by default paths are read.
        """
        batches = map_photos(items, read or read_photo, self.bundle.image_size, self._compute)
        with contextlib.closing(batches) as results:
            for batch in results:
                rows = iter(batch.rows)
                for item, reason in zip(batch.order, batch.reasons, strict=True):
                    if reason is None:
                        yield self._predict_row(item, next(rows))
                    else:
                        yield Prediction(item, "", 0.0, np.empty(0, np.float32), reason)

    def predict_proba(self, items: Sequence[Any]) -> npt.NDArray[np.float32]:
        """``(photo, class)`` probabilities; a row of NaN where a photo cannot be read."""
        result = np.full((len(items), len(self.class_names)), np.nan, np.float32)
        for row, prediction in enumerate(self.predict(items)):
            if prediction.problem is None:
                result[row] = prediction.probabilities
        return result

    def _predict_row(self, item: Item, row: npt.NDArray[np.float32]) -> Prediction[Item]:
        best = int(row.argmax())
        return Prediction(item, self.class_names[best], float(row[best]), row)

    def _compute(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        rows = self._session(images)
        if rows.shape != (len(images), len(self.class_names)):
            raise BundleError(
                f"The graph of {self.bundle.path} gives {rows.shape[1:]} probabilities for "
                f"{len(self.class_names)} classes."
            )
        return rows


def evaluate_manifest(
    predictor: Predictor, manifest: Manifest, seed: int = 0
) -> tuple[Evaluation, tuple[Problem, ...]]:
    """Measure a predictor on labelled photos; problems are those of the scan and of reading.

    Raises:
        DatasetError: No photos, or a class that the classifier does not know.
    """
    known = predictor.class_names
    strange = sorted(set(manifest.class_names) - set(known))
    if strange:
        raise DatasetError(
            f"The photos have classes the classifier does not know: {', '.join(strange)}. "
            f"It knows: {', '.join(known)}."
        )
    rows, labels, groups, problems = [], [], [], list(manifest.problems)
    for prediction in predictor.predict(manifest.samples, lambda sample: sample.path):
        if prediction.problem is not None:
            problems.append(Problem(prediction.item.path, prediction.problem))
        else:
            rows.append(prediction.probabilities)
            labels.append(known.index(prediction.item.label))
            groups.append(prediction.item.group or prediction.item.digest)
    if not rows:
        raise DatasetError(
            f"No photo could be evaluated; {len(problems)} files have problems, the first: "
            f"{problems[0].path} ({problems[0].reason})."
            if problems
            else "No photos found. Expected is a folder with one folder per class."
        )
    return evaluate(np.array(rows), np.array(labels), known, seed, groups), tuple(problems)


def describe_trained(bundle: Bundle, manifest: Manifest) -> Iterator[str]:
    """A sentence when a measurement counts photos that were trained on."""
    trained = set((bundle.manifest.get("split") or {}).get("train", ()))
    count = sum(sample.digest in trained for sample in manifest.samples)
    if count:
        yield (
            f"{count} of these {len(manifest.samples)} photos were trained on, so that the figures "
            "are too high. Measure on photos of their own; those set aside in training are in its "
            "evaluation."
        )


def read_photo(item: Any) -> Path | Content:
    """A path as such; bytes, Pillow images and arrays are content already."""
    return Path(item) if isinstance(item, (str, Path)) else item
