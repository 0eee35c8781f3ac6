"""Does a photo look like those that were trained on? Distance to the nearest of them.

Features are scaled to length 1, and the distance is that to the k-th nearest training photo (Sun,
Ming, Zhu and Li 2022, https://arxiv.org/abs/2204.06507). What is usual is learnt from the training
photos themselves, each measured against those of other groups. Photos of something quite different
are found well; a kind of thing that resembles the classes, hardly (docs/trust.md has figures).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

NEIGHBOURS = 5
# Reference photos that are kept: more would make bundles large and prediction slow for little.
MOST_REFERENCES = 4000
# This share of photos like the training photos is called novel.
FALSE_ALARMS = 0.05
# Rows that are compared with all references at once.
_BLOCK = 512
_FEW = 8


def normalise_rows(features: Floats) -> npt.NDArray[np.float32]:
    """``(sample, feature)`` rows of length 1; a row of zeros stays.

    >>> normalise_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    rows = features.astype(np.float32)
    lengths = np.sqrt(np.einsum("sf,sf->s", rows, rows))[:, None]
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def choose_references(
    labels: npt.NDArray[np.integer], seed: int, most: int = MOST_REFERENCES
) -> npt.NDArray[np.intp]:
    """Rows to keep: all, or so many that each class has its share, drawn by the seed.

    >>> len(choose_references(np.arange(10) % 2, seed=0, most=4))
    4
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.random.default_rng([seed, 11]).permutation(len(labels))
    # In turns through the classes: the n-th photos of all classes come before the next ones.
    turns = np.empty(len(labels), np.intp)
    for number in np.unique(labels):
        members = order[labels[order] == number]
        turns[members] = np.arange(len(members))
    position = np.argsort(order)
    chosen = np.lexsort((position, turns))[:most]
    return np.sort(chosen)


def measure_distances(
    features: Floats,
    references: Floats,
    *,
    neighbours: int = NEIGHBOURS,
    groups: tuple[Sequence[Any], Sequence[Any]] | None = None,
) -> npt.NDArray[np.float32]:
    """``(sample,)`` Euclidean distance to the k-th nearest reference, between 0 and 2.

    Args:
        features: ``(sample, feature)``, of any length.
        references: ``(reference, feature)`` of length 1.
        neighbours: k; where there are fewer references, the farthest of them counts.
        groups: Groups of the samples and of the references; a reference of a sample's own group is
            passed over. A sample without any other gets 2.

    >>> square = np.eye(4, dtype=np.float32)
    >>> [round(float(d), 3) for d in measure_distances(square[:1], square, neighbours=2)]
    [1.414]
    """
    found = np.empty(len(features), np.float32)
    own: Any = None
    if groups is not None:
        names = {name: i for i, name in enumerate(dict.fromkeys((*groups[0], *groups[1])))}
        own, others = (np.array([names[n] for n in side], np.intp) for side in groups)
    for start in range(0, len(features), _BLOCK):
        part = slice(start, start + _BLOCK)
        similar = _compare(features[part], references)
        if own is not None:
            similar[own[part, None] == others[None, :]] = -1.0
        rank = min(neighbours, similar.shape[1])
        nearest = np.partition(similar, similar.shape[1] - rank, axis=1)[:, -rank]
        found[part] = np.sqrt(np.maximum(2 - 2 * nearest, 0))
    return found


def _compare(features: Floats, references: Floats) -> npt.NDArray[np.float32]:
    """``(sample, reference)`` cosines."""
    rows, known = normalise_rows(features), references.astype(np.float32, copy=False)
    if len(rows) > _FEW:
        return np.asarray(rows @ known.T, np.float32)
    # Not by BLAS: for a photo or two between others its threads wait actively, for longer than the
    # network takes, on cores that have other things to do. In parts that stay near the core.
    found = np.empty((len(rows), len(known)), np.float32)
    for start in range(0, len(known), _BLOCK):
        part = slice(start, start + _BLOCK)
        np.einsum("sf,rf->sr", rows, known[part], out=found[:, part])
    return found


def find_nearest(features: Floats, references: Floats, count: int = 3) -> npt.NDArray[np.intp]:
    """``(sample, count)`` rows of the most similar references, the most similar first."""
    similar = _compare(features, references)
    return np.argsort(-similar, axis=1, kind="stable")[:, :count]


def fit_limit(distances: Floats, false_alarms: float = FALSE_ALARMS) -> float:
    """The distance that only this share of the training photos exceeds.

    >>> float(fit_limit(np.arange(101) / 100, 0.05))
    0.95
    """
    # Above zero, even where all photos are alike: it is what others are measured by.
    return max(float(np.quantile(distances.astype(np.float64), 1 - false_alarms)), 1e-6)
