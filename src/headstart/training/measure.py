"""Measure what training gave: on test photos, beside simpler answers, and by cross-validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.scan import Sample
from headstart.data.split import Split, list_folds
from headstart.data.stream import map_photos
from headstart.data.thumbnails import try_thumbnail
from headstart.errors import DatasetError
from headstart.evaluation.intervals import (
    Estimate,
    compare_hits,
    estimate_repeated,
)
from headstart.evaluation.metrics import Evaluation, evaluate
from headstart.evaluation.novelty import measure_distances
from headstart.evaluation.trust import Trust, measure_trust
from headstart.features.extract import Features
from headstart.features.forward import read_content
from headstart.runtimes.onnx_runtime import open_outputs
from headstart.task import CLASSIFICATION, Task
from headstart.training.linear import LinearHead
from headstart.training.once import hold_out_once
from headstart.training.probe import Probe
from headstart.training.trust import References, list_labels

Floats = npt.NDArray[np.floating]
Numbers = npt.NDArray[np.intp]

# With fewer test photos all photos are cross-validated as well.
ENOUGH_TESTED = 200
_REPEATS, _FOLDS = 5, 5
# Of more photos one division says enough, and twenty-five fits take long.
_MOST_CROSS_VALIDATED = 5000


@dataclass(frozen=True)
class Answer:
    """What was answered for a test photo.

    Attributes:
        sample: The photo, with its true label.
        answer: The most probable class; of several labels those that are said, with ``;`` between
            them; or the number.
        probability: Its probability; NaN of a number.
        truth_probability: That of the true class.
        is_sure: Whether the answer is confident enough; None where that is not known.
        novelty: Distance from the training photos as a multiple of what is usual; None likewise.
    """

    sample: Sample
    answer: str
    probability: float
    truth_probability: float
    is_sure: bool | None = None
    novelty: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether the answer is the true label."""
        return self.answer == self.sample.label

    @property
    def error(self) -> float:
        """Of a number: how far it is from the truth."""
        return abs(float(self.answer) - float(self.sample.label))

    def show(self) -> tuple[bytes, str]:
        """A thumbnail (empty when the photo cannot be read any more) and what to say of it."""
        sample = self.sample
        picture = try_thumbnail(sample.path if sample.content is None else sample.content)
        sure = "" if np.isnan(self.probability) else f" ({self.probability:.0%})"
        says = f"{self.answer or 'nothing'}{sure}, in truth {sample.label or 'nothing'}"
        return picture, f"{sample.path.name}: {says}"


@dataclass(frozen=True)
class Contrast:
    """The result beside a simpler one on the same test photos.

    Attributes:
        other: ``"largest class"`` or ``"probe"``.
        accuracy: Of the other.
        gain: Accuracy of the result minus that, with its paired 95 % interval.
        probability: Bootstrap probability that the result is better.
    """

    other: str
    accuracy: float
    gain: Estimate
    probability: float

    def __str__(self) -> str:
        low, high = 100 * self.gain.low, 100 * self.gain.high
        return (
            f"{100 * self.gain.value:+.1f} points [{low:+.1f}, {high:+.1f}] over the {self.other} "
            f"({self.accuracy:.1%})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Outputs:
    """Features and probabilities (or numbers) of photos as the bundle will give them.

    Attributes:
        features: Of the frozen backbone.
        probe: Its head.
        graph: The whole network where it was tuned, else empty.
        image_size: Side of its square input.
        task: What is told of a photo.
    """

    features: Features
    probe: Probe | LinearHead
    graph: bytes
    image_size: int
    task: Task = CLASSIFICATION

    def compute(self, samples: tuple[Sample, ...]) -> tuple[Floats, Floats]:
        """``(sample, feature)`` and ``(sample, class)`` of samples, in their order."""
        if not self.graph:
            rows, head = select_rows(self.features, samples), self.probe
            if isinstance(head, Probe):
                return rows, head.predict_proba(rows)
            return rows, head.predict(rows)
        run, parts = open_outputs(self.graph, ("features", self.task.output)), []
        width = 0

        def compute(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            nonlocal width
            features, probabilities = run(images)
            width = features.shape[1]
            return np.hstack([features, probabilities])

        with closing(map_photos(samples, read_content, self.image_size, compute)) as batches:
            for batch in batches:
                for sample, why in batch.failures:
                    raise DatasetError(f"{sample.path} cannot be read any more: {why}. Run again.")
                parts.append(batch.rows)
        both = np.concatenate(parts)
        return both[:, :width], both[:, width:]


@dataclass(frozen=True)
class Judge:
    """Measures the result on photos that it has not seen.

    Attributes:
        network: Gives the outputs.
        trust: Thresholds, or None.
        references: That photos are compared with, or None.
        class_names: Sorted.
        seed: Of the bootstrap.
    """

    network: Outputs
    trust: Trust | None
    references: References | None
    class_names: tuple[str, ...]
    seed: int

    def evaluate(
        self, samples: tuple[Sample, ...], group_of: Mapping[str, str]
    ) -> tuple[Evaluation | None, tuple[Answer, ...], Floats | None]:
        """Figures, what was answered for each photo, and probabilities; nothing of no photos."""
        if not samples:
            return None, (), None
        labels = list_labels(samples, self.class_names)
        features, probabilities = self.network.compute(samples)
        groups = np.array([group_of[sample.digest] for sample in samples])
        found = evaluate(probabilities, labels, self.class_names, self.seed, groups)
        novelties = None
        if self.trust is not None:
            novelties = self._measure_novelty(features)
            figures = measure_trust(self.trust, probabilities, novelties, labels, groups)
            found = replace(found, trust=figures)
        return found, self._list_answers(samples, labels, probabilities, novelties), probabilities

    def _list_answers(
        self,
        samples: tuple[Sample, ...],
        labels: npt.NDArray[np.intp],
        probabilities: Floats,
        novelties: Floats | None,
    ) -> tuple[Answer, ...]:
        judged = self.trust.judge(probabilities) if self.trust is not None else None
        return tuple(
            Answer(
                sample,
                self.class_names[probabilities[row].argmax()],
                float(probabilities[row].max()),
                float(probabilities[row, labels[row]]),
                None if judged is None else judged[row].is_sure,
                None if novelties is None else float(novelties[row]),
            )
            for row, sample in enumerate(samples)
        )

    def _measure_novelty(self, features: Floats) -> Floats | None:
        if self.trust is None or self.references is None or not self.trust.novelty_limit:
            return None
        neighbours = self.trust.neighbours
        distances = measure_distances(features, self.references.features, neighbours=neighbours)
        return np.asarray(distances / self.trust.novelty_limit, np.float32)

    def compare(
        self, split: Split, probabilities: Floats | None, probe: Outputs | None
    ) -> tuple[Contrast, ...]:
        """The result beside the test photos' largest class, and the probe where it was tuned.

        Args:
            split: Its test photos are those of the probabilities.
            probabilities: ``(test photo, class)``; None where nothing was tested.
            probe: Gives the probe's outputs, or None.
        """
        if probabilities is None:
            return ()
        labels = list_labels(split.test, self.class_names)
        groups = [split.groups[sample.digest] for sample in split.test]
        # As `Evaluation.majority` has it: what is best among those that look at no photo.
        largest = Counter(sample.label for sample in split.test).most_common(1)[0][0]
        answers = {"largest class": np.full(len(labels), self.class_names.index(largest))}
        if probe is not None:
            answers["probe"] = probe.compute(split.test)[1].argmax(1)
        right = probabilities.argmax(1) == labels
        found = []
        for other, theirs in answers.items():
            hits = theirs == labels
            gain = compare_hits(right, hits, groups, seed=self.seed)
            found.append(Contrast(other, float(hits.mean()), gain.difference, gain.probability))
        return tuple(found)


def cross_validate_probe(
    features: Features, split: Split, class_names: tuple[str, ...], probe: Probe, seed: int
) -> Estimate | None:
    """Accuracy over all photos, each answered by heads that had not seen it, five times over.

    The strength is that of the training photos: choosing among 13 values on most of the same
    photos changes the figure by less than its interval. None where a class has too few groups.
    """
    samples = (*split.train, *split.validation, *split.test)
    rows, labels = select_rows(features, samples), list_labels(samples, class_names)
    groups = [split.groups[sample.digest] for sample in samples]
    pairs = set(zip(labels.tolist(), groups, strict=True))
    fewest = min(Counter(label for label, _ in pairs).values())
    if fewest < 2:
        return None
    count = min(_FOLDS, fewest)
    repeats = [list(list_folds(labels, groups, count, seed + turn)) for turn in range(_REPEATS)]
    logits = hold_out_once(rows, labels, len(class_names), repeats, probe.strength)
    return estimate_repeated(logits.argmax(2) == labels, repeats, groups)


def select_rows(features: Features, samples: tuple[Sample, ...]) -> npt.NDArray[np.float32]:
    """``(sample, feature)`` float32 of some of the samples."""
    row_of = {sample.path: row for row, sample in enumerate(features.samples)}
    rows = [row_of[sample.path] for sample in samples]
    return np.asarray(features.array[rows], np.float32)
