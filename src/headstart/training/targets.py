"""Follow a recipe where photos have several labels or a number: photos → features → head → figures.

As `headstart.training.fit`, with another head and other figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from headstart.features.extract import Progress, extract_manifest
from headstart.features.near_duplicates import find_pairs
from headstart.interrupts import holding
from headstart.models.boundary import Prefix
from headstart.recipe import FineTune, Recipe, get_recipe
from headstart.stopwatch import Stopwatch
from headstart.task import CLASSIFICATION, MULTILABEL, REGRESSION, Task
from headstart.training.fine_tune import check_unfreeze, tune
from headstart.training.fit import Training, divide, join_manifests, list_photos, train
from headstart.training.graph import build_graph
from headstart.training.linear import LinearHead, activate, choose_thresholds
from headstart.training.measure import Answer, Outputs, select_rows
from headstart.training.notes import describe_engine, describe_untested
from headstart.training.objective import encode_samples
from headstart.training.once import fit_head_once
from headstart.training.plan import guess_pace
from headstart.training.probe import import_solver_beside
from headstart.training.tuning import Callbacks, Options, Tuning

Floats = npt.NDArray[np.floating]

# Fewer photos than this of a label say little about it.
_FEW = 20


def check_task_recipe(recipe: Recipe, task: Task, is_budgeted: bool) -> Recipe:
    """The recipe as it is followed; for tasks besides classification ``auto`` trains the head.

    With nothing of the backbone to train it is the probe.

    Raises:
        HeadstartError: Something else was asked for.
        MissingPackageError: What the recipe needs is not installed.
    """
    if recipe.fine_tune is not None and recipe.fine_tune.is_nothing:
        recipe = get_recipe("probe")
    if recipe.fine_tune is not None or recipe.name == "search":
        require_package("tensorflow", "keras", purpose="fine-tuning")
    if recipe.name == "search":
        require_package("optuna", purpose="searching for settings")
    if task is CLASSIFICATION:
        return recipe
    if is_budgeted:
        raise HeadstartError(
            f"A budget is planned for the task classification only; for the task {task.name} the "
            "head takes little more than one pass of the photos. Leave the budget out, and choose "
            "the recipe probe or tune."
        )
    if recipe.name not in ("auto", "probe", "tune"):
        raise HeadstartError(
            f"The recipe {recipe.name} is not made for the task {task.name}. Use the recipe probe "
            "or tune."
        )
    settings = recipe.fine_tune
    if task is REGRESSION and settings is not None and settings.label_smoothing:
        if settings.label_smoothing != FineTune().label_smoothing:
            raise HeadstartError(
                f"label_smoothing is {settings.label_smoothing:g}; of numbers there is none: leave "
                "it out, or set it to 0."
            )
        recipe = replace(recipe, fine_tune=replace(settings, label_smoothing=0.0))
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
    callbacks: Callbacks = (),
) -> Training:
    """Train for several labels or a number; see `headstart.training.fit.train`.

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
        callbacks: Called with every `Epoch` of fine-tuning.

    Raises:
        DatasetError, CacheError, BoundaryError: With what to do.
    """
    task = manifest.task
    check_classes(manifest)
    check_unfreeze(prefix, recipe)
    everything = join_manifests(manifest, test)
    features = extract_manifest(
        prefix, everything, runtime=runtime, progress=import_solver_beside(progress)
    )
    for name, seconds in features.seconds.items():
        stopwatch.seconds[name] += seconds
    with stopwatch.step("groups"):
        pairs = find_pairs(features)
    split = divide(features, pairs, (manifest, test), seed, earlier, use_all)
    names = list_names([sample.label for sample in split.train], task)
    with stopwatch.step("probe"):
        rows, targets = select_rows(features, split.train), _encode(split.train, names, task)
        folds = _deal(split, task, recipe.folds, seed)
        head = fit_head_once(rows, targets, folds, task)
    tuning = None
    if recipe.fine_tune is not None:
        options = Options(runtime, progress, callbacks, guess_pace(prefix, runtime))
        photos = list_photos(features, split, names, task)
        with stopwatch.step("fine_tune"):
            tuning = tune(prefix, photos, head, recipe.fine_tune, seed=seed, options=options)
    with stopwatch.step("trust"), holding("measuring"):
        trust, tuning = _learn_trust(head, tuning, split, names)
        is_tuned = tuning is not None and tuning.share > 0
        graph = build_graph(prefix, tuning, task) if tuning is not None and is_tuned else b""
    with stopwatch.step("evaluate"), holding("measuring"):
        network = Outputs(features, head, graph, prefix.image_size, task)
        judge = _Judge(network, trust, names, seed)
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
            *describe_engine(tuning),
        ),
        features=features,
        recipe=recipe,
        tuning=tuning,
        graph=graph,
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


def _learn_trust(
    head: LinearHead, tuning: Tuning | None, split: Split, names: tuple[str, ...]
) -> tuple[LabelTrust | ValueTrust, Tuning | None]:
    """Thresholds and intervals from answers of what had not seen the photos.

    Mixup and smoothing make a tuned network's probabilities too modest: the temperature that
    photos held out ask for divides its head.
    """
    targets = _encode(split.train, names, head.task)
    rows, known = head.held_out, targets
    if tuning is not None and tuning.share:
        rows, known = np.empty((0, len(names))), targets[:0]
        if tuning.held_out is not None:
            numbers, outputs = tuning.held_out
            samples = (*split.train, *split.validation)
            chosen = tuple(samples[number] for number in numbers)
            encoded = encode_samples(chosen, names, head.task, len(chosen))
            temperature = np.float32(encoded.fit_temperature(outputs))
            known, rows = (
                _encode(chosen, names, head.task),
                activate(outputs / temperature, head.task),
            )
            kernel, bias = tuning.kernel / temperature, tuning.bias / temperature
            tuning = replace(tuning, kernel=kernel, bias=bias)
    if head.task is MULTILABEL:
        return LabelTrust(choose_thresholds(rows, known)), tuning
    widths = fit_half_widths(known[:, 0] - rows[:, 0])
    return ValueTrust(widths, float(targets.mean()), float(np.median(targets))), tuning


class _Judge:
    """Measures the result on photos that it has not seen."""

    def __init__(
        self, network: Outputs, trust: LabelTrust | ValueTrust, names: tuple[str, ...], seed: int
    ) -> None:
        self._network, self._trust, self._names, self._seed = network, trust, names, seed

    def evaluate(
        self, samples: tuple[Sample, ...], split: Split
    ) -> tuple[LabelsEvaluation | ValueEvaluation | None, tuple[Answer, ...]]:
        if not samples:
            return None, ()
        _, rows = self._network.compute(samples)
        targets = _encode(samples, self._names, self._network.task)
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
        yield describe_untested(split, "there are too few groups of photos", "how good it is")


def _count(samples: tuple[Sample, ...], names: tuple[str, ...]) -> Counter[str]:
    has = _encode(samples, names, MULTILABEL)
    return Counter(dict(zip(names, has.sum(0).astype(int).tolist(), strict=True)))
