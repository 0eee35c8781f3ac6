"""Follow a recipe: photos → features → split → head → evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.budget import Budget
from headstart.data.duplicates import Pair, group_photos
from headstart.data.leaks import describe_leaks
from headstart.data.scan import Manifest, Problem, Sample
from headstart.data.split import Split, check_classes, list_folds, split_manifest
from headstart.errors import DatasetError
from headstart.evaluation.intervals import Estimate
from headstart.evaluation.novelty import choose_references
from headstart.evaluation.tasks import AnyEvaluation, AnyTrust
from headstart.evaluation.trust import Trust
from headstart.features.extract import Features, Progress
from headstart.features.near_duplicates import find_pairs
from headstart.interrupts import holding
from headstart.models.boundary import Prefix
from headstart.recipe import Recipe
from headstart.stopwatch import Stopwatch
from headstart.task import CLASSIFICATION, REGRESSION, Task, require_task
from headstart.training.anytime import FirstPass
from headstart.training.backbone_choice import BackboneChoice
from headstart.training.climb import Climb
from headstart.training.fine_tune import check_unfreeze
from headstart.training.foresee import foretell
from headstart.training.graph import build_graph
from headstart.training.linear import LinearHead
from headstart.training.measure import (
    ENOUGH_TESTED,
    Answer,
    Contrast,
    Judge,
    Outputs,
    cross_validate_probe,
    select_rows,
)
from headstart.training.notes import describe_classes, describe_engine, describe_lost
from headstart.training.once import fit_probe_once
from headstart.training.plan import Plan, guess_pace
from headstart.training.probe import Probe, import_solver_beside
from headstart.training.trust import (
    References,
    collect_held_out,
    fold_temperature,
    judge_held_out,
    learn_novelty,
    list_labels,
)
from headstart.training.tuning import Callbacks, Options, Photos, Tuning

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Training:
    """What a training run gave.

    Attributes:
        class_names: Sorted; the order of the probabilities.
        probe: The head.
        split: Who was on which side.
        evaluation: On the test photos; None when there are none.
        validation: On the validation photos; None when there are none.
        answers: What was answered for each test photo.
        problems: Files that were not used, with reasons: unreadable ones, and those that a merged
            group has set aside.
        flags: Photos that were used although they may be corrupt, with reasons.
        warnings: Sentences the user should read.
        features: The features that were used, or their record.
        recipe: What was done: ``auto`` with the step that it chose.
        plan: What was predicted and what came of it; None without a budget.
        backbone_choice: How the backbone was chosen; None where it was named.
        tuning: What fine-tuning gave; None without that stage.
        graph: The whole network as ONNX, where fine-tuning changed it.
        trust: Thresholds of "not sure"; None where too few photos were held out.
        references: Training photos that new ones are compared with; None without `trust`.
        comparison: The result beside simpler ones, on the test photos.
        cross_validation: Accuracy of the probe over all photos, repeatedly cross-validated; None
            where the test photos are many enough.
        task: What is told of a photo.
    """

    class_names: tuple[str, ...]
    probe: Probe | LinearHead
    split: Split
    evaluation: AnyEvaluation | None
    validation: AnyEvaluation | None
    answers: tuple[Answer, ...]
    problems: tuple[Problem, ...]
    flags: tuple[Problem, ...]
    warnings: tuple[str, ...]
    features: Features
    recipe: Recipe
    plan: Plan | None = None
    backbone_choice: BackboneChoice | None = None
    tuning: Tuning | None = None
    graph: bytes = field(default=b"", repr=False)
    trust: AnyTrust | None = None
    references: References | None = field(default=None, repr=False)
    comparison: tuple[Contrast, ...] = ()
    cross_validation: Estimate | None = None
    task: Task = CLASSIFICATION

    @property
    def mistakes(self) -> tuple[Answer, ...]:
        """Test photos that were answered wrongly, the most confident first.

        Of a regression all of them, the largest error first.
        """
        if self.task is REGRESSION:
            return tuple(sorted(self.answers, key=lambda answer: -answer.error))
        wrong = (answer for answer in self.answers if not answer.is_right)
        return tuple(sorted(wrong, key=lambda answer: -answer.probability))


def train(
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
    budget: Budget | None = None,
    on_plan: Callable[[Plan], None] | None = None,
) -> Training:
    """Train by a recipe.

    Args:
        prefix: The frozen part.
        manifest: Labelled photos.
        recipe: What is trained.
        seed: Of the split and the folds.
        runtime: What computes the prefix.
        stopwatch: Where the seconds go.
        test: Photos of a separate test folder.
        earlier: The record of an earlier split, which is gone on with, see `split_manifest`.
        use_all: Set no test photos aside when none are given.
        progress: Called with ``(done, all)`` photos.
        callbacks: Called with every `Epoch` of fine-tuning.
        budget: What it may take.
        on_plan: Called with what is planned, before anything long starts.

    Raises:
        DatasetError, CacheError, BoundaryError, BudgetError: With what to do.
    """
    require_task(manifest.task, "This training")
    check_classes(manifest)
    check_unfreeze(prefix, recipe)
    everything = join_manifests(manifest, test)
    with stopwatch.step("prefix"):
        plan = foretell(prefix, everything, recipe, budget, seed=seed, runtime=runtime)
    if plan is not None and on_plan is not None:
        on_plan(plan)
    features, unseen = FirstPass(prefix, everything, budget, plan).extract(
        seed=seed, runtime=runtime, progress=import_solver_beside(progress)
    )
    for name, seconds in features.seconds.items():
        stopwatch.seconds[name] += seconds
    with stopwatch.step("groups"):
        pairs = find_pairs(features)
    if plan is not None:
        plan.note_pass(stopwatch.seconds)
    split = divide(features, pairs, (manifest, test), seed, earlier, use_all)
    # Only classes that can be learnt; a tested class without training photos was refused above.
    class_names = tuple(sorted({sample.label for sample in split.train}))
    with stopwatch.step("probe"):
        probe = _fit(features, split, class_names, recipe, seed)
    tuning = None
    stopped: tuple[str, ...] = ()
    if recipe.fine_tune is not None or recipe.name in ("auto", "search"):
        options = Options(runtime, progress, callbacks, guess_pace(prefix, runtime))
        photos = list_photos(features, split, class_names)
        climb = Climb(prefix, photos, probe, seed, options, budget, len(split.test))
        with stopwatch.step("fine_tune"):
            climb.follow(recipe)
        stopwatch.move("fine_tune", climb.seconds)
        tuning, recipe = climb.best or climb.last, climb.name_recipe(recipe)
        stopped = climb.warnings
        if plan is not None:
            plan.set_further(climb.steps)
    with stopwatch.step("trust"), holding("measuring"):
        trust, plain = _judge(probe, tuning, split, class_names), probe
        if trust is not None:
            probe, tuning = fold_temperature(probe, tuning, trust.temperature)
        is_tuned = tuning is not None and tuning.share > 0
        graph = build_graph(prefix, tuning) if tuning is not None and is_tuned else b""
        network = Outputs(features, probe, graph, prefix.image_size)
        trust, references = _refer(trust, network, split, class_names, seed)
    with stopwatch.step("evaluate"), holding("measuring"):
        judge = Judge(network, trust, references, class_names, seed)
        evaluation, answers, probabilities = judge.evaluate(split.test, split.groups)
        validation, _, _ = judge.evaluate(split.validation, split.groups)
        before = Outputs(features, plain, b"", prefix.image_size) if is_tuned else None
        comparison = judge.compare(split, probabilities, before)
        cross_validation = None
        if len(split.test) < ENOUGH_TESTED:
            cross_validation = cross_validate_probe(features, split, class_names, probe, seed)
    warnings = (
        *everything.warnings,
        *unseen,
        *describe_leaks(split, features.samples, pairs),
        *describe_lost(everything, features.problems),
        *describe_classes(split, class_names, use_all),
        *describe_engine(tuning),
        *stopped,
    )
    return Training(
        class_names=class_names,
        probe=probe,
        split=split,
        evaluation=evaluation,
        validation=validation,
        answers=answers,
        problems=(*features.problems, *split.set_aside),
        flags=features.flags,
        warnings=warnings,
        features=features,
        recipe=recipe,
        plan=plan,
        tuning=tuning,
        graph=graph,
        trust=trust,
        references=references,
        comparison=comparison,
        cross_validation=cross_validation,
    )


def divide(
    features: Features,
    pairs: Sequence[Pair],
    manifests: tuple[Manifest, Manifest | None],
    seed: int,
    earlier: Any,
    use_all: bool,
) -> Split:
    """The split of the photos that have features; near duplicates stay together.

    Args:
        features: Of all photos.
        pairs: Near duplicates among them.
        manifests: The labelled photos, and those of a separate test, or None.
        seed: Of the choice.
        earlier: See `train`.
        use_all: Likewise.

    Raises:
        DatasetError: See `split_manifest`.
    """
    manifest, test = manifests
    readable = {sample.path for sample in features.samples}
    kept = replace(manifest, samples=_keep(manifest, readable), problems=features.problems)
    tested = replace(test, samples=_keep(test, readable)) if test else None
    groups = _group(features, pairs)
    return split_manifest(kept, seed, tested, groups=groups, earlier=earlier, use_all=use_all)


def _judge(
    probe: Probe, tuning: Tuning | None, split: Split, class_names: tuple[str, ...]
) -> Trust | None:
    samples = (*split.train, *split.validation)
    groups = np.array([split.groups[sample.digest] for sample in samples])
    labels = list_labels(samples, class_names)
    return judge_held_out(collect_held_out(probe, tuning, labels, groups))


def _group(features: Features, pairs: Sequence[Pair]) -> dict[str, str]:
    """The group of each photo, by digest."""
    digests = [sample.digest for sample in features.samples]
    found = group_photos(digests, pairs, [sample.group for sample in features.samples])
    return dict(zip(digests, found, strict=True))


def _refer(
    trust: Trust | None, network: Outputs, split: Split, class_names: tuple[str, ...], seed: int
) -> tuple[Trust | None, References | None]:
    if trust is None:
        return None, None
    rows = choose_references(list_labels(split.train, class_names), seed)
    samples = tuple(split.train[row] for row in rows)
    groups = np.array([split.groups[sample.digest] for sample in samples])
    return learn_novelty(trust, rows, network.compute(samples)[0], groups)


def join_manifests(manifest: Manifest, test: Manifest | None) -> Manifest:
    """The photos of both.

    Raises:
        DatasetError: There are no test photos.
    """
    if test is None:
        return manifest
    if not test.samples:
        raise DatasetError("The test folder has no photos in class folders.")
    return replace(
        manifest,
        samples=(*manifest.samples, *test.samples),
        problems=(*manifest.problems, *test.problems),
        warnings=(*manifest.warnings, *test.warnings),
    )


def _keep(manifest: Manifest, readable: set[Path]) -> tuple[Sample, ...]:
    return tuple(sample for sample in manifest.samples if sample.path in readable)


def _fit(
    features: Features, split: Split, class_names: tuple[str, ...], recipe: Recipe, seed: int
) -> Probe:
    rows, labels = select_rows(features, split.train), list_labels(split.train, class_names)
    groups = [split.groups[sample.digest] for sample in split.train]
    sizes = Counter(label for label, _ in set(zip(labels.tolist(), groups, strict=True)))
    # A class of one group is in the training rows of every fold, and does not limit their number.
    count = min([recipe.folds, *(size for size in sizes.values() if size > 1)])
    folds = list_folds(labels, groups, count, seed) if max(sizes.values()) > 1 else ()
    return fit_probe_once(rows, labels, len(class_names), folds)


def list_photos(
    features: Features, split: Split, class_names: tuple[str, ...], task: Task = CLASSIFICATION
) -> Photos:
    """The photos of a fine-tuning stage."""
    rows = select_rows(features, split.train)
    groups = [split.groups[sample.digest] for sample in (*split.train, *split.validation)]
    return Photos(split.train, split.validation, tuple(groups), rows, class_names, task)
