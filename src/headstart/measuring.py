"""Measure a bundle on labelled photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from headstart.bundle import Bundle
from headstart.data.scan import Manifest, Problem, Sample
from headstart.data.targets import encode_targets
from headstart.errors import DatasetError, say_count
from headstart.evaluation.labels import LabelsEvaluation
from headstart.evaluation.metrics import Evaluation, evaluate
from headstart.evaluation.tasks import AnyEvaluation, evaluate_answers
from headstart.evaluation.trust import measure_trust
from headstart.evaluation.values import ValueEvaluation, ValueTrust, evaluate_values
from headstart.predictor import Prediction, Predictor
from headstart.stopwatch import Stopwatch
from headstart.task import CLASSIFICATION


def evaluate_manifest(
    predictor: Predictor, manifest: Manifest, seed: int = 0, stopwatch: Stopwatch | None = None
) -> tuple[AnyEvaluation, tuple[Problem, ...]]:
    """Measure a predictor on labelled photos; problems are those of the scan and of reading.

    Args:
        predictor: Of a bundle.
        manifest: Labelled photos.
        seed: Of the intervals.
        stopwatch: Where the seconds go; the whole network's are those of ``prefix``.

    Raises:
        DatasetError: No photos, or a class or label that the classifier does not know.
    """
    known, noun = predictor.class_names, "classes"
    if predictor.task is not CLASSIFICATION:
        noun = "labels"
    strange = sorted(set(manifest.class_names) - set(known))
    if strange:
        raise DatasetError(
            f"The photos have {noun} the classifier does not know: {', '.join(strange)}. "
            f"It knows: {', '.join(known)}."
        )
    found, problems = [], list(manifest.problems)
    stopwatch, spent = stopwatch or Stopwatch(), Counter[str]()
    with stopwatch.step("prefix"):
        for prediction in predictor.predict(manifest.samples, lambda sample: sample.path, spent):
            if prediction.problem is None:
                found.append(prediction)
            else:
                problems.append(Problem(prediction.item.path, prediction.problem))
    # Cores do both at once; the time that passed is shared in proportion.
    share = spent["decode"] / max(spent.total(), 1e-9)
    stopwatch.move("prefix", {"decode": share * stopwatch.seconds["prefix"]})
    if not found:
        raise DatasetError(
            f"No photo could be evaluated; "
            f"{say_count(len(problems), 'file has a problem', 'files have problems')}, the first: "
            f"{problems[0].path} ({problems[0].reason})."
            if problems
            else "No photos found. Expected is a folder with one folder per class."
        )
    measure = _measure_classes if predictor.target_trust is None else _measure_targets
    with stopwatch.step("evaluate"):
        evaluation = measure(predictor, found, seed)
    return evaluation, tuple(problems)


def _measure_classes(
    predictor: Predictor, predictions: list[Prediction[Sample]], seed: int
) -> Evaluation:
    known, groups = predictor.class_names, _list_groups(predictions)
    rows = np.array([prediction.probabilities for prediction in predictions])
    labels = np.array([known.index(prediction.item.label) for prediction in predictions])
    found = evaluate(rows, labels, known, seed, groups)
    if predictor.trust is None:
        return found
    novelties = [p.novelty for p in predictions if p.novelty is not None]
    distances = np.array(novelties) if novelties else None
    figures = measure_trust(predictor.trust, rows, distances, labels, groups, predictor.asked)
    return replace(found, trust=figures)


def _measure_targets(
    predictor: Predictor, predictions: list[Prediction[Sample]], seed: int
) -> LabelsEvaluation | ValueEvaluation:
    """Several labels or numbers."""
    known, trust = predictor.class_names, predictor.target_trust
    assert trust is not None  # noqa: S101 - for the type checker
    rows = np.array(
        [p.probabilities if p.value is None else np.array([p.value]) for p in predictions]
    )
    labels = [prediction.item.label for prediction in predictions]
    targets, groups = encode_targets(labels, known, predictor.task), _list_groups(predictions)
    if isinstance(trust, ValueTrust):
        coverage = predictor.asked[0]
        values, truth = rows[:, 0], targets[:, 0]
        return evaluate_values(values, truth, trust, seed, groups, coverage=coverage)
    return evaluate_answers(rows, targets, known, trust, seed, groups)


def _list_groups(predictions: list[Prediction[Sample]]) -> npt.NDArray[np.str_]:
    return np.array([p.item.group or p.item.digest for p in predictions])


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
