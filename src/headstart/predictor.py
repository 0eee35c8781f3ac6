"""Bundle → predictions, without TensorFlow: for the command line, the server and the library."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from headstart.album import Album, parse_album
from headstart.bundle import GRAPH, REFERENCES, THUMBNAILS, Bundle, load_bundle, parse_arrays
from headstart.data.addresses import locate
from headstart.data.decode_pool import DecodePool
from headstart.data.stream import Batch, Content, give_up, map_photos
from headstart.data.views import make_view
from headstart.earlier import find_network_size
from headstart.engines import Work, check_is_seen, current_engine
from headstart.errors import BundleError, HeadstartError
from headstart.evaluation.labels import LabelTrust
from headstart.evaluation.novelty import MOST_REFERENCES, find_nearest, measure_distances
from headstart.evaluation.tasks import AnyTrust, measure_probability, read_trust
from headstart.evaluation.trust import COVERAGE, PRECISION, Trust, pick
from headstart.evaluation.values import ValueTrust
from headstart.runtimes.onnx_runtime import open_outputs
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, require_task

Item = TypeVar("Item")

MOST_VIEWS = 64
# Photos that a task takes along, where they are sent: about a second of a core.
_SENT = 32
# Training photos that are shown beside an answer.
SIMILAR = 3

_Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction(Generic[Item]):
    """What a classifier says of one photo.

    Attributes:
        item: The photo as it was given.
        label: The most probable class; empty when the photo could not be read.
        probability: Its probability.
        probabilities: ``(class,)`` all of them; empty when the photo could not be read.
        problem: Why it could not be read, else None.
        prediction_set: The classes among which the truth is, as often as was asked for; None where
            the bundle has no thresholds for it. The most probable first.
        is_sure: Whether the answer is confident enough for the wanted precision; None likewise.
        novelty: Distance from the training photos, as a multiple of what is usual among them; None
            where the bundle does not know.
        similar: The most similar training photos, as numbers in `Predictor.album`; empty where the
            bundle has no thumbnails.
        labels: Where a photo may have several: those whose probability reaches their threshold, in
            the order of the probabilities; `label` has them with ``;`` between them, and
            `probability` is that of exactly these, as if labels were independent.
        value: The number, of a regression; it has no label and no probabilities.
        interval: In which the truth is, as often as was asked for; None where too few training
            photos were held out for that.
    """

    item: Item
    label: str
    probability: float
    probabilities: npt.NDArray[np.float32]
    problem: str | None = None
    prediction_set: tuple[str, ...] | None = None
    is_sure: bool | None = None
    novelty: float | None = None
    similar: tuple[int, ...] = ()
    labels: tuple[str, ...] | None = None
    value: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def is_novel(self) -> bool | None:
        """Whether the photo does not look like the training photos; None where not known."""
        return None if self.novelty is None else self.novelty > 1


class Predictor:
    """Predicts with a bundle.

    Args:
        bundle: A path, or a loaded bundle.
        views: Views of each photo whose probabilities are averaged: 1, the photo itself; 2, also
            its mirror image; more, also crops, the same ones of every photo. Each view costs a
            pass of the network.
        coverage: Share of the prediction sets that shall hold the truth: 0.8, 0.9, 0.95 or 0.99.
        precision: Share of the sure answers that shall be right: 0.9, 0.95 or 0.99.

    Raises:
        BundleError: The bundle cannot be used.
        HeadstartError: ``views`` is not a whole number from 1 to 64, or there are no thresholds
            for the coverage or precision.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        views: int = 1,
        coverage: float = COVERAGE,
        precision: float = PRECISION,
    ) -> None:
        if not isinstance(views, int) or not 1 <= views <= MOST_VIEWS:
            raise HeadstartError(
                f"views is {views!r}; accepted are whole numbers from 1 to {MOST_VIEWS}."
            )
        self.views = views
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(Path(bundle))
        self._network_size = find_network_size(self.bundle)  # which refuses another decoder's
        self.class_names = self.bundle.class_names
        record, self.task = self.bundle.manifest.get("trust"), self.bundle.task
        known = read_trust(record, self.task) if record else None
        self.trust = known if isinstance(known, Trust) else None
        self.target_trust: LabelTrust | ValueTrust | None
        self.target_trust = None if isinstance(known, Trust) else known
        self.asked = coverage, precision
        self._check_asked(known)
        self._references = self._read_references()
        self.album = self._read_album()
        self.outputs = (self.task.output, *(() if self._references is None else ("features",)))
        self._session = open_outputs(self.bundle.members[GRAPH], self.outputs)

    def _check_asked(self, known: AnyTrust | None) -> None:
        """Refuse what there are no thresholds for, and what this task has none of."""
        coverage, precision = self.asked
        if isinstance(known, Trust):
            pick(known.thresholds, coverage, "coverage")
            pick(known.abstentions, precision, "precision")
            return
        if isinstance(known, ValueTrust):
            known.get_half_width(coverage)
        elif self.task is not CLASSIFICATION and coverage != COVERAGE:
            require_task(self.task, "A coverage", REGRESSION)
        if precision != PRECISION:
            require_task(self.task, "A precision of sure answers")

    def predict(
        self,
        items: Iterable[Item],
        read: Callable[[Item], Path | Content] | None = None,
        spent: Counter[str] | None = None,
    ) -> Generator[Prediction[Item]]:
        """A prediction per photo, in order, while later ones are still being computed.

        Args:
            items: Paths, encoded bytes, Pillow images or uint8 arrays, or anything that ``read``
                turns into one of them.
            read: Gives the content of an item; by default paths are read.
            spent: To it are added the seconds that cores take to ``decode`` and to ``compute``.
        """
        work = functools.partial(self._open_work, read or read_photo)
        batches = current_engine().map(work, items, lost=give_up, chunk=_SENT)
        with contextlib.closing(batches) as results:
            for batch in results:
                if spent is not None:
                    spent.update(batch.seconds)
                for item, row, reason in batch.outcomes:
                    if reason is None:
                        yield self.read_row(item, row)
                    else:
                        path = getattr(item, "path", item)
                        if isinstance(path, (str, Path)):
                            check_is_seen(locate(path), reason)
                        yield Prediction(item, "", 0.0, np.empty(0, np.float32), reason)

    @contextlib.contextmanager
    def _open_work(
        self, read: Callable[[Any], Path | Content], cores: int
    ) -> Iterator[Work[Any, Batch[Any]]]:
        """Photos → batches of rows, wherever that runs."""
        size = self.bundle.image_size
        with DecodePool(size, cores, network_size=self._network_size) as pool:
            yield lambda items: map_photos(items, read, pool, self.compute_rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process go the bundle and what was asked for; the network is opened there."""
        return _rebuild, (self.bundle, self.views, *self.asked)

    def predict_proba(self, items: Sequence[Any]) -> npt.NDArray[np.float32]:
        """``(photo, class)`` probabilities; a row of NaN where a photo cannot be read.

        Raises:
            HeadstartError: Of numbers there are none.
        """
        require_task(self.task, "A probability", MULTILABEL)
        result = np.full((len(items), len(self.class_names)), np.nan, np.float32)
        for row, prediction in enumerate(self.predict(items)):
            if prediction.problem is None:
                result[row] = prediction.probabilities
        return result

    def read_row(self, item: Item, row: npt.NDArray[np.float32]) -> Prediction[Item]:
        """What a row of `compute_rows` says of a photo."""
        count = len(self.class_names)
        novelty = float(row[count]) if len(row) > count else None
        similar = tuple(int(number) for number in row[count + 1 :])
        row = row[:count]
        if self.target_trust is not None:
            return self._read_target(item, row, self.target_trust)
        best = int(row.argmax())
        answer = Prediction(item, self.class_names[best], float(row[best]), row, novelty=novelty)
        answer = replace(answer, similar=similar)
        if self.trust is None:
            return answer
        (found,) = self.trust.judge(row[None], *self.asked)
        order = [number for number in row.argsort(kind="stable")[::-1] if found.labels[number]]
        names = tuple(self.class_names[number] for number in order)
        return replace(answer, prediction_set=names, is_sure=found.is_sure)

    def _read_target(
        self, item: Item, row: npt.NDArray[np.float32], trust: LabelTrust | ValueTrust
    ) -> Prediction[Item]:
        """Several labels or a number."""
        if isinstance(trust, LabelTrust):
            says = trust.choose(row)
            named = zip(self.class_names, says, strict=True)
            labels = tuple(name for name, is_said in named if is_said)
            odds = measure_probability(row, says)
            return Prediction(item, ";".join(labels), odds, row, labels=labels)
        value, width = float(row[0]), trust.get_half_width(self.asked[0])
        interval = None if width is None else (value - width, value + width)
        nothing = np.empty(0, np.float32)
        return Prediction(item, "", math.nan, nothing, value=value, interval=interval)

    def _read_references(self) -> npt.NDArray[np.float32] | None:
        if self.trust is None or self.trust.novelty_limit is None:
            return None
        data = self.bundle.members.get(REFERENCES)
        found = parse_arrays(data).get("features") if data is not None else None
        is_usable = (
            found is not None
            and found.ndim == 2
            and found.dtype == np.float16
            and 0 < len(found) <= MOST_REFERENCES
            and bool(np.isfinite(found).all())
        )
        if not is_usable:
            raise BundleError(
                f"{self.bundle.path} is damaged: {REFERENCES} has no usable features."
            )
        return np.asarray(found, np.float32)

    def _read_album(self) -> Album | None:
        data = self.bundle.members.get(THUMBNAILS)
        if data is None or self._references is None:
            return None
        try:
            return parse_album(data, len(self._references), len(self.class_names))
        except BundleError as error:
            raise BundleError(f"{self.bundle.path} is damaged: {error}") from error

    def compute_rows(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """``(photo, class)`` probabilities; where known, novelty; with an album, similar photos.

        The numbers of similar photos are exact as float32. They are those of the photo itself,
        whatever the views.
        """
        rows, similar = self._compute_view(images)
        if self.views > 1 and len(images):
            every = [rows, *(self._compute_view(view)[0] for view in self._list_views(images))]
            rows = np.mean(every, axis=0, dtype=np.float32)
        return rows if similar is None else np.column_stack([rows, similar])

    def _compute_view(self, images: npt.NDArray[np.uint8]) -> tuple[_Rows, _Rows | None]:
        return self._compare(*self._session(images))

    def finish_outputs(self, outputs: Mapping[str, _Rows]) -> _Rows:
        """What `compute_rows` gives, of `outputs` of the graph that were computed elsewhere."""
        rows, similar = self._compare(*(outputs[name] for name in self.outputs))
        return rows if similar is None else np.column_stack([rows, similar])

    def _compare(self, rows: _Rows, features: _Rows | None = None) -> tuple[_Rows, _Rows | None]:
        """The rows with novelties, and similar training photos, where they are known."""
        if rows.shape[1:] != (len(self.class_names),):
            raise BundleError(
                f"The graph of {self.bundle.path} gives {rows.shape[1:]} probabilities for "
                f"{len(self.class_names)} classes."
            )
        novelties = self.measure_novelty(features) if features is not None else None
        if novelties is None or features is None or self._references is None:
            return rows, None
        rows = np.column_stack([rows, novelties])
        if self.album is None:
            return rows, None
        return rows, find_nearest(features, self._references, SIMILAR).astype(np.float32)

    def measure_novelty(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """``(photo,)`` distance from the training photos, as a multiple of what is usual.

        Args:
            features: ``(photo, feature)`` what the graph gives, of any length.

        Raises:
            BundleError: The bundle's own features have another width.
        """
        if self._references is None or self.trust is None:
            return None
        if features.shape[1:] != self._references.shape[1:]:
            raise BundleError(
                f"The graph of {self.bundle.path} gives {features.shape[1:]} features; its "
                f"{REFERENCES} has {self._references.shape[1:]}."
            )
        neighbours = self.trust.neighbours
        distances = measure_distances(features, self._references, neighbours=neighbours)
        return np.asarray(distances / np.float32(self.trust.novelty_limit), np.float32)

    def _list_views(self, images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
        for number in range(1, self.views):
            # Without a photo's digest: every photo is seen in the same crops.
            yield np.stack([make_view(image, len(image), "", number) for image in images])


def _rebuild(bundle: Bundle, views: int, coverage: float, precision: float) -> Predictor:
    return Predictor(bundle, views=views, coverage=coverage, precision=precision)


def read_photo(item: Any) -> Path | Content:
    """A path as such; bytes, Pillow images and arrays are content already."""
    return locate(item) if isinstance(item, (str, Path)) else item
