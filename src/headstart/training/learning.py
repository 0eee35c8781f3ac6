"""The learning curve of the probe, from cached features."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headstart.data.split import list_folds
from headstart.evaluation.learning_curve import LearningCurve, fit_learning_curve
from headstart.training.once import hold_out_once
from headstart.training.probe import Fold

Floats = npt.NDArray[np.floating]

SHARES = (0.1, 0.15, 0.25, 0.4, 0.6, 1.0)
_FOLDS, _MOST_PHOTOS = 5, 5000


def measure_learning_curve(
    features: Floats,
    labels: npt.NDArray[np.intp],
    groups: Sequence[str],
    strength: float,
    photos: int,
    seed: int,
) -> LearningCurve | None:
    """Accuracy of probes on growing parts of the photos; every photo is held out once per size.

    Args:
        features: ``(sample, feature)``.
        labels: ``(sample,)`` class numbers, from 0 on without a gap.
        groups: ``(sample,)`` what belongs together.
        strength: Of the regularisation.
        photos: Number of training photos that the forecast starts from.
        seed: Of folds and parts.

    Returns:
        None where a class has too few groups to be held out. Of more than 5,000 photos a part of
        5,000 is used.
    """
    rng = np.random.default_rng(seed)
    if len(labels) > _MOST_PHOTOS:
        rows = np.sort(rng.permutation(len(labels))[:_MOST_PHOTOS])
        groups = [groups[row] for row in rows]
        features, labels = features[rows], labels[rows]
    pairs = set(zip(labels.tolist(), groups, strict=True))
    counts = Counter(label for label, _ in pairs)
    num_classes = len(counts)
    if min(counts.values()) < 2 or max(labels) >= num_classes:
        return None
    folds = list(list_folds(labels, groups, min(_FOLDS, *counts.values()), seed))
    fewest = min(Counter(labels.tolist()).values()) * (1 - 1 / len(folds))
    shares = [share for share in SHARES if share * fewest >= 2] or [1.0]
    repeats = [_cut_folds(folds, labels, groups, share, seed) for share in shares]
    logits = hold_out_once(features, labels, num_classes, repeats, strength)
    hits = logits.argmax(2) == labels
    sizes = [round(float(np.mean([len(train) for train, _ in fold]))) for fold in repeats]
    # Where test photos are many, the largest part has more photos than were trained on.
    return fit_learning_curve(sizes, hits, np.asarray(groups), max(photos, sizes[-1]), seed)


def _cut_folds(
    folds: Sequence[Fold],
    labels: npt.NDArray[np.intp],
    groups: Sequence[str],
    share: float,
    seed: int,
) -> list[Fold]:
    """The folds with a part of their training photos: whole groups, the same share of each class.

    A larger share contains the smaller ones.
    """
    cut = []
    for number, (train, held_out) in enumerate(folds):
        order = np.random.default_rng([seed, number]).permutation(train)
        by_class: dict[int, list[str]] = defaultdict(list)
        for row in order:
            by_class[int(labels[row])].append(groups[row])
        kept: set[str] = set()
        for members in by_class.values():
            names = list(dict.fromkeys(members))
            kept |= set(names[: max(1, round(share * len(names)))])
        cut.append((np.array([row for row in train if groups[row] in kept], np.intp), held_out))
    return cut
