"""The photo doctor: what should be looked at in a folder of labelled photos, from one cached pass.

Nothing is moved, changed or deleted: suggestions go into a new table of labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.data.duplicates import Pair, group_photos
from headstart.data.scan import Manifest, Sample
from headstart.data.split import check_classes, list_folds
from headstart.data.table import scan_source
from headstart.errors import DatasetError, say_count
from headstart.evaluation.label_errors import find_label_errors, find_outliers
from headstart.evaluation.novelty import measure_distances, normalise_rows
from headstart.features.extract import Features, Progress, extract_manifest
from headstart.features.near_duplicates import find_pairs
from headstart.features.quality import extract_quality
from headstart.models.loaders import load_prefix
from headstart.runtimes import AUTO, require_runtime
from headstart.training.findings import REMOVE, Examination, Finding, rank_findings
from headstart.training.once import choose_strength_once, hold_out_once
from headstart.training.probe import softmax

# Cross-validation with so many divisions into folds; their probabilities are averaged.
_REPEATS, _FOLDS, _NEIGHBOURS = 3, 5, 5
# From so many photos on: fewer repeats, and a part chooses the strength.
_MANY, _PART, _FOLDS_OF_MANY = 2000, 1000, 4
# Of the features; the rest changes no flag and takes half of the time (docs/doctor.md).
_VARIANCE = 0.97
_TINY, _DOMINATING = 20, 10.0
# Measured by benchmarks/quality.py on photos as they are, and blurred by known widths.
_BLUR, _MORE_THAN_USUAL, _BRIGHTNESS, _CONTRAST = 0.5, 0.15, 0.25, 0.05


def examine(
    photos: str | Path | Any,
    *,
    backbone: str = "efficientnet-lite0",
    runtime: str = AUTO,
    group_by: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Examination:
    """Look through labelled photos: copies, probable wrong labels, outliers, unreadable files.

    Args:
        photos: A folder with one folder per class, a CSV file or a DataFrame, as for training.
        backbone: Whose features are used.
        runtime: What computes them.
        group_by: As in `ImageClassifier`; photos of a group are held out together.
        seed: Of the folds.
        progress: Called with ``(done, all)`` photos.

    Raises:
        HeadstartError: One of its kinds, with what to do.

    Example::

        found = headstart.examine("photos/")
        found.count()
        found.write_corrected("corrected.csv")
    """
    require_runtime(runtime)
    manifest = scan_source(photos, group_by)
    check_classes(manifest)
    prefix = load_prefix(backbone)
    features = extract_manifest(prefix, manifest, runtime=runtime, progress=progress)
    if len({sample.label for sample in features.samples}) < 2:
        raise DatasetError(
            f"Fewer than two classes have photos that can be read; "
            f"{say_count(len(features.problems), 'file', 'files')} "
            "cannot be used."
        )
    quality = extract_quality(features.samples, prefix.image_size, progress)
    findings = [
        *_find_unreadable(manifest, features),
        *examine_features(features, seed),
        *find_poor(features.samples, quality),
        *_find_classes(features.samples),
    ]
    return Examination(features.samples, tuple(rank_findings(findings)), manifest.warnings)


def examine_features(features: Features, seed: int) -> list[Finding]:
    """What features tell: copies, probable wrong labels, outliers; the highest scores first."""
    pairs = find_pairs(features)
    copies = _find_copies(features.samples, pairs)
    return rank_findings([*copies, *_find_labels(features, pairs, seed)])


def _find_unreadable(manifest: Manifest, features: Features) -> Iterator[Finding]:
    for kind, found in (("unreadable", features.problems), ("corrupt", features.flags)):
        label_of = {sample.path: sample.label for sample in manifest.samples}
        for problem in found:
            label = label_of.get(problem.path, "")
            yield Finding(kind, 1.0, problem.path, None, label, None, problem.reason)


def _find_copies(samples: Sequence[Sample], pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Each photo is paired with the first of its copies; equal bytes before near ones."""
    first: dict[str, Sample] = {}
    for sample in samples:
        before = first.setdefault(sample.digest, sample)
        if before is not sample:
            yield _describe_pair(before, sample, 1.0, "the same bytes")
    for pair in pairs:
        one, other = samples[pair.row], samples[pair.other]
        if one.digest != other.digest:
            yield _describe_pair(one, other, min(pair.similarity, 1.0), f"near ({pair.kind})")


def _describe_pair(one: Sample, other: Sample, score: float, how: str) -> Finding:
    kind, suggestion = "duplicate", REMOVE if score == 1.0 else None
    says = f"{how} as {one.path.name}" if score == 1.0 else f"{how} to {one.path.name}"
    if one.label != other.label:
        kind, suggestion = "duplicate across classes", None
        says += f", which is labelled {one.label}"
    elif one.side != other.side:
        kind, suggestion = "duplicate across sides", None
        says += f", which is on the side {one.side}"
    return Finding(kind, score, other.path, one.path, other.label, suggestion, says)


def _find_labels(features: Features, pairs: Sequence[Pair], seed: int) -> Iterator[Finding]:
    samples, rows = features.samples, features.array.astype(np.float32)
    names = tuple(sorted({sample.label for sample in samples}))
    labels = np.array([names.index(sample.label) for sample in samples], np.intp)
    named = [sample.group for sample in samples]
    groups = group_photos([sample.digest for sample in samples], pairs, named)
    odds = hold_out_probabilities(rows, labels, groups, len(names), seed)
    if odds is not None:
        found = find_label_errors(odds, labels)
        for row in np.flatnonzero(found.flagged):
            other, label = names[found.suggestions[row]], samples[row].label
            ours, theirs = odds[row, labels[row]], odds[row, found.suggestions[row]]
            says = f"looks like {other} ({theirs:.0%}) rather than {label} ({ours:.0%})"
            score = float(found.suspicion[row])
            yield Finding("label", score, samples[row].path, None, label, other, says)
    unit = normalise_rows(rows)
    near = min(_NEIGHBOURS, max(1, len(set(groups)) - 1))
    distances = measure_distances(unit, unit, neighbours=near, groups=(groups, groups))
    flagged, scores = find_outliers(distances)
    for row in np.flatnonzero(flagged):
        sample, says = samples[row], "far from every other photo"
        yield Finding("outlier", float(scores[row]), sample.path, None, sample.label, None, says)


def find_poor(samples: Sequence[Sample], figures: npt.NDArray[np.float32]) -> Iterator[Finding]:
    """Blank, dark and blurred photos; a photo is named for the first of these that it is.

    Args:
        samples: The photos.
        figures: ``(sample, 3)`` blur, brightness, contrast, see `headstart.data.quality`.
    """
    known = np.isfinite(figures).all(1)
    if not known.any():
        return
    # Where all photos are soft, as small ones that were enlarged, only softer ones stand out.
    limit = max(_BLUR, float(np.median(figures[known, 0])) + _MORE_THAN_USUAL)
    for sample, (blur, brightness, contrast) in zip(samples, figures.tolist(), strict=True):
        if contrast < _CONTRAST:
            found = "blank", 1 - contrast / _CONTRAST, f"nothing but one grey ({brightness:.0%})"
        elif brightness < _BRIGHTNESS:
            says = f"its brightest parts have {brightness:.0%} of white"
            found = "dark", 1 - brightness / _BRIGHTNESS, says
        elif blur > limit:
            says = f"blur {blur:.2f}, more than {limit:.2f}; no detail that a sharp photo has"
            found = "blurred", blur, says
        else:
            continue
        kind, score, says = found
        yield Finding(kind, score, sample.path, None, sample.label, None, says)


def hold_out_probabilities(
    rows: npt.NDArray[np.float32],
    labels: npt.NDArray[np.intp],
    groups: Sequence[str],
    num_classes: int,
    seed: int,
) -> npt.NDArray[np.floating] | None:
    """``(sample, class)`` by heads that have not seen the sample; None where there are too few.

    The mean over several divisions into folds, at the strength that the first of them chooses. Of
    more than 2,000 photos one division is as good as three (docs/doctor.md), and a part of them
    chooses the strength.
    """
    fewest = _count_fewest(labels, groups, np.arange(len(labels)))
    if fewest < 2:
        return None
    turns, count = (_REPEATS, _FOLDS) if len(labels) <= _MANY else (1, _FOLDS_OF_MANY)
    count = min(count, fewest)
    repeats = [list(list_folds(labels, groups, count, seed + turn)) for turn in range(turns)]
    strength = _choose_strength_once(rows, labels, groups, num_classes, seed)
    logits = hold_out_once(rows, labels, num_classes, repeats, strength, _VARIANCE)
    return np.asarray(softmax(logits.astype(np.float64)).mean(0))


def _choose_strength_once(
    rows: npt.NDArray[np.float32],
    labels: npt.NDArray[np.intp],
    groups: Sequence[str],
    num_classes: int,
    seed: int,
) -> float:
    """Of the heads' regularisation, by cross-validation on 1,000 photos where there are many."""
    part, count = np.arange(len(labels)), _FOLDS
    if len(labels) > _MANY:
        count = _FOLDS_OF_MANY
        smaller = next(iter(list_folds(labels, groups, len(labels) // _PART, seed)))[1]
        # Where a class is too small to be divided like that, all photos are taken.
        if _count_fewest(labels, groups, smaller) >= 2:
            part = smaller
    fewest = _count_fewest(labels, groups, part)
    chosen = [groups[row] for row in part.tolist()]
    folds = list_folds(labels[part], chosen, min(count, fewest), seed)
    return choose_strength_once(rows[part], labels[part], num_classes, folds, _VARIANCE)


def _count_fewest(
    labels: npt.NDArray[np.intp], groups: Sequence[str], rows: npt.NDArray[np.intp]
) -> int:
    """Groups in the class that has fewest among some rows; 0 where a class is missing."""
    pairs = {(int(labels[row]), groups[row]) for row in rows}
    counts = Counter(label for label, _ in pairs)
    return 0 if len(counts) < len(np.unique(labels)) else min(counts.values())


def _find_classes(samples: Sequence[Sample]) -> Iterator[Finding]:
    counts = Counter(sample.label for sample in samples)
    usual = float(np.median(list(counts.values())))
    for label, count in sorted(counts.items()):
        if count < _TINY:
            says = f"{count} photos; figures on fewer than {_TINY} are rough, more would help most"
            yield Finding("class", 1 - count / _TINY, Path(label), None, label, None, says)
        elif count > _DOMINATING * usual:
            says = f"{count} photos, more than ten times as many as the usual class ({usual:.0f})"
            yield Finding("class", 1 - usual / count, Path(label), None, label, None, says)
