"""Follow a recipe where photos have several labels or a number: photos → features → head → figures.

As `headstart.training.fit`, with another head and other figures. Only the head is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.leaks import describe_leaks
from headstart.data.scan import Manifest, Sample
from headstart.data.split import Split, check_classes
from headstart.data.stratify import Fold, deal_folds
from headstart.data.targets import encode_targets, list_names, make_strata
from headstart.errors import DatasetError, HeadstartError, require_package
from headstart.evaluation.labels import LabelsEvaluation, LabelTrust
from headstart.evaluation.tasks import evaluate_answers, measure_probability
from headstart.evaluation.values import ValueEvaluation, ValueTrust, fit_half_widths
from headstart.features.extract import Features, Progress, extract_manifest
from headstart.features.near_duplicates import find_pairs
from headstart.models.boundary import Prefix
from headstart.recipe import Recipe, get_recipe
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, Task
from headstart.training.fit import Training, divide, join_manifests, train
from headstart.training.linear import LinearHead, choose_thresholds, fit_head
from headstart.training.measure import Answer, select_rows
from headstart.training.probe import import_solver_beside
from headstart.training.stopwatch import Stopwatch

Floats = npt.NDArray[np.floating]

# Fewer photos than this of a label say little about it.
_FEW = 20


def check_task_recipe(recipe: Recipe, task: Task, is_budgeted: bool) -> Recipe:
    """The recipe as it is followed: for tasks besides classification the head alone is trained.

    Raises:
        HeadstartError: Something else was asked for.
        MissingPackageError: What the recipe needs is not installed.
    """
    if recipe.fine_tune is not None or recipe.name == "search":
        require_package("tensorflow", "keras", purpose="fine-tuning")
    if recipe.name == "search":
        require_package("optuna", purpose="searching for settings")
    if task is CLASSIFICATION:
        return recipe
    if is_budgeted:
        raise HeadstartError(
            f"A budget is planned for the task classification only; the task {task.name} trains "
            "the head, which takes little more than one pass of the photos. Leave the budget out."
        )
    if recipe.name not in ("auto", "probe") or recipe.fine_tune is not None:
        raise HeadstartError(
            f"The recipe {recipe.name} is not made for the task {task.name}, of which only the "
            "head is trained. Use the recipe probe."
        )
    return get_recipe("probe") if recipe.name == "auto" else recipe


def choose_training(task: Task, **alone: Any) -> Callable[..., Training]:
    """What trains for a task: `headstart.training.fit.train` or `train_targets`.

    Args:
        task: What is told of a photo.
        alone: Arguments that the former alone has; `check_task_recipe` has refused what matters.
    """
    return partial(train, **alone) if task is CLASSIFICATION else train_targets


def train_targets(
    prefix: Prefix,
    manifest: Manifest,
    recipe: Recipe,
    *,
    seed: int,
    runtime: str,
    stopwatch: Stopwatch,
    test: Manifest | None = None,
    earlier: Any = None,
    use_all: bool = False,
    progress: Progress | None = None,
) -> Training:
    """Train the head of several labels or a number; see `headstart.training.fit.train`.

    Args:
        prefix: The frozen part.
        manifest: Labelled photos, with their task.
        recipe: From `check_task_recipe`.
        seed: Of the split and the folds.
        runtime: What computes the prefix.
        stopwatch: Where the seconds go.
        test: Photos of a separate test table.
        earlier: The record of an earlier split, which is gone on with.
        use_all: Set no test photos aside when none are given.
        progress: Called with ``(done, all)`` photos.

    Raises:
        DatasetError, CacheError, BoundaryError: With what to do.
    """
    task = manifest.task
    check_classes(manifest)
    everything = join_manifests(manifest, test)
    import_solver_beside()
    features = extract_manifest(prefix, everything, runtime=runtime, progress=progress)
    for name, seconds in features.seconds.items():
        stopwatch.seconds[name] += seconds
    with stopwatch.step("groups"):
        pairs = find_pairs(features)
    split = divide(features, pairs, (manifest, test), seed, earlier, use_all)
    names = list_names([sample.label for sample in split.train], task)
    with stopwatch.step("probe"):
        rows, targets = select_rows(features, split.train), _encode(split.train, names, task)
        folds = _deal(split, task, recipe.folds, seed)
        head = fit_head(rows, targets, folds, task)
    with stopwatch.step("trust"):
        trust = _judge(head, targets)
    with stopwatch.step("evaluate"):
        judge = _Judge(features, head, trust, names, seed)
        evaluation, answers = judge.evaluate(split.test, split)
        validation, _ = judge.evaluate(split.validation, split)
    return Training(
        class_names=names,
        probe=head,
        split=split,
        evaluation=evaluation,
        validation=validation,
        answers=answers,
        problems=(*features.problems, *split.set_aside),
        flags=features.flags,
        warnings=(
            *everything.warnings,
            *describe_leaks(split, features.samples, pairs),
            *_describe_counts(split, names, task, use_all),
        ),
        features=features,
        recipe=recipe,
        trust=trust,
        task=task,
    )


def _encode(samples: tuple[Sample, ...], names: tuple[str, ...], task: Task) -> Floats:
    return encode_targets([sample.label for sample in samples], names, task)


def _deal(split: Split, task: Task, most: int, seed: int) -> list[Fold]:
    labels = [sample.label for sample in split.train]
    groups = [split.groups[sample.digest] for sample in split.train]
    count = min(most, len(set(groups)))
    if count < 2:
        raise DatasetError(
            "All training photos are of one group, or near duplicates of each other. Add others."
        )
    strata = make_strata(labels, task)
    return list(deal_folds([strata(label) for label in labels], groups, count, seed))


def _judge(head: LinearHead, targets: Floats) -> LabelTrust | ValueTrust:
    """Thresholds and intervals from answers of heads that had not seen the photos."""
    if head.task is MULTILABEL:
        return LabelTrust(choose_thresholds(head.held_out, targets))
    residuals = targets[:, 0] - head.held_out[:, 0]
    mean, median = float(targets.mean()), float(np.median(targets))
    return ValueTrust(fit_half_widths(residuals), mean, median)


class _Judge:
    """Measures the head on photos that it has not seen."""

    def __init__(
        self,
        features: Features,
        head: LinearHead,
        trust: LabelTrust | ValueTrust,
        names: tuple[str, ...],
        seed: int,
    ) -> None:
        self._features, self._head, self._trust = features, head, trust
        self._names, self._seed = names, seed

    def evaluate(
        self, samples: tuple[Sample, ...], split: Split
    ) -> tuple[LabelsEvaluation | ValueEvaluation | None, tuple[Answer, ...]]:
        if not samples:
            return None, ()
        rows = self._head.predict(select_rows(self._features, samples))
        targets = _encode(samples, self._names, self._head.task)
        groups = [split.groups[sample.digest] for sample in samples]
        found = evaluate_answers(rows, targets, self._names, self._trust, self._seed, groups)
        answers = (
            self._answer(sample, row, truth)
            for sample, row, truth in zip(samples, rows, targets, strict=True)
        )
        return found, tuple(answers)

    def _answer(self, sample: Sample, row: Floats, truth: Floats) -> Answer:
        if not isinstance(self._trust, LabelTrust):
            return Answer(sample, f"{float(row[0]):.6g}", np.nan, np.nan)
        says = self._trust.choose(row)
        said = (name for name, is_said in zip(self._names, says, strict=True) if is_said)
        odds = measure_probability(row, says)
        return Answer(sample, ";".join(said), odds, measure_probability(row, truth > 0))


def _describe_counts(
    split: Split, names: tuple[str, ...], task: Task, use_all: bool
) -> Iterator[str]:
    """What should be known about the numbers of photos."""
    if task is REGRESSION:
        if len(split.train) < _FEW:
            yield f"Only {len(split.train)} training photos; more would help most."
    else:
        counts = _count(split.train, names)
        few = [name for name in names if counts[name] < _FEW]
        if few:
            shown = ", ".join(f"{name} ({counts[name]})" for name in few[:5])
            more = f" and {len(few) - 5} more" if len(few) > 5 else ""
            yield (
                f"Few training photos (under {_FEW}) with: {shown}{more}. Numbers on so few photos "
                "are rough; more photos would help most here."
            )
        tested = _count(split.test, names)
        untested = [name for name in names if split.test and not tested[name]]
        if untested:
            yield f"No test photos with: {', '.join(untested)}; nothing is known about them."
    if not split.test and not use_all:
        yield (
            "No photos were set aside for a test, because there are too few groups of photos: "
            "nothing is known about how good it is. Add photos, or give some with --test."
        )


def _count(samples: tuple[Sample, ...], names: tuple[str, ...]) -> Counter[str]:
    has = _encode(samples, names, MULTILABEL)
    return Counter(dict(zip(names, has.sum(0).astype(int).tolist(), strict=True)))
